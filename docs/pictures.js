// Pictures of 784 gray values, from 0 to 255, in the colors of page.css.

const SIDE = 28;
const tile = document.createElement("canvas");
[tile.width, tile.height] = [SIDE, SIDE];
const tileContext = tile.getContext("2d", { willReadFrequently: true });
const picture = tileContext.createImageData(SIDE, SIDE);
const pixels = new Uint32Array(picture.data.buffer);
const style = getComputedStyle(document.documentElement);

/** A color of page.css. */
export const css = (name) => style.getPropertyValue(name).trim();

const tables = new Map();

/** The 256 colors between the colors of page.css that are named, #rrggbb, as pixels: red is the lowest byte. */
function colors(...names) {
  const stops = names.map(css);
  if (!tables.has(`${stops}`)) tables.set(`${stops}`, blend(stops));
  return tables.get(`${stops}`);
}

function blend(stops) {
  const channels = stops.map((color) => color.match(/[\da-f]{2}/gi).map((hex) => parseInt(hex, 16)));
  return Uint32Array.from({ length: 256 }, (_, gray) => {
    const place = (gray / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(place), stops.length - 2);
    const [red, green, blue] = channels[k].map((from, i) => Math.round(from + (channels[k + 1][i] - from) * (place - k)));
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
}

/** Ink on paper: 0 is paper, 255 is ink. */
export const ink = (paper = "--card") => colors(paper, "--ink");

/** 0 is blue, which removes ink; 255 is orange, which adds it. */
export const blueAndOrange = () => colors("--blue", "--card", "--orange");

/** Draw a picture into a square of a canvas. */
export function drawTile(context, x, y, size, values, table) {
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[values[i]];
  tileContext.putImageData(picture, 0, 0);
  context.drawImage(tile, x, y, size, size);
}

/** Draw a picture as a canvas of its own. */
export function drawPicture(canvas, values, table = ink()) {
  [canvas.width, canvas.height] = [SIDE, SIDE];
  drawTile(canvas.getContext("2d"), 0, 0, SIDE, values, table);
}

/** Empty a canvas, as sharp as the screen. Returns its context, and its height in CSS pixels. */
export function clear(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((length) => Math.round(length * devicePixelRatio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.resetTransform();
  context.clearRect(0, 0, width, height);
  context.scale(devicePixelRatio, devicePixelRatio);
  return [context, canvas.clientHeight];
}

// Pictures of 784 gray values, from 0 to 255, in the colors of page.css.

export const $ = (id) => document.getElementById(id);

const tile = new OffscreenCanvas(28, 28);
const tileContext = tile.getContext("2d", { willReadFrequently: true });
const picture = tileContext.createImageData(28, 28);
const pixels = new Uint32Array(picture.data.buffer);
const known = new Map(); // colors of page.css, which are read hundreds of times for one sheet
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => known.clear());
const remember = (key, find) => known.get(key) ?? known.set(key, find()).get(key);

/** A color of page.css. */
export function css(name) {
  return remember(name, () => getComputedStyle(document.documentElement).getPropertyValue(name).trim());
}

/** The 256 colors from one color of page.css to the next, as pixels. */
const colors = (...names) => remember(`${names}`, () => {
  const context = new OffscreenCanvas(256, 1).getContext("2d");
  context.fillStyle = context.createLinearGradient(0, 0, 256, 0);
  names.forEach((name, i) => context.fillStyle.addColorStop(i / (names.length - 1), css(name)));
  context.fillRect(0, 0, 256, 1);
  return new Uint32Array(context.getImageData(0, 0, 256, 1).data.buffer);
});

/** Ink on paper: 0 is paper, 255 is ink. */
export const ink = (paper = "--frame") => colors(paper, "--ink");

/** 0 is blue, which removes ink; 255 is orange, which adds it. */
export const blueAndOrange = () => colors("--blue", "--frame", "--orange");

/** Draw a picture into a square of a canvas. */
export function drawTile(context, x, y, size, values, table) {
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[values[i]];
  tileContext.putImageData(picture, 0, 0);
  context.drawImage(tile, x, y, size, size);
}

/** Draw a picture as a canvas of its own. */
export function drawPicture(canvas, values, table = ink()) {
  drawTile(canvas.getContext("2d"), 0, 0, 28, values, table);
}

/** Empty a canvas, which is as sharp as the screen. Returns its context, in CSS pixels. */
export function clear(canvas) {
  const context = canvas.getContext("2d");
  canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
  context.scale(devicePixelRatio, devicePixelRatio);
  return context;
}

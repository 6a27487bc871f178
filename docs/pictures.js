// Pictures of 28 x 28 values. Colours are those of page.css, so they follow light and dark.

export function drawImage(canvas, values, colour) {
  const picture = new ImageData(28, 28);
  for (let i = 0; i < 784; i++) picture.data.set(colour(values[i]), 4 * i);
  [canvas.width, canvas.height] = [28, 28];
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0); // kept where it is made
}

/** -1 is black, 1 is white; page.css turns it around where the page is light. */
export function grey(value) {
  const level = 127.5 * (value + 1); // the picture clips it to 0 .. 255
  return [level, level, level, 255];
}

/** As `grey`, but the ink is pale: for pictures that stand behind. */
export function pale(value) {
  const level = 60 * (value + 1);
  return [level, level, level, 255];
}

/** Colours of a push: orange for more ink, blue for less, deeper the larger it is; small values are shown enlarged. */
export function wanted(largest) {
  const [orange, blue] = [rgb("--orange"), rgb("--blue")];
  return (value) => [...(value > 0 ? orange : blue), 255 * Math.sqrt(Math.abs(value) / largest)];
}

const style = getComputedStyle(document.documentElement);
const rgb = (name) => style.getPropertyValue(name).match(/\w\w/g).map((hex) => parseInt(hex, 16));

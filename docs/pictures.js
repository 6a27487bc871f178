// Pictures: rows of ten tiles. Colours are those of page.css, so they follow light and dark.

/** `columns` empty tiles in each row. */
export function makeTiles(columns) {
  for (const row of document.querySelectorAll(".tiles")) {
    for (let k = 0; k < columns; k++) {
      row.append(document.createElement("span"));
      row.lastChild.append(document.createElement("canvas"));
    }
  }
}

/** Images (B, 28, 28), one in each tile; `colour` gives [red, green, blue, opacity] of a value. */
export function drawImages(row, values, colour) {
  row.querySelectorAll("canvas").forEach((canvas, image) => drawImage(canvas, values.subarray(784 * image), colour));
}

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

/** Colours of a gradient: orange for more ink, blue for less, deeper the larger it is; small values are shown enlarged. */
export function wanted(largest) {
  const [orange, blue] = [rgb("--orange"), rgb("--blue")];
  return (value) => [...(value > 0 ? orange : blue), 255 * Math.sqrt(Math.abs(value) / largest)];
}

const style = getComputedStyle(document.documentElement);
const rgb = (name) => style.getPropertyValue(name).match(/\w\w/g).map((hex) => parseInt(hex, 16));

/** p (B, 10) as ten bars in each tile, orange for the digit asked for, above the likeliest digit, or above all ten. */
export function drawBars(row, p, y, all = false) {
  const colour = (digit, image) => style.getPropertyValue(digit === y[image] ? "--orange" : "--blue");
  row.querySelectorAll("canvas").forEach((canvas, image) => {
    const values = Array.from(p.subarray(10 * image, 10 * image + 10));
    const likeliest = values.indexOf(Math.max(...values));
    [canvas.width, canvas.height] = [168, 132];
    const context = canvas.getContext("2d");
    values.forEach((value, digit) => {
      context.fillStyle = colour(digit, image);
      context.fillRect(5 + 16 * digit, 90 - 86 * value, 13, 2 + 86 * value);
    });
    canvas.title = `${likeliest}: ${Math.round(100 * values[likeliest])} %`;
    context.textAlign = "center";
    for (let digit = 0; all && digit < 10; digit++) {
      context.fillStyle = digit === y[image] ? colour(digit, image) : style.getPropertyValue("--quiet");
      context.font = "600 16px system-ui, sans-serif";
      context.fillText(digit, 11.5 + 16 * digit, 108);
    }
    if (all || values[likeliest] < 0.3) return; // it reads nothing yet
    context.fillStyle = colour(likeliest, image);
    context.font = "bold 36px system-ui, sans-serif";
    context.fillText(likeliest, 84, 128);
  });
}

// Pictures of 784 gray values, from 0 to 255, in the colors of page.css.

export const $ = (id) => document.getElementById(id);

const known = new Map(); // colors
export const DARK = matchMedia("(prefers-color-scheme: dark)");
DARK.addEventListener("change", () => known.clear());

/** The 256 colors from one color of page.css to the next, as pixels. */
function colors(...names) {
  if (!known.has(`${names}`)) {
    const style = getComputedStyle(document.documentElement);
    const context = new OffscreenCanvas(256, 1).getContext("2d");
    context.fillStyle = context.createLinearGradient(0, 0, 256, 0);
    names.forEach((name, i) => {
      context.fillStyle.addColorStop(i / (names.length - 1), style.getPropertyValue(name).trim());
    });
    context.fillRect(0, 0, 256, 1);
    known.set(`${names}`, new Uint32Array(context.getImageData(0, 0, 256, 1).data.buffer));
  }
  return known.get(`${names}`);
}

/** Draw a picture, if there is one, as ink on paper; a push in orange, which adds ink, and blue. */
export function draw(canvas, picture, isPush = false) {
  canvas.width = canvas.height = 28; // empties it
  canvas.classList.toggle("empty", !picture);
  if (!picture) return;
  const table = isPush ? colors("--blue", "--frame", "--orange") : colors("--frame", "--ink");
  const image = new ImageData(28, 28);
  new Uint32Array(image.data.buffer).set(Array.from(picture, (value) => table[value]));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

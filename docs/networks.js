// The U-Net of diffusers (UNet2DModel) and the classifier of classifier.py, for one image.
//
// A layer maps an input to [output, back]: `back` maps the gradient of the output to that of the
// input. Names of layers are those in PyTorch. Features are {data, H, W, C}, channels last.

const GROUPS = 8; // of every GroupNorm

async function get(name, type) {
  const response = await fetch(name).catch(() => ({}));
  if (!response.ok) throw new Error(`${name} cannot be loaded`);
  return response[type]();
}

/** Load both networks: {unet, classify}. */
export async function loadNetworks() {
  const files = [["conv.wasm", "arrayBuffer"], ["weights.json", "json"], ["weights.bin", "arrayBuffer"]];
  const [kernel, manifest, bytes] = await Promise.all(files.map((file) => get(...file)));
  const { instance } = await WebAssembly.instantiate(kernel);
  const memory = new Memory(instance.exports);
  const floats = Float32Array.from(new Uint16Array(bytes), halfToFloat);
  const [first, second] = ["unet", "classifier"].map((network) => {
    const weights = { memory };
    for (const { name, shape, start, length } of manifest[network]) {
      weights[name] = { data: floats.subarray(start, start + length), shape };
    }
    return weights;
  });
  return { unet: (x_t, t) => unet(first, x_t, t), classify: (x_t, t) => classify(second, x_t, t) };
}

/** A number from its 16 bits: sign, exponent, fraction. */
function halfToFloat(bits) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 0x1f, bits & 0x3ff];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// --- the networks ---

/** The noise in x_t (784 numbers) at timestep t: 784 numbers. */
function unet(w, x_t, t) {
  const embedding = timeEmbedding(w, t);
  const run = (x, ...layers) => sequence(...layers)(x)[0];
  const resnet = (name) => residual(w, name, embedding, ["time_emb_proj", "conv_shortcut"]);
  let h = run(image(x_t), conv(w, "conv_in"));
  const skips = [h];
  for (const k of [0, 1, 2]) {
    skips.push((h = run(h, resnet(`down_blocks.${k}.resnets.0`))));
    if (k < 2) skips.push((h = run(h, conv(w, `down_blocks.${k}.downsamplers.0.conv`, 2))));
  }
  h = run(h, resnet("mid_block.resnets.0"), resnet("mid_block.resnets.1"));
  for (const k of [0, 1, 2]) {
    for (const i of [0, 1]) h = run(concatenate(h, skips.pop()), resnet(`up_blocks.${k}.resnets.${i}`));
    if (k < 2) h = run(enlarge(h), conv(w, `up_blocks.${k}.upsamplers.0.conv`));
  }
  return run(h, groupNorm(w, "conv_norm_out"), silu, conv(w, "conv_out")).data;
}

/** {p, gradient}: p(y | x_t, t) of ten digits, and the gradient of log p(y | x_t, t), a function of y. */
function classify(w, x_t, t) {
  const embedding = timeEmbedding(w, t);
  const block = (name, stride) => residual(w, name, embedding, ["scale_shift", "skip"], stride);
  const blocks = [block("block1"), block("block2", 2), block("block3")];
  const end = [groupNorm(w, "norm_out"), silu, linear(w, "linear")];
  const [logits, back] = sequence(conv(w, "conv_in", 2, 1), ...blocks, ...end)(image(x_t));
  const p = softmax(logits.data);
  const ofLogits = (y) => Float32Array.from(p, (value, digit) => (digit === y ? 1 : 0) - value);
  return { p, gradient: (y) => back({ ...logits, data: ofLogits(y) }).data };
}

/** A residual block; t scales and shifts its features. `names` are those of its projection and its skip. */
function residual(w, name, embedding, [projection, skip], stride = 1) {
  const [scaleAndShift] = linear(w, `${name}.${projection}`)(embedding);
  const main = sequence(
    groupNorm(w, `${name}.norm1`), silu, conv(w, `${name}.conv1`, stride),
    groupNorm(w, `${name}.norm2`), scaleShift(scaleAndShift.data), silu, conv(w, `${name}.conv2`),
  );
  const direct = w[`${name}.${skip}.weight`] ? conv(w, `${name}.${skip}`, stride, 0) : identity;
  return (x) => {
    const [[h, back], [h_2, back_2]] = [main(x), direct(x)];
    return [add(h, h_2), (grad) => add(back(grad), back_2(grad))];
  };
}

/** Sines and cosines of t, through two linear layers. */
function timeEmbedding(w, t) {
  const [size] = w["time_embedding.linear_1.weight"].shape;
  const half = size / 2;
  const angles = Array.from({ length: half }, (_, i) => t * Math.exp((-Math.log(10000) * i) / half));
  const data = Float32Array.from([...angles.map(Math.cos), ...angles.map(Math.sin)]);
  const layers = [linear(w, "time_embedding.linear_1"), silu, linear(w, "time_embedding.linear_2"), silu];
  return sequence(...layers)({ data, H: 1, W: 1, C: size })[0];
}

// --- layers ---

/** Layers one after another; backward, in reverse. */
function sequence(...layers) {
  return (x) => {
    const backs = [];
    for (const layer of layers) {
      const [output, back] = layer(x);
      backs.unshift(back);
      x = output;
    }
    return [x, (grad) => backs.reduce((g, back) => back(g), grad)];
  };
}

const identity = (x) => [x, (grad) => grad];

/** A layer that maps each number, in channel c, on its own; `slope` is its derivative. */
const pointwise = (f, slope) => (x) => {
  const map = (data, g) => ({ ...x, data: data.map((value, i) => g(value, i % x.C, i)) });
  return [map(x.data, f), (grad) => map(grad.data, (value, c, i) => value * slope(x.data[i], c))];
};

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const silu = pointwise((v) => v * sigmoid(v), (v) => sigmoid(v) * (1 + v * (1 - sigmoid(v))));

/** Multiply each channel by 1 + scale and add its shift; `values` are all scales, then all shifts. */
const scaleShift = (values) => pointwise(
  (v, c) => v * (1 + values[c]) + values[values.length / 2 + c],
  (_, c) => 1 + values[c],
);

/** GroupNorm; without weights, it only normalizes. */
function groupNorm(w, name) {
  const [weight, bias] = [w[`${name}.weight`]?.data, w[`${name}.bias`]?.data];
  if (!weight) return normalize;
  return sequence(normalize, pointwise((v, c) => v * weight[c] + bias[c], (_, c) => weight[c]));
}

function normalize(x) {
  const [size, count, length] = [x.C / GROUPS, x.data.length / GROUPS, x.data.length];
  const [y, inverse] = [new Float32Array(length), new Float32Array(GROUPS)]; // 1 / standard deviation
  const eachOf = (group, f) => {
    for (let k = group * size; k < length; k += x.C) for (let i = k; i < k + size; i++) f(i);
  };
  const mean = (group, f) => {
    let sum = 0;
    eachOf(group, (i) => (sum += f(i)));
    return sum / count;
  };
  for (let group = 0; group < GROUPS; group++) {
    const middle = mean(group, (i) => x.data[i]);
    inverse[group] = 1 / Math.sqrt(mean(group, (i) => (x.data[i] - middle) ** 2) + 1e-5);
    eachOf(group, (i) => (y[i] = (x.data[i] - middle) * inverse[group]));
  }
  const back = (grad) => {
    const data = new Float32Array(length);
    for (let group = 0; group < GROUPS; group++) {
      const [middle, along] = [mean(group, (i) => grad.data[i]), mean(group, (i) => grad.data[i] * y[i])];
      eachOf(group, (i) => (data[i] = inverse[group] * (grad.data[i] - middle - along * y[i])));
    }
    return { ...grad, data };
  };
  return [{ ...x, data: y }, back];
}

function softmax(logits) {
  const exponentials = Array.from(logits, (value) => Math.exp(value - Math.max(...logits)));
  return exponentials.map((value) => value / exponentials.reduce((a, b) => a + b));
}

/** A linear layer, from all features of the input to a vector. */
function linear(w, name) {
  const { data: weight, shape: [inputs, outputs] } = w[`${name}.weight`];
  return (x) => {
    const data = w[`${name}.bias`].data.slice();
    data.forEach((_, o) => x.data.forEach((value, i) => (data[o] += value * weight[i * outputs + o])));
    const back = (grad) => {
      const of_x = new Float32Array(inputs);
      of_x.forEach((_, i) => grad.data.forEach((value, o) => (of_x[i] += value * weight[i * outputs + o])));
      return { ...x, data: of_x };
    };
    return [{ data, H: 1, W: 1, C: outputs }, back];
  };
}

/** A convolution with a square kernel; weights are (size, size, in, out). */
function conv(w, name, stride = 1, padding = 1) {
  const [weight, bias] = [w[`${name}.weight`], w[`${name}.bias`].data];
  const { data: kernel, shape: [size, , inputs, outputs] } = weight;
  return (x) => {
    const side = (length) => Math.floor((length + 2 * padding - size) / stride) + 1;
    const [H, W] = [side(x.H), side(x.W)];
    const back = ({ data: of_y }) => {
      const data = new Float32Array(x.data.length);
      for (let pixel = 0; pixel < H * W; pixel++) for (let place = 0; place < size * size; place++) {
        const row = Math.floor(pixel / W) * stride + Math.floor(place / size) - padding;
        const column = (pixel % W) * stride + (place % size) - padding;
        if (row < 0 || row >= x.H || column < 0 || column >= x.W) continue;
        const [to, from] = [(row * x.W + column) * inputs, pixel * outputs];
        for (let c = 0, k = place * inputs * outputs; c < inputs; c++, k += outputs) {
          let sum = 0;
          for (let o = 0; o < outputs; o++) sum += of_y[from + o] * kernel[k + o];
          data[to + c] += sum;
        }
      }
      return { ...x, data };
    };
    return [{ data: w.memory.conv(weight, bias, x, H, W, stride, padding), H, W, C: outputs }, back];
  };
}

/** The memory of conv.wasm: first all weights, then room for one input and one output. */
class Memory {
  constructor({ memory, conv }) {
    this.floats = new Float32Array(memory.buffer);
    this.kernel = conv;
    this.places = new Map(); // weight -> [its place, that of its bias]
    this.used = 0;
  }
  /** Copy weights once, as (out / 16, size, size, in, 16), the order in which the kernel reads them. */
  place(weight, bias) {
    if (!this.places.has(weight)) {
      const [outputs, rest] = [bias.length, weight.data.length / bias.length];
      const [at, at_bias] = [this.used, this.used + padded(outputs) * rest];
      for (let o = 0; o < outputs; o++) for (let r = 0; r < rest; r++) {
        this.floats[at + (Math.floor(o / 16) * rest + r) * 16 + (o % 16)] = weight.data[r * outputs + o];
      }
      this.floats.set(bias, at_bias);
      this.used = at_bias + padded(outputs);
      this.places.set(weight, [at, at_bias]);
    }
    return this.places.get(weight);
  }
  /** The output of a convolution, H W C numbers. */
  conv(weight, bias, x, H, W, stride, padding) {
    const [at, at_bias] = this.place(weight, bias);
    const [row, C] = [(x.W + 2 * padding) * x.C, padded(bias.length)];
    const at_x = this.floats.length - 200_000; // the largest input has 30 x 30 x 48 numbers
    const at_y = this.floats.length - 100_000;
    this.floats.fill(0, at_x, at_x + row * (x.H + 2 * padding));
    for (let i = 0; i < x.H; i++) {
      const line = x.data.subarray(i * x.W * x.C, (i + 1) * x.W * x.C);
      this.floats.set(line, at_x + (i + padding) * row + padding * x.C);
    }
    const bytes = [at_x, at, at_bias, at_y].map((place) => 4 * place);
    this.kernel(...bytes, H, W, x.C, C, stride, weight.shape[0], 4 * row);
    const y = this.floats.slice(at_y, at_y + H * W * C);
    return C === bias.length ? y : y.filter((_, k) => k % C < bias.length);
  }
}

/** The kernel computes 16 channels at a time. */
const padded = (channels) => 16 * Math.ceil(channels / 16);

// --- features ---

const image = (data) => ({ data, H: 28, W: 28, C: 1 });

const add = (a, b) => ({ ...a, data: a.data.map((value, i) => value + b.data[i]) });

function concatenate(a, b) {
  const C = a.C + b.C;
  const data = new Float32Array(a.H * a.W * C);
  for (let i = 0; i < a.H * a.W; i++) {
    data.set(a.data.subarray(i * a.C, (i + 1) * a.C), i * C);
    data.set(b.data.subarray(i * b.C, (i + 1) * b.C), i * C + a.C);
  }
  return { ...a, C, data };
}

/** Twice as high and wide: each pixel becomes four. */
function enlarge({ data, H, W, C }) {
  const larger = new Float32Array(4 * data.length);
  for (let i = 0; i < 2 * H; i++) for (let j = 0; j < 2 * W; j++) {
    const from = ((i >> 1) * W + (j >> 1)) * C;
    larger.set(data.subarray(from, from + C), (i * 2 * W + j) * C);
  }
  return { data: larger, H: 2 * H, W: 2 * W, C };
}

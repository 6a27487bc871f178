// The U-Net of diffusers (UNet2DModel) and the classifier of classifier.py, in TensorFlow.js.
//
// Layers have the names of the PyTorch code. Images are (B, 28, 28, 1): TensorFlow.js wants the
// channels last, and export_weights.py has turned the kernels accordingly.

const GROUPS = 8;

/** Both networks, from the files that export_weights.py wrote: {unet, logits, log_p, sha256}. */
export async function loadNetworks() {
  tf.wasm.setWasmPaths("vendor/");
  await tf.setBackend("wasm");
  const manifest = await (await fetch("weights.json")).json();
  const halfs = new Uint16Array(await (await fetch("weights.bin")).arrayBuffer());
  const floats = Float32Array.from(halfs, halfToFloat);
  const weightsOf = (network) => {
    const weights = {};
    for (const { name, shape, start, length } of manifest.networks[network]) {
      weights[name] = tf.tensor(floats.subarray(start, start + length), shape);
    }
    return weights;
  };
  const [unetWeights, classifierWeights] = [weightsOf("unet"), weightsOf("classifier")];
  const logits = (x_t, t) => classifier(classifierWeights, x_t, t);
  return {
    unet: (x_t, t) => unet(unetWeights, x_t, t),
    logits,
    log_p: (x_t, t, y) => tf.sum(tf.mul(tf.logSoftmax(logits(x_t, t)), tf.oneHot(y, 10)), 1), // (B,)
    sha256: manifest.sha256,
  };
}

/** A number from its 16 bits: sign, exponent, fraction. */
function halfToFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// --- layers: `w` holds the weights of a network, `name` is the layer ---

const silu = (x) => tf.mul(x, tf.sigmoid(x));

function conv(w, name, x, stride = 1, padding = 1) {
  return tf.add(tf.conv2d(x, w[`${name}.weight`], stride, padding), w[`${name}.bias`]);
}

function linear(w, name, x) {
  return tf.add(tf.matMul(x, w[`${name}.weight`]), w[`${name}.bias`]);
}

function groupNorm(w, name, x) {
  const [B, H, W, C] = x.shape;
  const groups = tf.reshape(x, [B, H * W, GROUPS, C / GROUPS]);
  const mean = tf.mean(groups, [1, 3], true);
  const centred = tf.sub(groups, mean);
  const variance = tf.mean(tf.square(centred), [1, 3], true);
  const normed = tf.reshape(tf.mul(centred, tf.rsqrt(tf.add(variance, 1e-5))), x.shape);
  if (!w[`${name}.weight`]) return normed; // affine=False
  return tf.add(tf.mul(normed, w[`${name}.weight`]), w[`${name}.bias`]);
}

/** Scale and shift features (B, H, W, C) by an embedding (B, 2 C). */
function scaleShift(x, embedding) {
  const [scale, shift] = tf.split(tf.reshape(embedding, [-1, 1, 1, 2 * x.shape[3]]), 2, 3);
  return tf.add(tf.mul(x, tf.add(scale, 1)), shift);
}

/** Cosines and sines of t (B,): (B, size). */
function timeEmbedding(w, t, size) {
  const half = size / 2;
  const frequencies = tf.exp(tf.mul(tf.range(0, half), -Math.log(10000) / half));
  const angles = tf.mul(tf.reshape(t, [-1, 1]), tf.reshape(frequencies, [1, half]));
  const waves = tf.concat([tf.cos(angles), tf.sin(angles)], 1);
  return linear(w, "time_embedding.linear_2", silu(linear(w, "time_embedding.linear_1", waves)));
}

// --- the U-Net: x_t (B, 28, 28, 1) and t (B,) -> eps (B, 28, 28, 1) ---

function unet(w, x_t, t) {
  const embedding = silu(timeEmbedding(w, t, 16));
  let h = conv(w, "conv_in", x_t);
  const skips = [h];
  for (const k of [0, 1, 2]) {
    h = resnet(w, `down_blocks.${k}.resnets.0`, h, embedding);
    skips.push(h);
    if (k < 2) {
      h = conv(w, `down_blocks.${k}.downsamplers.0.conv`, h, 2);
      skips.push(h);
    }
  }
  h = resnet(w, "mid_block.resnets.0", h, embedding);
  h = resnet(w, "mid_block.resnets.1", h, embedding);
  for (const k of [0, 1, 2]) {
    for (const i of [0, 1]) {
      h = tf.concat([h, skips.pop()], 3);
      h = resnet(w, `up_blocks.${k}.resnets.${i}`, h, embedding);
    }
    if (k < 2) {
      const [, H, W] = h.shape;
      h = tf.image.resizeNearestNeighbor(h, [2 * H, 2 * W]);
      h = conv(w, `up_blocks.${k}.upsamplers.0.conv`, h);
    }
  }
  return conv(w, "conv_out", silu(groupNorm(w, "conv_norm_out", h)));
}

function resnet(w, name, x, embedding) {
  let h = conv(w, `${name}.conv1`, silu(groupNorm(w, `${name}.norm1`, x)));
  h = scaleShift(groupNorm(w, `${name}.norm2`, h), linear(w, `${name}.time_emb_proj`, embedding));
  h = conv(w, `${name}.conv2`, silu(h));
  const skip = w[`${name}.conv_shortcut.weight`] ? conv(w, `${name}.conv_shortcut`, x, 1, 0) : x;
  return tf.add(skip, h);
}

// --- the classifier: x_t (B, 28, 28, 1) and t (B,) -> logits (B, 10) ---

function classifier(w, x_t, t) {
  const embedding = silu(timeEmbedding(w, t, 64));
  let h = conv(w, "conv_in", x_t, 2);
  h = filmBlock(w, "block1", h, embedding);
  h = filmBlock(w, "block2", h, embedding, 2);
  h = filmBlock(w, "block3", h, embedding);
  h = silu(groupNorm(w, "norm_out", h));
  return linear(w, "linear", tf.reshape(h, [x_t.shape[0], -1]));
}

function filmBlock(w, name, x, embedding, stride = 1) {
  let h = conv(w, `${name}.conv1`, silu(groupNorm(w, `${name}.norm1`, x)), stride);
  h = scaleShift(groupNorm(w, `${name}.norm2`, h), linear(w, `${name}.scale_shift`, embedding));
  h = conv(w, `${name}.conv2`, silu(h));
  const skip = w[`${name}.skip.weight`] ? conv(w, `${name}.skip`, x, stride, 0) : x;
  return tf.add(skip, h);
}

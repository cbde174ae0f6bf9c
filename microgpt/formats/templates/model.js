// @ts-check
// The model: one token at a time through all layers, with the keys and values of earlier positions kept.
// D width, H heads, size = D / H, V vocabulary. Sums are float64, weights float32 as they were stored.

/**
 * @typedef {object} Options  The shape of the model, as in run.toml.
 * @property {number} n_layer
 * @property {number} n_embd
 * @property {number} n_head
 * @property {number} block_size
 * @property {number} vocab_size
 * @property {'learned' | 'rope'} position
 * @property {'half' | 'interleaved'} rope_pairs
 * @property {number} rope_base
 * @property {'relu' | 'relu2' | 'gelu'} activation
 * @property {boolean} norm_embedding
 * @property {boolean} final_norm
 * @property {boolean} tie_embeddings
 * @property {boolean} qk_norm
 * @property {number} softcap
 */

/** @typedef {{name: string, rows: number, columns: number, at: number, scale?: number}} Entry  Where a matrix lies, in bytes. */
/** @typedef {Record<string, Float32Array>} Matrices */

const EPS = 1e-5;

/**
 * Bytes of a base64 text.
 * @param {string} base64
 */
export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/**
 * float32 of a half-precision number's 16 bits.
 * @param {number} bits
 */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/**
 * The matrices by name, from the blob that export wrote.
 * @param {Uint8Array} bytes
 * @param {Entry[]} entries
 * @param {'float16' | 'int8'} storage
 * @param {number} [begin]  Of the model in the blob, in bytes.
 */
export function unpack(bytes, entries, storage, begin = 0) {
  const table = storage === "float16" ? Float32Array.from({ length: 65536 }, (_, bits) => half(bits)) : null;
  const view = new DataView(bytes.buffer, begin);
  /** @type {Matrices} */
  const matrices = {};
  for (const { name, rows, columns, at, scale = 0 } of entries) {
    const w = new Float32Array(rows * columns);
    if (table) {
      for (let i = 0; i < w.length; i++) w[i] = table[view.getUint16(at + 2 * i, true)];
    } else {
      for (let r = 0; r < rows; r++) {
        const step = view.getFloat32(scale + 4 * r, true);
        for (let c = 0; c < columns; c++) w[r * columns + c] = view.getInt8(at + r * columns + c) * step;
      }
    }
    matrices[name] = w;
  }
  return matrices;
}

/**
 * y = W x, or y += W x.
 * @param {Float32Array} w
 * @param {Float64Array} x
 * @param {Float64Array} y
 */
function linear(w, x, y, add = false) {
  const n = x.length;
  for (let r = 0, at = 0; r < y.length; r++) {
    let sum = 0;
    for (let c = 0; c < n; c++) sum += w[at++] * x[c];
    y[r] = add ? y[r] + sum : sum;
  }
  return y;
}

/**
 * y = x / sqrt(mean(x^2) + eps), over `size` numbers from `at` on.
 * @param {Float64Array} x
 * @param {Float64Array} y
 */
function rmsnorm(x, y, at = 0, size = x.length) {
  let sum = 0;
  for (let i = at; i < at + size; i++) sum += x[i] * x[i];
  const r = 1 / Math.sqrt(sum / size + EPS);
  for (let i = at; i < at + size; i++) y[i] = x[i] * r;
  return y;
}

const ACTIVATIONS = {
  relu: (/** @type {number} */ x) => Math.max(x, 0),
  relu2: (/** @type {number} */ x) => Math.max(x, 0) ** 2,
  gelu: (/** @type {number} */ x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

export class Model {
  /**
   * @param {Options} options
   * @param {Matrices} matrices
   */
  constructor(options, matrices) {
    this.options = options;
    this.w = matrices;
    const { n_layer, n_embd, n_head, block_size } = options;
    this.size = n_embd / n_head;
    const cache = () => Array.from({ length: n_layer }, () => new Float64Array(block_size * n_embd));
    this.keys = cache();
    this.values = cache();
  }

  /**
   * Turn the channel pairs of every head by the position's angles, in place.
   * @param {Float64Array} x
   * @param {number} position
   */
  rotate(x, position) {
    const { rope_base, rope_pairs } = this.options, size = this.size, half = size / 2;
    for (let i = 0; i < half; i++) {
      const angle = position * rope_base ** (-2 * i / size), cos = Math.cos(angle), sin = Math.sin(angle);
      for (let head = 0; head < x.length; head += size) {
        const a = head + (rope_pairs === "half" ? i : 2 * i), b = rope_pairs === "half" ? a + half : a + 1;
        [x[a], x[b]] = [x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin];
      }
    }
  }

  /**
   * softmax(q k / sqrt(size)) v over positions 0 .. position, head by head.
   * @param {Float64Array} q
   * @param {Float64Array} keys
   * @param {Float64Array} values
   * @param {number} position
   * @param {Float64Array} y
   * @param {Uint16Array | null} weights  Takes the softmax of each head, 65535 for 1.
   */
  attend(q, keys, values, position, y, weights) {
    const D = q.length, size = this.size, scores = new Float64Array(position + 1);
    y.fill(0);
    for (let head = 0; head < D; head += size) {
      let top = -Infinity, total = 0;
      for (let t = 0; t <= position; t++) {
        let sum = 0;
        for (let i = head; i < head + size; i++) sum += q[i] * keys[t * D + i];
        scores[t] = sum / Math.sqrt(size);
        top = Math.max(top, scores[t]);
      }
      for (let t = 0; t <= position; t++) total += scores[t] = Math.exp(scores[t] - top);
      for (let t = 0; t <= position; t++) {
        const p = scores[t] / total;
        if (weights) weights[(head / size) * (position + 1) + t] = Math.round(p * 65535);
        for (let i = head; i < head + size; i++) y[i] += p * values[t * D + i];
      }
    }
    return y;
  }

  /**
   * Logits (V) after `token` at `position`; the cache then holds positions 0 .. position.
   * @param {number} token
   * @param {number} position
   * @param {Uint16Array | null} [weights]  Takes the attention of each layer and head on positions 0 .. position.
   */
  logits(token, position, weights = null) {
    const o = this.options, w = this.w, D = o.n_embd;
    const x = Float64Array.from(w.wte.subarray(token * D, token * D + D));
    if (o.position === "learned") for (let i = 0; i < D; i++) x[i] += w.wpe[position * D + i];
    if (o.norm_embedding) rmsnorm(x, x);
    const n = new Float64Array(D), q = new Float64Array(D), y = new Float64Array(D), h = new Float64Array(4 * D);
    const activate = ACTIVATIONS[o.activation];
    for (let l = 0; l < o.n_layer; l++) {
      const place = position * D;
      const k = this.keys[l].subarray(place, place + D), v = this.values[l].subarray(place, place + D);
      rmsnorm(x, n);
      linear(w[`layer${l}.attn_wq`], n, q);
      linear(w[`layer${l}.attn_wk`], n, k);
      linear(w[`layer${l}.attn_wv`], n, v);
      for (const head of [q, k]) {
        if (o.position === "rope") this.rotate(head, position);
        if (o.qk_norm) for (let at = 0; at < D; at += this.size) rmsnorm(head, head, at, this.size);
      }
      const seen = weights && weights.subarray(l * o.n_head * (position + 1), (l + 1) * o.n_head * (position + 1));
      linear(w[`layer${l}.attn_wo`], this.attend(q, this.keys[l], this.values[l], position, y, seen), x, true);
      linear(w[`layer${l}.mlp_fc1`], rmsnorm(x, n), h);
      for (let i = 0; i < h.length; i++) h[i] = activate(h[i]);
      linear(w[`layer${l}.mlp_fc2`], h, x, true);
    }
    if (o.final_norm) rmsnorm(x, x);
    const logits = linear(o.tie_embeddings ? w.wte : w.lm_head, x, new Float64Array(o.vocab_size));
    if (o.softcap) for (let i = 0; i < logits.length; i++) logits[i] = o.softcap * Math.tanh(logits[i] / o.softcap);
    return logits;
  }
}

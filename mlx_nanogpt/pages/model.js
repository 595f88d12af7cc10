"use strict";
// The GPT of model.py, under the same names, for one text: it reads tokens and knows what may come next.
// Shapes: T tokens, C = n_embd channels, nh heads of hs channels. An array (T, C) is a Float32Array, one row after the other.

const EPS = 1e-5;  // of the norms, as in MLX
const ROPE_BASE = 10000;

/** Token ids to the logits of the next token. `weights` are Float32Arrays by their names in MLX. */
class GPT {
  constructor(config, weights) {
    this.config = config;
    this.wte = new Embedding(weights["wte.weight"], config.n_embd);
    if (config.position === "learned") this.wpe = new Embedding(weights["wpe.weight"], config.n_embd);
    this.h = Array.from({ length: config.n_layer }, (_, i) => new Block(config, weights, `h.${i}.`));
    this.ln_f = makeNorm(config, weights, "ln_f");
    this.lm_head = new Linear(weights, config.tied ? "wte" : "lm_head");
  }

  /** Read the tokens `idx`, (T), after those in `cache`, which keeps what each layer found. */
  read(idx, cache) {
    let x = this.embed(idx, cache);  // (T, C)
    this.h.forEach((block, layer) => {
      x = block.forward(x, idx.length, cache.layers[layer], cache.length);
      cache.layers[layer].x.set(x, cache.length * this.config.n_embd);
    });
    cache.ids.push(...idx);
  }

  /** Vectors of tokens, and of positions if they are learned: (T, C). */
  embed(idx, cache) {
    const C = this.config.n_embd, x = new Float32Array(idx.length * C);
    idx.forEach((id, t) => {
      x.set(this.wte.row(id), t * C);
      if (this.wpe) add(x.subarray(t * C, (t + 1) * C), this.wpe.row(cache.length + t));
    });
    return x;
  }

  /** The output of a block (T, C) -> logits (T, vocab_size). */
  logits(x, T = 1) {
    return this.lm_head.forward(this.ln_f.forward(x), T);
  }

  /** The logits (T, vocab_size) after the places from `place` on in `cache`, as the head reads the output of `layer`. */
  logitsAt(cache, place, layer = this.h.length - 1, T = 1) {
    const C = this.config.n_embd;
    return this.logits(cache.layers[layer].x.subarray(place * C, (place + T) * C), T);
  }
}

/** Communication, then computation, each added to the residual stream. */
class Block {
  constructor(config, weights, name) {
    this.ln_1 = makeNorm(config, weights, name + "ln_1");
    this.attn = new Attention(config, weights, name + "attn.");
    this.ln_2 = makeNorm(config, weights, name + "ln_2");
    this.mlp = new MLP(config, weights, name + "mlp.");
  }

  forward(x, T, cache, length) {
    x = add(this.attn.forward(this.ln_1.forward(x), T, cache, length), x);
    return add(this.mlp.forward(this.ln_2.forward(x), T), x);
  }
}

/** Causal self-attention with all heads in one projection. */
class Attention {
  constructor(config, weights, name) {
    this.n_head = config.n_embd / config.head_size;
    this.head_size = config.head_size;
    this.scale = config.head_size ** -0.5;
    this.c_attn = new Linear(weights, name + "c_attn");
    this.c_proj = new Linear(weights, name + "c_proj");
    if (config.qk_norm) {
      this.q_norm = new RMSNorm(weights, name + "q_norm");
      this.k_norm = new RMSNorm(weights, name + "k_norm");
    }
    this.rope = config.position === "rope";
  }

  /** (T, C) -> (T, C), after the `length` tokens in `cache`. */
  forward(x, T, cache, length) {
    const C = x.length / T, hs = this.head_size, heads = this.c_attn.forward(x, T), y = new Float32Array(T * C);  // heads: (T, 3 C)
    const values = cache.v;
    for (let t = 0; t < T; t++) {
      const [q, k, v] = [0, 1, 2].map(i => heads.subarray((3 * t + i) * C, (3 * t + i + 1) * C)), at = (length + t) * C;
      cache.q.set(this.locate(q, this.q_norm, length + t), at);
      cache.k.set(this.locate(k, this.k_norm, length + t), at);
      cache.v.set(v, at);
      for (let head = 0; head < this.n_head; head++) {
        const share = this.weigh(cache, length + t, head), out = t * C + head * hs;
        for (let j = 0, from = head * hs; j < share.length; j++, from += C) {
          const s = share[j];
          for (let c = 0; c < hs; c++) y[out + c] += s * values[from + c];
        }
      }
    }
    return this.c_proj.forward(y, T);
  }

  /** A query or a key (C): each head's part normalised, and rotated to its position, where the model does that. */
  locate(part, norm, position) {
    const hs = this.head_size, half = hs / 2;
    if (norm) part = norm.forward(part);
    if (!this.rope) return part;
    const turned = new Float32Array(part.length);
    for (let c = 0; c < half; c++) {
      const angle = position * ROPE_BASE ** (-c / half), cos = Math.cos(angle), sin = Math.sin(angle);
      for (let i = c; i < part.length; i += hs) {
        turned[i] = part[i] * cos - part[i + half] * sin;
        turned[i + half] = part[i] * sin + part[i + half] * cos;
      }
    }
    return turned;
  }

  /** Where `head` looks from the place `i`: the share of each token up to it, (i + 1). */
  weigh(cache, i, head) {
    const hs = this.head_size, C = this.n_head * hs, scores = new Float32Array(i + 1), keys = cache.k;
    const query = cache.q.subarray(i * C + head * hs, i * C + (head + 1) * hs);
    for (let j = 0, k = head * hs; j <= i; j++, k += C) {
      let sum = 0;
      for (let c = 0; c < hs; c++) sum += query[c] * keys[k + c];
      scores[j] = this.scale * sum;
    }
    return softmax(scores);
  }
}

/** Two layers, wider inside. The activation `swiglu` has a third one, the gate. */
class MLP {
  constructor(config, weights, name) {
    this.activation = ACTIVATIONS[config.activation];
    this.c_fc = new Linear(weights, name + "c_fc");
    if (config.activation === "swiglu") this.c_gate = new Linear(weights, name + "c_gate");
    this.c_proj = new Linear(weights, name + "c_proj");
  }

  forward(x, T) {
    const inside = this.c_fc.forward(x, T), gate = this.c_gate?.forward(x, T), { activation } = this;
    for (let i = 0; i < inside.length; i++) inside[i] = gate ? activation(gate[i]) * inside[i] : activation(inside[i]);
    return this.c_proj.forward(inside, T);
  }
}

const ACTIVATIONS = {
  relu: x => Math.max(x, 0),
  gelu: x => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),  // (1 + tanh u) / 2 is 1 / (1 + exp -2u)
  relu2: x => Math.max(x, 0) ** 2,
  swiglu: gate => gate / (1 + Math.exp(-gate)),
};

class Embedding {
  constructor(weight, C) { this.weight = weight; this.C = C; }
  row(i) { return this.weight.subarray(i * this.C, (i + 1) * this.C); }
}

class Linear {
  constructor(weights, name) { this.weight = weights[name + ".weight"]; this.bias = weights[name + ".bias"]; }

  /** (T, n) -> (T, m), by a weight of (m, n). */
  forward(x, T) {
    const n = x.length / T, m = this.weight.length / n, y = new Float32Array(T * m), blocks = T - T % 4;
    for (let t = 0; t < blocks; t += 4) multiplyFour(x, t * n, n, this.weight, y, t * m, m);
    for (let t = blocks; t < T; t++) multiplyOne(x, t * n, n, this.weight, y, t * m, m);
    if (this.bias) for (let t = 0; t < T; t++) add(y.subarray(t * m, (t + 1) * m), this.bias);
    return y;
  }
}

/** Four rows of `x`, from the number `a` on, by two rows of the weight at a time, so that a number is loaded once for several products. */
function multiplyFour(x, a, n, w, y, out, m) {
  const b = a + n, c = b + n, d = c + n;
  for (let j = 0; j < m; j += 2, out += 2) {
    const e = j * n, f = j + 1 < m ? e + n : e;  // an odd last row is computed twice
    let ae = 0, be = 0, ce = 0, de = 0, af = 0, bf = 0, cf = 0, df = 0;
    for (let i = 0; i < n; i++) {
      const u = w[e + i], v = w[f + i], p = x[a + i], q = x[b + i], r = x[c + i], s = x[d + i];
      ae += p * u; be += q * u; ce += r * u; de += s * u;
      af += p * v; bf += q * v; cf += r * v; df += s * v;
    }
    y[out] = ae; y[out + m] = be; y[out + 2 * m] = ce; y[out + 3 * m] = de;
    if (f > e) { y[out + 1] = af; y[out + m + 1] = bf; y[out + 2 * m + 1] = cf; y[out + 3 * m + 1] = df; }
  }
}

/** One row of `x`, by four rows of the weight at a time. */
function multiplyOne(x, a, n, w, y, out, m) {
  let j = 0;
  for (; j + 3 < m; j += 4) {
    const e = j * n, f = e + n, g = f + n, h = g + n;
    let o = 0, p = 0, q = 0, r = 0;
    for (let i = 0; i < n; i++) {
      const v = x[a + i];
      o += v * w[e + i]; p += v * w[f + i]; q += v * w[g + i]; r += v * w[h + i];
    }
    y[out + j] = o; y[out + j + 1] = p; y[out + j + 2] = q; y[out + j + 3] = r;
  }
  for (; j < m; j++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += x[a + i] * w[j * n + i];
    y[out + j] = sum;
  }
}

class LayerNorm {
  constructor(weights, name) { this.weight = weights[name + ".weight"]; this.bias = weights[name + ".bias"]; }

  /** Each row of the weight's width, (..., C) -> (..., C). */
  forward(x) {
    const C = this.weight.length, y = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += C) {
      let mean = 0, squares = 0;
      if (this.centred) { for (let c = 0; c < C; c++) mean += x[start + c] / C; }
      for (let c = 0; c < C; c++) squares += (x[start + c] - mean) * (x[start + c] - mean) / C;
      const factor = 1 / Math.sqrt(squares + EPS);
      for (let c = 0; c < C; c++) y[start + c] = (x[start + c] - mean) * factor * this.weight[c] + (this.bias?.[c] ?? 0);
    }
    return y;
  }
  get centred() { return true; }
}

/** Subtracts no mean, and has no bias. */
class RMSNorm extends LayerNorm {
  get centred() { return false; }
}

function makeNorm(config, weights, name) {
  return config.norm === "rmsnorm" ? new RMSNorm(weights, name) : new LayerNorm(weights, name);
}

/** What each layer keeps of the tokens read so far, `ids`: queries, keys, values, and its output x, each (block_size, C). */
class Cache {
  constructor(config) {
    const array = () => new Float32Array(config.block_size * config.n_embd);
    this.layers = Array.from({ length: config.n_layer }, () => ({ q: array(), k: array(), v: array(), x: array() }));
    this.ids = [];
  }
  get length() { return this.ids.length; }

  /** Forget what does not belong to a text that begins with `ids`. */
  rewind(ids) {
    const differs = this.ids.findIndex((id, i) => id !== ids[i]);
    if (differs >= 0) this.ids.length = differs;
  }
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
  return x;
}

function softmax(scores) {
  const powers = new Float32Array(scores.length);
  let most = -Infinity, sum = 0;
  for (const score of scores) if (score > most) most = score;
  for (let i = 0; i < scores.length; i++) sum += powers[i] = Math.exp(scores[i] - most);
  for (let i = 0; i < scores.length; i++) powers[i] /= sum;
  return powers;
}

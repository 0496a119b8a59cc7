/** Codes and queries for the benchmarks: seeded, so that every run and every rival sees the same. */

/** mulberry32 and Box-Muller. */
export function randomSource(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

export function gaussian(rows, dim, seed) {
  const { normal } = randomSource(seed);
  return Float32Array.from({ length: rows * dim }, normal);
}

/** Normalises each row's parts, as the tokenizer's semantic and pixel halves are. */
export function normaliseParts(rows, parts) {
  const dim = parts.reduce((a, b) => a + b, 0);
  for (let at = 0; at < rows.length; at += dim) {
    let begin = at;
    for (const part of parts) {
      let sum = 0;
      for (let k = begin; k < begin + part; k++) sum += rows[k] * rows[k];
      const norm = Math.sqrt(sum) || 1;
      for (let k = begin; k < begin + part; k++) rows[k] /= norm;
      begin += part;
    }
  }
  return rows;
}

/** The parts a row of `dim` is normalised in: the tokenizer's 32 + 8, else the whole. */
export const partsOf = (dim) => (dim === 40 ? [32, 8] : [dim]);

/** Unit halves in random directions. */
export function unitHalves(rows, dim, seed) {
  return normaliseParts(gaussian(rows, dim, seed), partsOf(dim));
}

/**
 * Tight clusters, as codebooks that were trained look: 512 centres, each with 6 directions of its own and a little
 * noise all around. `spread` is the size of a cluster.
 */
export function clustered(rows, dim, { spread = 0.04, seed = 1, draw = seed } = {}) {
  const shape = randomSource(seed);
  const clusters = 512;
  const centres = normaliseParts(Float32Array.from({ length: clusters * dim }, shape.normal), partsOf(dim));
  const directions = Float32Array.from({ length: clusters * 6 * dim }, shape.normal);
  const { uniform, normal } = randomSource(draw + 77);
  const out = new Float32Array(rows * dim);
  for (let i = 0; i < rows; i++) {
    const cluster = Math.floor(uniform() * clusters);
    const along = Array.from({ length: 6 }, normal);
    for (let k = 0; k < dim; k++) {
      let shift = 0;
      for (let u = 0; u < 6; u++) shift += along[u] * directions[(cluster * 6 + u) * dim + k];
      out[i * dim + k] = centres[cluster * dim + k] + spread * 0.7 * (shift / Math.sqrt(6) + normal());
    }
  }
  return normaliseParts(out, partsOf(dim));
}

/** `rows` with 64 codes near each of rows/64 centres, `within` apart. */
export function nearCopies(rows, dim, within, seed, centres = Math.ceil(rows / 64)) {
  const unique = unitHalves(centres, dim, seed);
  const { uniform, normal } = randomSource(seed + 5);
  const out = new Float32Array(rows * dim);
  for (let i = 0; i < rows; i++) {
    const centre = Math.floor(uniform() * centres);
    for (let k = 0; k < dim; k++) out[i * dim + k] = unique[centre * dim + k] + within * normal();
  }
  return out;
}

/** Share of equal entries. */
export function agreement(ours, theirs) {
  let equal = 0;
  for (let i = 0; i < ours.length; i++) equal += ours[i] === theirs[i] ? 1 : 0;
  return equal / ours.length;
}

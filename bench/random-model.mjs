/** The full-size clipb-256 model with the enhanced decoder and random weights, made in memory. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { readModel } = require('../dist/tokenizer/model.js');

const manifest = new URL('../test/golden/manifests/clipb_enhanced.json', import.meta.url);

/** Names and shapes of every tensor of the checkpoint. */
export const shapes = new Map(Object.entries(JSON.parse(readFileSync(manifest, 'utf8'))));

export const model = readModel(shapes);

/** Fills an array with seeded numbers from `low` to `high`. */
export function fillUniform(data, seed, low = -1, high = 1) {
  let state = seed >>> 0;
  const step = (high - low) / 4294967296;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = low + state * step;
  }
  return data;
}

function seedOf(name) {
  let seed = 17;
  for (const letter of name) seed = (Math.imul(seed, 31) + letter.charCodeAt(0)) >>> 0;
  return seed;
}

/** One tensor of the checkpoint: uniform, of a size that keeps activations in range. */
export function checkpointTensor(name) {
  const shape = shapes.get(name);
  const count = shape.reduce((a, b) => a * b, 1);
  const data = new Float32Array(count);
  if (/(norm|ln_).*weight$/.test(name)) return fillUniform(data, seedOf(name), 0.8, 1.2);
  const size = shape.length > 1 ? Math.sqrt((3 * shape[0]) / count) : 0.1;
  return fillUniform(data, seedOf(name), -size, size);
}

/** A weight as graphs name it. */
export function graphWeight(name) {
  const derived = model.derived.get(name);
  return derived ? derived.compute(checkpointTensor(derived.from)) : checkpointTensor(name);
}

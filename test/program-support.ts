/** Graphs with random weights for the tests of native programs. */
import { resolveDevice } from '../lib/backends.js';
import type { BuiltGraph } from '../lib/graph/builder.js';
import type { Precision } from '../lib/graph/ops.js';
import { type NativeProgram, native } from '../lib/native.js';

/** Seeded, about normal. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => (uniform() + uniform() + uniform() + uniform() - 2) * 1.7320508;
}

export function randomArray(count: number, seed: number, size = 1): Float32Array {
  const next = randomNumbers(seed);
  return Float32Array.from({ length: count }, () => next() * size);
}

/** Scaled so that values keep their size from op to op; the scale of a norm is near 1. */
export function randomWeights({ weights }: BuiltGraph): Map<string, Float32Array> {
  const result = new Map<string, Float32Array>();
  let seed = 1;
  for (const [name, shape] of weights) {
    const count = shape.reduce((a, b) => a * b, 1);
    const fan = shape.length > 1 ? count / shape[0] : 25;
    const data = randomArray(count, seed++, 1 / Math.sqrt(fan));
    result.set(name, name.includes('norm') && name.endsWith('weight') ? data.map((v) => v + 1) : data);
  }
  return result;
}

/** Where the tests of programs run: TOKENFLOW_DEVICE, as for a model. */
export function testDevice(): string {
  return resolveDevice();
}

export function compile(
  built: BuiltGraph,
  weights: ReadonlyMap<string, Float32Array>,
  precision: Precision = 'f32',
): NativeProgram {
  const program = native().createProgram(built.graph, native().createWeightStore(testDevice()), precision);
  for (const { name } of program.missingWeights()) program.setWeight(name, weights.get(name)!);
  return program;
}

/** |a - b| / |b|. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    norm += b[i] ** 2;
  }
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  return Math.sqrt(difference / (norm || 1));
}

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import type { WeightSource } from '../../lib/tokenizer/types.js';

/**
 * Weights of the official layout: matrices uniform with the deviation that keeps a signal's size, norms near the
 * identity, biases near zero. Seeded by name, so independent of the order they are read in.
 */
export function randomWeights(name: string): WeightSource {
  const file = path.join(packageRoot(), 'test', 'golden', 'manifests', `${name}.json`);
  const shapes: Record<string, number[]> = JSON.parse(readFileSync(file, 'utf8'));
  return {
    path: `random ${name}`,
    tensors: new Map(Object.entries(shapes).map(([tensor, shape]) => [tensor, { shape }])),
    read(tensor) {
      const shape = shapes[tensor];
      const count = shape.reduce((a, b) => a * b, 1);
      const norm = shape.length === 1 && tensor.endsWith('.weight');
      const fan = shape.length === 1 ? 1e4 : count / shape[0];
      const spread = Math.sqrt(12 / fan) / 2 ** 32;
      let state = 2166136261;
      for (const char of tensor) state = Math.imul(state ^ char.charCodeAt(0), 16777619);
      const data = new Float32Array(count);
      for (let i = 0; i < count; i++) {
        // xorshift32
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        data[i] = state * spread + (norm ? 1 : 0);
      }
      return data;
    },
    close() {},
  };
}

// The released models at their full size, with random weights made as they are asked for.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';
import { VARIANTS } from '../lib/tokenizer/config.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';
import type { WeightSource } from '../lib/tokenizer/types.js';

/**
 * Weights of the official layout: matrices uniform with the deviation that keeps a signal's size, norms near the
 * identity, biases near zero. Seeded by name, so independent of the order they are read in.
 */
function randomWeights(name: string): WeightSource {
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

describe('full-size models with random weights', function () {
  this.timeout(300_000);

  it('clipb-256 encodes and decodes', async () => {
    const source = randomWeights('clipb');
    await using tokenizer = await TokenFlow.load(source);
    assert.equal(tokenizer.imageSize, 256);
    const picture = path.join(packageRoot(), 'samples', 'chelsea-cat.jpg');
    const { tokens, shape } = await tokenizer.encode(picture);
    assert.deepEqual(shape, [1, 817]);
    assert.ok(tokens.every((token) => token >= 0 && token < 32768));
    assert.ok(new Set(tokens).size > 100, 'an image has many different tokens');
    const image = await tokenizer.decode(tokens);
    assert.deepEqual([image.width, image.height, image.count], [256, 256, 1]);
    assert.ok(new Set(image.data).size > 10);
    const { data } = await tokenizer.decodeTensor(tokens, { scales: 3 });
    assert.ok(data.every(Number.isFinite));
    const { semantic, shape: semanticShape } = await tokenizer.decodeSemantic(tokens);
    assert.deepEqual(semanticShape, [1, 256, 512]);
    assert.ok(semantic.every(Number.isFinite));
  });

  for (const [name, variant, tokenCount] of [
    ['clipb', 'clipb', 561],
    ['clipb_enhanced', 'clipb', 561],
    ['clipb_enhanced', 'clipb-256', 817],
    ['siglip', 'siglip', 2227],
  ] as const) {
    it(`${name} loads as ${variant} by its shapes`, async () => {
      const source = randomWeights(name);
      await using tokenizer = await TokenFlow.load(source, { config: variant });
      assert.equal(tokenizer.tokenCount, tokenCount);
      assert.equal(tokenizer.imageSize, VARIANTS[variant].imageSize);
      assert.equal(tokenizer.codebookSize, 32768);
    });
  }
});

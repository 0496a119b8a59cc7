// The released models at their full size, with random weights made as they are asked for.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { native, packageRoot } from '../lib/native.js';
import { VARIANTS } from '../lib/tokenizer/config.js';
import { decodeGraph, encodeGraph } from '../lib/tokenizer/graphs.js';
import { openModel } from '../lib/tokenizer/open-model.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';
import { randomWeights } from './support/random-weights.js';

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

  it('activations of one image fit: 250 MB to encode, 600 MB to decode with the enhanced decoder', () => {
    const model = openModel(randomWeights('clipb_enhanced'), 'clipb-256');
    const store = native().createWeightStore('cpu');
    const bytes = ({ graph }: ReturnType<typeof encodeGraph>) => {
      const { activations, scratch } = native().createProgram(graph, store, 'f32').memory();
      return activations + scratch;
    };
    assert.ok(bytes(encodeGraph(model, 1, { image: 'u8' })) < 250e6);
    assert.ok(bytes(decodeGraph(model, 1, model.scales.length, 'u8')) < 600e6);
  });

  it('weights are read within 1.4 times the memory that they take', () => {
    // In a process of its own, whose largest size is then that of reading.
    const script = `
      const { TokenFlow } = require('./lib/tokenizer/tokenflow.js');
      const { randomWeights } = require('./test/support/random-weights.js');
      TokenFlow.load(randomWeights('clipb'), { preload: ['encode', 'decode', 'semantic'] }).then((tokenizer) => {
        const peak = process.resourceUsage().maxRSS * 1024;
        console.log(JSON.stringify({ peak, kept: tokenizer.memory().weights }));
        return tokenizer.dispose();
      });`;
    const cwd = path.join(__dirname, '..');
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', script], { cwd, encoding: 'utf8' });
    assert.equal(stderr, '');
    const { peak, kept } = JSON.parse(stdout);
    assert.ok(kept > 4 * 180e6, `${kept} bytes kept`);
    assert.ok(peak < 1.4 * kept, `${peak} bytes at the most for ${kept} kept`);
  });
});

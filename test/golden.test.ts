// The golden cases: small models computed with the official PyTorch graph. Runs at the active instruction-set level;
// golden-levels.test.ts runs it at the others.
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { openCheckpoint, saveAsSafetensors } from '../lib/checkpoint/checkpoint.js';
import { native, packageRoot } from '../lib/native.js';
import { readConfig, tokenCount } from '../lib/tokenizer/config.js';
import { encodeGraph } from '../lib/tokenizer/graphs.js';
import { channelsFirst, channelsLast } from '../lib/tokenizer/layout.js';
import { readModel } from '../lib/tokenizer/model.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';
import { testDevice } from './program-support.js';
import { floats, integers, numbers, relativeError } from './support/arrays.js';

const golden = path.join(packageRoot(), 'test', 'golden');
const TOLERANCE = 1e-4;
/** Below this, second-best less best distance is within rounding, and the token may differ. */
const MARGIN = 1e-4;

function assertClose(actual: Float32Array, expected: Float32Array, what: string): void {
  const error = relativeError(actual, expected);
  assert.ok(error <= TOLERANCE, `${what}: relative error ${error.toExponential(2)}`);
}

/** Tokens must match wherever the margin is sure and no earlier scale of that image differs. Returns how many did. */
function assertTokens(
  actual: Int32Array,
  expected: Int32Array,
  margin: ArrayLike<number>,
  scales: readonly number[],
): number {
  const count = tokenCount(scales);
  let compared = 0;
  for (let image = 0; image < expected.length / count; image++) {
    let at = image * count;
    for (const side of scales) {
      let same = true;
      for (let t = at; t < at + side * side; t++) {
        same &&= actual[t] === expected[t];
        if (margin[t] <= MARGIN) continue;
        assert.equal(actual[t], expected[t], `token ${t - image * count} of image ${image}`);
        compared++;
      }
      at += side * side;
      if (!same) break;
    }
  }
  return compared;
}

const cases = [
  { name: 'clipb', weights: 'clipb' },
  { name: 'clipb_enhanced', weights: 'clipb_enhanced' },
  { name: 'clipb_interpolated', weights: 'clipb' },
  { name: 'siglip', weights: 'siglip' },
].map(({ name, weights }) => ({
  name,
  folder: path.join(golden, name),
  checkpoint: path.join(golden, weights, 'checkpoint.pt'),
}));

describe(`golden cases at level ${native().simdLevel()} on ${testDevice()}`, function () {
  this.timeout(300_000);
  let scratch: string;
  before(() => {
    scratch = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-golden-'));
  });
  after(() => rmSync(scratch, { recursive: true }));

  for (const { name, folder, checkpoint } of cases) {
    const config = path.join(folder, 'config.json');
    const load = (array: string) => floats(path.join(folder, `${array}.npy`)).data;

    for (const format of ['pt', 'safetensors'] as const) {
      for (const batchSize of [1, 2]) {
        it(`${name}: ${format}, batch ${batchSize}`, async () => {
          let file = checkpoint;
          if (format === 'safetensors') {
            file = path.join(scratch, name, 'model.safetensors');
            if (!existsSync(file)) {
              mkdirSync(path.dirname(file));
              const source = openCheckpoint(checkpoint);
              saveAsSafetensors(source, file);
              source.close();
              copyFileSync(config, path.join(scratch, name, 'config.json'));
            }
          }
          const input = floats(path.join(folder, 'input.npy'));
          const indices = integers(path.join(folder, 'indices.npy'));
          const margin = numbers(path.join(folder, 'margin.npy'));
          assert.equal(input.shape[0], 2);
          assert.ok(Math.min(...margin) > MARGIN, 'every token must match');

          // Beside safetensors lies the converted config.json, which is found without being named.
          await using tokenizer = await TokenFlow.load(file, {
            batchSize,
            ...(format === 'pt' ? { config } : {}),
          });
          const encoded = await tokenizer.encodeTensor(input.data, { features: true });
          assert.deepEqual(encoded.shape, indices.shape);
          assert.equal(
            assertTokens(encoded.tokens, indices.data, margin, tokenizer.scales),
            indices.data.length,
          );

          const quantized = load('quantized'); // NCHW
          const { grid, featureWidth } = tokenizer;
          const channels = (features: Float32Array) => channelsFirst(features, 2, featureWidth);
          assertClose(channels(encoded.features!), quantized, 'features of encode');
          const rows = { tokens: indices.data, shape: indices.shape };
          const gathered = await tokenizer.decodeFeatures(rows);
          assert.deepEqual(gathered.shape, [2, grid * grid, featureWidth]);
          assertClose(channels(gathered.features), quantized, 'features of decode');

          const semantic = await tokenizer.decodeSemantic(rows);
          assert.deepEqual(semantic.shape, floats(path.join(folder, 'semantic.npy')).shape);
          assertClose(semantic.semantic, load('semantic'), 'semantic');
          const pixels = await tokenizer.decodeTensor(rows);
          assert.deepEqual(pixels.shape, floats(path.join(folder, 'pixels.npy')).shape);
          assertClose(pixels.data, load('pixels'), 'pixels');

          const image = await tokenizer.decode(rows);
          const bytes = Float32Array.from(channelsLast(load('pixels'), 2, 3), (y) =>
            Math.trunc(Math.min(255, Math.max(0, 127.5 * y + 128))),
          );
          const wrong = image.data.filter((value, i) => Math.abs(value - bytes[i]) > 1).length;
          assert.equal(wrong, 0, 'bytes off by more than 1');
        });
      }
    }

    it(`${name}: both branches before the quantiser`, () => {
      const source = openCheckpoint(checkpoint);
      const model = readModel(
        new Map([...source.tensors].map(([key, { shape }]) => [key, shape])),
        readConfig(config),
      );
      const store = native().createWeightStore(testDevice());
      const { graph } = encodeGraph(model, 2, { image: 'f32', latents: true });
      const program = native().createProgram(graph, store, 'f32');
      for (const { name: weight } of program.missingWeights()) {
        const derived = model.derived.get(weight);
        program.setWeight(weight, derived ? derived.compute(source.read(derived.from)) : source.read(weight));
      }
      const outputs = program.runSync({ image: channelsLast(load('input'), 2, 3) });
      assertClose(outputs.semanticLatent as Float32Array, load('encode_task_layer'), 'encode_task_layer');
      assertClose(
        channelsFirst(outputs.pixelLatent as Float32Array, 2, model.pixelCodeDim),
        load('quant_conv'),
        'quant_conv',
      );
      program.dispose();
      store.dispose();
      source.close();
    });
  }

  it('has a small trained model with a golden case of its own', async function () {
    const folder = path.join(packageRoot(), 'models', 'tokenflow-tiny');
    const tiny = path.join(folder, 'golden');
    if (!existsSync(tiny)) {
      console.log(`      skipped: ${path.relative(packageRoot(), tiny)} is not there`);
      return this.skip();
    }
    const load = (array: string) => floats(path.join(tiny, `${array}.npy`));
    const input = load('input');
    const indices = integers(path.join(tiny, 'indices.npy'));
    const margin = numbers(path.join(tiny, 'margin.npy'));
    await using tokenizer = await TokenFlow.load(folder);
    const encoded = await tokenizer.encodeTensor(input.data);
    const compared = assertTokens(encoded.tokens, indices.data, margin, tokenizer.scales);
    assert.ok(compared > 0.9 * indices.data.length, `only ${compared} of ${indices.data.length} compared`);
    const rows = { tokens: indices.data, shape: indices.shape };
    const { features } = await tokenizer.decodeFeatures(rows);
    assertClose(
      channelsFirst(features, input.shape[0], tokenizer.featureWidth),
      load('quantized').data,
      'quantized',
    );
    assertClose((await tokenizer.decodeSemantic(rows)).semantic, load('semantic').data, 'semantic');
    assertClose((await tokenizer.decodeTensor(rows)).data, load('pixels').data, 'pixels');
  });
});

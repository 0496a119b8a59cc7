import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { Codebook, DualCodebook, MultiScaleQuantizer, TokenFlowError } from '../lib/codebook/index.js';
import { native, packageRoot } from '../lib/native.js';
import { channelsLast, goldenFloats, goldenIntegers } from './golden-arrays.js';

function worst(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
}

const pairs = readdirSync(path.join(packageRoot(), 'test', 'golden', 'resize'))
  .map((file) => /^(area|bicubic)_(\d+)_(\d+)_in\.npy$/.exec(file))
  .filter((match) => match !== null)
  .map(([, kind, from, to]) => ({ kind, from: Number(from), to: Number(to) }));

describe('resizes of the multi-scale quantiser', () => {
  assert.ok(pairs.length >= 12);
  for (const { kind, from, to } of pairs) {
    it(`${kind} ${from} to ${to} equals PyTorch`, () => {
      const name = `resize/${kind}_${from}_${to}`;
      const given = goldenFloats(`${name}_in`);
      const [batch, channels] = given.shape;
      const wanted = channelsLast(goldenFloats(`${name}_out`));
      const cells = channelsLast(given);
      if (kind === 'area') {
        assert.ok(worst(native().areaDown(cells, { batch, from, to, channels }), wanted) < 1e-6);
        return;
      }
      // The cells as codes: decoding the indices 0, 1, 2, ... of one scale is the resize itself.
      const codebook = new Codebook(cells, { dim: channels });
      const scales = from < to ? [from, to] : [from];
      const quantizer = new MultiScaleQuantizer(codebook, { scales });
      const up = quantizer.decodeSync(
        Int32Array.from({ length: from * from }, (_, i) => i),
        { scales: 1 },
      );
      // PyTorch's own float32 taps are off by up to 2.4e-6 on these values.
      assert.ok(worst(up, wanted) < 4e-6, `off by ${worst(up, wanted)}`);
    });
  }
});

describe('MultiScaleQuantizer', () => {
  const scales = [1, 2, 3, 4];
  const dual = new DualCodebook([
    { vectors: goldenFloats('clipb/codebook_semantic').data, dim: 32, normalize: true },
    { vectors: goldenFloats('clipb/codebook_pixel').data, dim: 8, normalize: true },
  ]);
  const quantizer = new MultiScaleQuantizer(dual, { scales });
  const indices = goldenIntegers('clipb/indices').data;
  const quantized = channelsLast(goldenFloats('clipb/quantized'));
  const image = 4 * 4 * 40;

  // [B, 16, 32] tokens and [B, 8, 4, 4] pixels, side by side in each cell
  const features = (() => {
    const semantic = goldenFloats('clipb/encode_task_layer').data;
    const pixel = channelsLast(goldenFloats('clipb/quant_conv'));
    const out = new Float32Array((semantic.length / 32) * 40);
    for (let cell = 0; cell < semantic.length / 32; cell++) {
      out.set(semantic.subarray(cell * 32, cell * 32 + 32), cell * 40);
      out.set(pixel.subarray(cell * 8, cell * 8 + 8), cell * 40 + 32);
    }
    return out;
  })();

  it('gives the official tokens and sum', async () => {
    const encoded = await quantizer.encode(features);
    assert.deepEqual(encoded.indices, indices);
    assert.ok(worst(encoded.quantized, quantized) < 1e-5);
    assert.deepEqual(quantizer.encodeSync(features), encoded);
  });

  it('gives each image the same in any batch', async () => {
    const both = await quantizer.encode(features);
    for (const b of [0, 1]) {
      const one = await quantizer.encode(features.subarray(b * image, (b + 1) * image));
      assert.deepEqual(one.indices, both.indices.subarray(b * 30, (b + 1) * 30));
      assert.deepEqual(one.quantized, both.quantized.subarray(b * image, (b + 1) * image));
    }
  });

  it('decodes to the same sum, and prefixes to coarser ones', async () => {
    const { quantized: sum } = await quantizer.encode(features);
    assert.deepEqual(await quantizer.decode(indices), sum);
    const error = (decoded: Float32Array) => decoded.reduce((e, v, i) => e + (v - features[i]) ** 2, 0);
    const errors = [];
    for (let count = 1; count <= scales.length; count++) {
      const length = quantizer.tokensOf(count);
      const prefix = new Int32Array(2 * length);
      for (const b of [0, 1]) prefix.set(indices.subarray(b * 30, b * 30 + length), b * length);
      errors.push(error(quantizer.decodeSync(prefix, { scales: count })));
    }
    assert.ok(errors[3] < errors[0]);
  });

  it('refuses what it cannot quantise', async () => {
    const refused = (message: RegExp) => (error: TokenFlowError) =>
      error.code === 'ERR_TOKENFLOW_INVALID_ARGUMENT' && message.test(error.message);
    const broken = features.slice();
    broken[77] = Number.NaN;
    await assert.rejects(quantizer.encode(broken), refused(/finite features/));
    await assert.rejects(quantizer.encode(features.subarray(1)), refused(/\[batch, 4, 4, 40\]/));
    await assert.rejects(quantizer.decode(indices, { scales: 5 }), refused(/1 to 4 for scales/));
    await assert.rejects(quantizer.decode(new Int32Array(30).fill(512)), refused(/from 0 to 511/));
    assert.throws(() => new MultiScaleQuantizer(dual, { scales: [2, 2] }), refused(/scales\[1\]/));
    assert.throws(() => new MultiScaleQuantizer(dual, { scales: [1], weights: [1] }), refused(/2 weights/));
    const gone = new Codebook(new Float32Array(8), { dim: 4 });
    const orphan = new MultiScaleQuantizer(gone, { scales: [1] });
    gone.dispose();
    await assert.rejects(orphan.encode(new Float32Array(4)), { code: 'ERR_TOKENFLOW_DISPOSED' });
    assert.ok(TokenFlowError);
  });
});

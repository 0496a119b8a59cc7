import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import {
  Codebook,
  DualCodebook,
  MultiScaleQuantizer,
  type PhiKernel,
  type TokenFlowError,
} from '../lib/codebook/index.js';
import { native, packageRoot } from '../lib/native.js';
import { channelsLast, goldenFloats, goldenIntegers } from './golden-arrays.js';
import { random, randomFloats } from './support/random.js';

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
    assert.throws(
      () => new MultiScaleQuantizer(dual, { scales: [1], weights: [1] }),
      refused(/2 finite numbers/),
    );
    const gone = new Codebook(new Float32Array(8), { dim: 4 });
    const orphan = new MultiScaleQuantizer(gone, { scales: [1] });
    gone.dispose();
    await assert.rejects(orphan.encode(new Float32Array(4)), { code: 'ERR_TOKENFLOW_DISPOSED' });
  });
});

describe('phi convolutions of the multi-scale quantiser', () => {
  /** Which phi VAR picks, as its models/quant.py writes it with NumPy. */
  function pick(count: number, scale: number, scales: number): number {
    const low = count === 4 ? 1 / 3 / count : 1 / 2 / count;
    const tick = (i: number) => (count === 1 ? low : low + i * ((1 - low - low) / (count - 1)));
    const at = scale / (scales - 1);
    const distances = Array.from({ length: count }, (_, i) => Math.abs(tick(i) - at));
    return distances.indexOf(Math.min(...distances));
  }

  /** h (1 - ratio) + (conv3x3(h) + bias) ratio on one channels-last image, zero padding, in double. */
  function phi(h: Float32Array, grid: number, { weight, bias }: PhiKernel, ratio: number): Float64Array {
    const dim = h.length / grid ** 2;
    const inside = (at: number) => at >= 0 && at < grid;
    return Float64Array.from(h, (value, i) => {
      const [cell, out] = [Math.floor(i / dim), i % dim];
      let sum = bias?.[out] ?? 0;
      for (let tap = 0; tap < 9; tap++) {
        const y = Math.floor(cell / grid) + Math.floor(tap / 3) - 1;
        const x = (cell % grid) + (tap % 3) - 1;
        if (!inside(y) || !inside(x)) continue;
        for (let c = 0; c < dim; c++) sum += h[(y * grid + x) * dim + c] * weight[(out * dim + c) * 9 + tap];
      }
      return value * (1 - ratio) + sum * ratio;
    });
  }

  const scalesOf = (next: () => number) => {
    const scales: number[] = [];
    for (let side = 1; side <= 7; side++) if (next() < 0.6) scales.push(side);
    return scales.length > 1 ? scales : [1, 3, 4];
  };

  it('encodes and decodes as the published code does, scale by scale', () => {
    const property = fc.property(
      fc.integer(),
      fc.integer({ min: 1, max: 19 }),
      fc.integer({ min: 1, max: 6 }),
      fc.constantFrom(0.5, 0.5, 0, 1, 0.3),
      (seed, dim, count, ratio) => {
        const next = random(seed);
        const scales = scalesOf(next);
        const grid = scales[scales.length - 1];
        const codebook = new Codebook(randomFloats(60 * dim, next), { dim });
        const kernels = Array.from({ length: count }, () => ({
          weight: randomFloats(dim * dim * 9, next, 0.4),
          bias: next() < 0.7 ? randomFloats(dim, next, 0.2) : undefined,
        }));
        const plain = new MultiScaleQuantizer(codebook, { scales });
        const quantizer = new MultiScaleQuantizer(codebook, { scales, phi: { kernels, ratio } });
        const features = randomFloats(2 * grid * grid * dim, next, 2);
        const { indices, quantized } = quantizer.encodeSync(features);

        const image = grid * grid * dim;
        for (const b of [0, 1]) {
          const rest = features.slice(b * image, (b + 1) * image);
          const sum = new Float64Array(image);
          let offset = b * quantizer.tokens;
          scales.forEach((side, i) => {
            const own = indices.subarray(offset, offset + side * side);
            offset += side * side;
            const pooled = native().areaDown(rest, { batch: 1, from: grid, to: side, channels: dim });
            // The index is the nearest code of what the reference has left, unless rounding makes it a close call.
            const { indices: found, margins } = codebook.nearestSync(pooled, { margin: true });
            found.forEach((index, t) => {
              assert.ok(index === own[t] || margins![t] < 1e-4);
            });
            // Upsampling alone: what decoding this scale and no other gives, the rest being taken away again.
            const upsample = new MultiScaleQuantizer(codebook, {
              scales: side < grid ? [side, grid] : [side],
            });
            const h = upsample.decodeSync(Int32Array.from(own), { scales: 1 });
            phi(h, grid, kernels[pick(count, i, scales.length)], ratio).forEach((value, at) => {
              rest[at] -= value;
              sum[at] += value;
            });
          });
          sum.forEach((value, at) => {
            assert.ok(Math.abs(value - quantized[b * image + at]) < 1e-4 * (1 + Math.abs(value)));
          });
        }
        assert.deepEqual(quantizer.decodeSync(indices), quantized);
        if (ratio === 0) assert.deepEqual(plain.encodeSync(features), { indices, quantized });
      },
    );
    fc.assert(property, { numRuns: 40 });
  }).timeout(120_000);

  it('gives the same bits on any number of threads and in any batch', async () => {
    const next = random(3);
    const codebook = new Codebook(randomFloats(300 * 20, next), { dim: 20 });
    const kernels = Array.from({ length: 4 }, () => ({ weight: randomFloats(20 * 20 * 9, next, 0.3) }));
    const quantizer = new MultiScaleQuantizer(codebook, { scales: [1, 2, 5, 8], phi: { kernels } });
    const image = 8 * 8 * 20;
    const features = randomFloats(3 * image, next);
    const whole = await quantizer.encode(features);
    const threads = native().threads();
    for (const count of [1, 3, 8]) {
      native().setThreads(count);
      try {
        assert.deepEqual(quantizer.encodeSync(features), whole);
      } finally {
        native().setThreads(threads);
      }
    }
    const last = quantizer.encodeSync(features.subarray(2 * image));
    assert.deepEqual(last.quantized, whole.quantized.subarray(2 * image));
    assert.deepEqual(await quantizer.decode(whole.indices), whole.quantized);
    // A prefix of the scales keeps each scale's own phi.
    const first = quantizer.tokensOf(2);
    const tokens = whole.indices.subarray(0, quantizer.tokens);
    const coarse = quantizer.decodeSync(tokens.slice(0, first), { scales: 2 });
    const later = new MultiScaleQuantizer(codebook, {
      scales: [1, 2, 5, 8],
      phi: {
        kernels: [
          kernels[0],
          kernels[1],
          ...[2, 3].map((i) => ({ weight: kernels[i].weight.map((w) => -w) })),
        ],
      },
    });
    assert.deepEqual(later.decodeSync(tokens.slice(0, first), { scales: 2 }), coarse);
  });

  it('says what is wrong with bad input, describes itself and is disposed of', async () => {
    const codebook = new Codebook(Float32Array.of(1, 2, 3, 4), { dim: 2 });
    const make = (phi: unknown) => () =>
      new MultiScaleQuantizer(codebook, { scales: [1, 2], phi: phi as never });
    const refused = (message: RegExp) => (error: TokenFlowError) =>
      error.code === 'ERR_TOKENFLOW_INVALID_ARGUMENT' && message.test(error.message);
    const weight = new Float32Array(36);
    assert.throws(make({ kernels: [] }), refused(/phi\.kernels/));
    assert.throws(
      make({ kernels: [{ weight, ratio: 1 }] }),
      refused(/Unknown option 'ratio' for phi\.kernels\[0\]/),
    );
    assert.throws(
      make({ kernels: [{ weight: new Float32Array(35) }] }),
      refused(/shape \[2, 2, 3, 3\], 36 elements/),
    );
    assert.throws(make({ kernels: [{ weight, bias: new Float32Array(3) }] }), refused(/kernels\[0\]\.bias/));
    assert.throws(make({ kernels: [{ weight: weight.map(() => Number.NaN) }] }), refused(/finite values/));
    assert.throws(make({ kernels: [{ weight }], ratio: 1.5 }), refused(/0 to 1 for phi\.ratio/));
    const quantizer = make({ kernels: [{ weight }] })();
    assert.equal(
      JSON.stringify(quantizer),
      '{"type":"MultiScaleQuantizer","dim":2,"size":2,"scales":[1,2],"tokens":5,"phi":{"kernels":1,"ratio":0.5}}',
    );
    const pending = quantizer.encode(new Float32Array(8));
    quantizer[Symbol.dispose]();
    assert.equal((await pending).indices.length, 5);
    await assert.rejects(quantizer.encode(new Float32Array(8)), { code: 'ERR_TOKENFLOW_DISPOSED' });
  });
});

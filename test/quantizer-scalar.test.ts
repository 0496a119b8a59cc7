import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  BinarySphericalQuantizer,
  type FiniteScalarBound,
  FiniteScalarQuantizer,
  LookupFreeQuantizer,
} from '../lib/codebook/index.js';
import { native } from '../lib/native.js';
import { random, randomFloats } from './support/random.js';
import { refused } from './support/refused.js';

/** Round half to even, as NumPy and PyTorch round. */
function round(x: number): number {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/** The paper's formula as it is printed, for one element; the level before clamping. */
function level(z: number, count: number, bound: FiniteScalarBound): number {
  if (bound === 'symmetric') return Math.floor(((count - 1) * (Math.tanh(z) + 1)) / 2 + 0.5);
  const half = ((count - 1) * (1 + 1e-3)) / 2;
  const offset = count % 2 === 0 ? 0.5 : 0;
  const bounded =
    bound === 'tanh'
      ? Math.tanh(z + Math.atanh(offset / half))
      : Math.max(-1, Math.min(1, z + offset / half));
  return round(bounded * half - offset) + Math.floor(count / 2);
}

describe('FiniteScalarQuantizer', () => {
  it('gives the values and indices of the paper', async () => {
    const quantizer = new FiniteScalarQuantizer({ levels: [8, 5, 5, 5] });
    assert.deepEqual([quantizer.dim, quantizer.size], [4, 1000]);
    const vectors = Float32Array.of(0, 0, 0, 0, 9, 9, 9, 9, -9, -9, -9, -9);
    const encoded = await quantizer.encode(vectors);
    assert.deepEqual(encoded.indices, Int32Array.of(4 + 8 * (2 + 5 * (2 + 5 * 2)), 999, 0));
    assert.deepEqual(encoded.quantized, Float32Array.of(0, 0, 0, 0, 0.75, 1, 1, 1, -1, -1, -1, -1));
    assert.deepEqual(quantizer.encodeSync(vectors), encoded);
    assert.deepEqual(await quantizer.decode(encoded.indices), encoded.quantized);
    // The first element is the least significant digit.
    assert.deepEqual(quantizer.decodeSync([1]), Float32Array.of(-0.75, -1, -1, -1));
  });

  it('symmetric: even levels about zero', () => {
    const quantizer = new FiniteScalarQuantizer({ levels: [4], bound: 'symmetric' });
    assert.deepEqual(quantizer.decodeSync([0, 1, 2, 3]), Float32Array.of(-1, -1 / 3, 1 / 3, 1));
    assert.deepEqual(
      quantizer.encodeSync(Float32Array.of(-9, -0.3, 0.3, 9)).indices,
      Int32Array.of(0, 1, 2, 3),
    );
  });

  it('keeps within its levels where the published margin reaches past them', () => {
    for (const count of [1002, 1003, 2000, 65536]) {
      const quantizer = new FiniteScalarQuantizer({ levels: [count, 2] });
      assert.deepEqual(quantizer.encodeSync(Float32Array.of(99, -99)).indices, Int32Array.of(count - 1));
      assert.deepEqual(quantizer.encodeSync(Float32Array.of(-99, -99)).indices, Int32Array.of(0));
      assert.ok(level(99, count, 'tanh') >= count);
    }
  });

  it('agrees with the formula; decoding is exact; every index is the code it names', () => {
    const threads = native().threads();
    const property = fc.property(
      fc.integer(),
      fc.array(fc.integer({ min: 2, max: 17 }), { minLength: 1, maxLength: 6 }),
      fc.constantFrom<FiniteScalarBound>('tanh', 'clamp', 'symmetric'),
      fc.integer({ min: 0, max: 600 }),
      (seed, levels, bound, n) => {
        const quantizer = new FiniteScalarQuantizer({ levels, bound });
        const vectors = randomFloats(n * levels.length, random(seed), 2);
        const { indices, quantized } = quantizer.encodeSync(vectors);
        for (let i = 0; i < n; i++) {
          let index = 0;
          for (let e = levels.length - 1; e >= 0; e--) {
            const digit = level(vectors[i * levels.length + e], levels[e], bound);
            assert.ok(digit >= 0 && digit < levels[e]);
            index = index * levels[e] + digit;
          }
          assert.equal(indices[i], index);
        }
        assert.deepEqual(quantizer.decodeSync(indices), quantized);
        native().setThreads(1);
        try {
          assert.deepEqual(quantizer.encodeSync(vectors), { indices, quantized });
        } finally {
          native().setThreads(threads);
        }
      },
    );
    fc.assert(property, { numRuns: 60 });
  });

  it('indices stay exact up to 2^53', () => {
    const quantizer = new FiniteScalarQuantizer({ levels: Array(53).fill(2) });
    assert.equal(quantizer.size, 2 ** 53);
    const top = quantizer.encodeSync(new Float32Array(53).fill(9));
    assert.deepEqual(top.indices, Float64Array.of(2 ** 53 - 1));
    const edges = [0, 1, 2 ** 31, 2 ** 32 + 1, 2 ** 53 - 2, 2 ** 53 - 1];
    const codes = quantizer.decodeSync(edges);
    edges.forEach((index, i) => {
      const bits = [...codes.subarray(i * 53, (i + 1) * 53)].map((value) => (value === 0 ? '1' : '0'));
      assert.equal(Number(BigInt(`0b${bits.reverse().join('')}`)), index);
    });
    assert.throws(() => quantizer.decodeSync(Float64Array.of(2 ** 53)), refused(/whole indices/));
    assert.ok(
      new FiniteScalarQuantizer({ levels: Array(31).fill(2) }).encodeSync(new Float32Array(31))
        .indices instanceof Int32Array,
    );
    assert.ok(
      new FiniteScalarQuantizer({ levels: Array(32).fill(2) }).encodeSync(new Float32Array(32))
        .indices instanceof Float64Array,
    );
  });

  it('says what is wrong with bad input', async () => {
    const make = (options: unknown) => () => new FiniteScalarQuantizer(options as never);
    assert.throws(make(undefined), refused(/levels/));
    assert.throws(make({ levels: [] }), refused(/levels/));
    assert.throws(make({ levels: [8, 1] }), refused(/levels\[1\].*1 \(a number\)/));
    assert.throws(make({ levels: Array(54).fill(2) }), refused(/2\^53/));
    assert.throws(make({ levels: [3], bound: 'tan' }), refused(/did you mean 'tanh'/));
    const quantizer = new FiniteScalarQuantizer({ levels: [3, 3] });
    await assert.rejects(quantizer.encode(new Float32Array(3)), refused(/rows of 2/));
    await assert.rejects(quantizer.encode(Float32Array.of(0, 0, 0, Number.NaN)), refused(/row 1/));
    for (const wrong of [9, -1])
      await assert.rejects(quantizer.decode([0, wrong]), refused(/0 to 8 .*at position 1/));
    assert.throws(() => quantizer.decodeSync(Float64Array.of(0.5)), refused(/whole indices .*0\.5/));
    assert.throws(() => quantizer.decodeSync(Float64Array.of(Number.NaN)), refused(/whole indices/));
    assert.throws(() => quantizer.decodeSync([0.5]), refused(/indices\[0\]/));
    await assert.rejects(quantizer.encode(new Float32Array(2), { signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
    quantizer.dispose();
    assert.throws(
      () => quantizer.decodeSync([0]),
      refused(/FiniteScalarQuantizer was disposed/, 'ERR_TOKENFLOW_DISPOSED'),
    );
  });
});

describe('LookupFreeQuantizer and BinarySphericalQuantizer', () => {
  it('take the signs as bits, the first the most significant', async () => {
    const quantizer = new LookupFreeQuantizer({ dim: 3, scale: 0.5 });
    const encoded = await quantizer.encode(Float32Array.of(1e-30, -2, 0, -0, 7, 7));
    assert.deepEqual(encoded, {
      indices: Int32Array.of(4, 3),
      quantized: Float32Array.of(0.5, -0.5, -0.5, -0.5, 0.5, 0.5),
    });
    assert.deepEqual(quantizer.decodeSync(encoded.indices), encoded.quantized);
  });

  it('spherical codes are unit vectors, the nearest on the cube', () => {
    const quantizer = new BinarySphericalQuantizer({ dim: 4 });
    const all = quantizer.decodeSync(Array.from({ length: 16 }, (_, i) => i));
    assert.ok(all.every((value) => Math.abs(value) === 0.5));
    const next = random(3);
    const vectors = randomFloats(200 * 4, next);
    quantizer.encodeSync(vectors).indices.forEach((index, i) => {
      const row = vectors.subarray(i * 4, i * 4 + 4);
      const dots = Array.from({ length: 16 }, (_, j) =>
        row.reduce((sum, v, e) => sum + v * all[j * 4 + e], 0),
      );
      assert.equal(index, dots.indexOf(Math.max(...dots)));
    });
  });

  it('round-trip every index of a wide code', () => {
    const quantizer = new LookupFreeQuantizer({ dim: 53 });
    const property = fc.property(fc.array(fc.maxSafeNat(), { maxLength: 20 }), (indices) => {
      const codes = quantizer.decodeSync(indices);
      assert.deepEqual(quantizer.encodeSync(codes).indices, Float64Array.from(indices));
      indices.forEach((index, i) => {
        const bits = [...codes.subarray(i * 53, (i + 1) * 53)]
          .map((value) => (value > 0 ? '1' : '0'))
          .join('');
        assert.equal(BigInt(`0b${bits}`), BigInt(index));
      });
    });
    fc.assert(property, { numRuns: 40 });
  });

  it('say what is wrong with bad input, and describe themselves', () => {
    assert.throws(() => new LookupFreeQuantizer({ dim: 54 }), refused(/1 to 53 for dim/));
    assert.throws(() => new LookupFreeQuantizer({ dim: 2, scale: 0 }), refused(/above 0 for scale/));
    assert.throws(() => new BinarySphericalQuantizer({ dim: 2, scale: 1 } as never), refused(/'scale'/));
    assert.equal(
      JSON.stringify([new LookupFreeQuantizer({ dim: 2 }), new BinarySphericalQuantizer({ dim: 2 })]),
      '[{"type":"LookupFreeQuantizer","dim":2,"scale":1,"size":4},{"type":"BinarySphericalQuantizer","dim":2,"size":4}]',
    );
    assert.equal(
      JSON.stringify(new FiniteScalarQuantizer({ levels: [3, 4] })),
      '{"type":"FiniteScalarQuantizer","levels":[3,4],"bound":"tanh","size":12}',
    );
  });
});

/** Learning and quantisers on a card, over the emulated machine: what the CPU gives, bit for bit, and what can go wrong. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  Codebook,
  DeviceBuffer,
  EmaCodebook,
  type KMeansOptions,
  kMeans,
  kMeansSync,
  MiniBatchKMeans,
  ProductQuantizer,
  ResidualQuantizer,
} from '../../lib/index.js';
import { emulated, inChild } from './child.js';

/** Reproducible values around 0, some of them equal. */
function values(length: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.round(state / 2 ** 24 - 128) / 32;
  });
}

const DEVICES = ['cuda', 'cpu'] as const;
const seeds = fc.integer({ min: 1, max: 1e6 });
const metrics = fc.constantFrom('l2' as const, 'cosine' as const);

describe('learning on a CUDA device', function () {
  this.timeout(120_000);
  before(function () {
    if (!emulated()) this.skip();
  });

  it('k-means gives the codes, objectives and splits of the CPU to the bit', () => {
    const shapes = fc.record({
      n: fc.integer({ min: 1, max: 140 }),
      dim: fc.integer({ min: 1, max: 20 }),
      share: fc.integer({ min: 1, max: 8 }),
      metric: metrics,
      init: fc.constantFrom('k-means++' as const, 'random' as const, 'same' as const),
      seed: seeds,
    });
    fc.assert(
      fc.property(shapes, ({ n, dim, share, metric, init, seed }) => {
        const vectors = values(n * dim, seed);
        const size = Math.ceil(n / share);
        const plain: KMeansOptions = { dim, size, metric, seed, maxIterations: 3, tolerance: 0 };
        // All codes equal: all but one are empty, and split others.
        const options = { ...plain, init: init === 'same' ? new Float32Array(size * dim).fill(0.25) : init };
        const [cuda, cpu] = DEVICES.map((device) => kMeansSync(vectors, { ...options, device }));
        assert.deepEqual(cuda, cpu);
      }),
      { numRuns: 6 },
    );
  });

  it('k-means goes on in jobs, reports, stops when aborted, and says what is wrong with vectors', async () => {
    const vectors = values(200 * 4, 1);
    const steps: string[] = [];
    const onProgress = ({ phase }: { phase: string }) => steps.push(phase);
    const { codes } = await kMeans(vectors, { dim: 4, size: 9, device: 'cuda', onProgress });
    assert.deepEqual(codes, kMeansSync(vectors, { dim: 4, size: 9, device: 'cpu' }).codes);
    assert.ok(steps.includes('seed') && steps.includes('iterate'));
    const controller = new AbortController();
    const stopping = kMeans(vectors, {
      ...{ dim: 4, size: 9, device: 'cuda', signal: controller.signal },
      onProgress: ({ phase }) => phase === 'iterate' && controller.abort(new Error('enough')),
    });
    await assert.rejects(stopping, /enough/);
    vectors[41] = Number.NaN;
    await assert.rejects(
      kMeans(vectors, { dim: 4, size: 9, device: 'cuda' }),
      /finite vectors but row 10 has NaN/,
    );
    vectors[41] = 3e38;
    const init = new Float32Array(4);
    await assert.rejects(
      kMeans(vectors, { dim: 4, size: 1, init, device: 'cuda' }),
      /small enough to square but row 10 overflows/,
    );
  });

  it('counts and sums of a batch are those of the CPU to the bit, from arrays and from buffers', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 1100 }), seeds, metrics, async (n, seed, metric) => {
        const dim = 5;
        const codes = values(300 * dim, 3).map((value) => value + 0.01);
        const vectors = values(n * dim, seed);
        const indices = Int32Array.from({ length: n }, (_, i) => Math.imul(i + seed, 2654435761) >>> 0).map(
          (v) => Math.abs(v % 300),
        );
        const [cuda, cpu] = DEVICES.map((device) => new EmaCodebook(codes, { dim, metric, device }));
        const expected = cpu.accumulateSync(vectors, indices);
        assert.deepEqual(await cuda.accumulate(vectors, indices), expected);
        const [x, which] = [
          await DeviceBuffer.from(vectors, { device: 'cuda' }),
          await DeviceBuffer.from(indices, { device: 'cuda' }),
        ];
        assert.deepEqual(await cuda.accumulate(x, which), expected);
        assert.deepEqual(await x.read(), vectors);
        await cuda.update(x, which);
        cpu.updateSync(vectors, indices);
        assert.deepEqual([cuda.codes, cuda.counts, cuda.sums], [cpu.codes, cpu.counts, cpu.sums]);
      }),
      { numRuns: 5 },
    );
    const ema = new EmaCodebook(values(40, 1), { dim: 4, device: 'cuda' });
    assert.equal(ema.device, 'cuda:0');
    const vectors = values(40, 2);
    const indices = new Int32Array(10);
    indices[7] = 10;
    await assert.rejects(ema.accumulate(vectors, indices), /from 0 to 9 but received 10 at position 7/);
    vectors[9] = Number.NaN;
    await assert.rejects(ema.accumulate(vectors, indices), /finite vectors but row 2 has NaN/);
  });

  it('an EMA step stays on the device from lookup to sums, and mini-batches are the CPU’s', async () => {
    const [cuda, cpu] = DEVICES.map((device) => new EmaCodebook(values(64 * 8, 1), { dim: 8, device }));
    const minis = DEVICES.map((device) => new MiniBatchKMeans(values(64 * 8, 1), { dim: 8, device }));
    for (let step = 0; step < 3; step++) {
      const batch = values(200 * 8, step + 5);
      const codebook = new Codebook(cuda.codes, { dim: 8, device: 'cuda' });
      const x = await DeviceBuffer.from(batch, { device: 'cuda' });
      const { indices, distances } = await codebook.nearest(x, { result: 'device' });
      await cuda.update(x, indices);
      for (const one of [x, indices, distances, codebook]) one.dispose();
      cpu.updateSync(batch, new Codebook(cpu.codes, { dim: 8, device: 'cpu' }).nearestSync(batch).indices);
      assert.deepEqual(cuda.codes, cpu.codes);
      assert.deepEqual(await minis[0].update(batch), minis[1].updateSync(batch));
    }
    assert.deepEqual(minis[0].codes, minis[1].codes);
  });

  it('rejects when the device has no memory for the vectors, or is lost on the way; the CPU goes on', () => {
    const small = inChild(
      PRELUDE,
      `const refused = await failure(kMeans(values(1 << 20), { dim: 4, size: 4, maxIterations: 1, device: 'cuda' }));
       const ema = new EmaCodebook(values(64), { dim: 4, device: 'cuda' });
       const sums = await failure(ema.accumulate(values(1 << 20), new Int32Array(1 << 18)));
       return [refused, sums, await failure(kMeans(values(400), { dim: 4, size: 4, device: 'cuda' }))];`,
      { EMULATED_MEMORY_MIB: '2' },
    );
    assert.equal(small[0].code, 'ERR_TOKENFLOW_OUT_OF_MEMORY');
    assert.match(small[0].message, /no memory for 262144 vectors to learn from/);
    assert.match(small[1].message, /no memory for the sums of 262144 vectors/);
    assert.equal(small[2], 'no error');
    const lost = inChild(
      PRELUDE,
      `const ema = new EmaCodebook(values(64), { dim: 4, device: 'cuda' });
       const onProgress = ({ phase }) => { if (phase === 'iterate') process.env.EMULATED_FAULT = 'launch:700'; };
       const refused = await failure(kMeans(values(400), { dim: 4, size: 4, tolerance: 0, device: 'cuda', onProgress }));
       process.env.EMULATED_FAULT = '';
       const before = JSON.stringify(ema.sums);
       const later = await failure(ema.update(values(40), new Int32Array(10)));
       return [refused, later, before === JSON.stringify(ema.sums),
         (await kMeans(values(400), { dim: 4, size: 4, device: 'auto' })).codes.length];`,
    );
    for (const { code, message } of lost.slice(0, 2)) {
      assert.equal(code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
      assert.match(message, /was lost: .*illegal memory access/);
    }
    assert.deepEqual(lost.slice(2), [true, 16]);
  });
});

describe('quantisers on a CUDA device', function () {
  this.timeout(120_000);
  before(function () {
    if (!emulated()) this.skip();
  });

  const book = (
    size: number,
    dim: number,
    seed: number,
    device: 'cuda' | 'cpu',
    metric: 'l2' | 'cosine' = 'l2',
  ) => new Codebook(values(size * dim, seed), { dim, device, metric });

  it('residual: indices, sums and errors are those of the CPU to the bit, wherever they are', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 150 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 12 }),
        seeds,
        metrics,
        async (n, stages, dim, seed, metric) => {
          const [cuda, cpu] = DEVICES.map(
            (device) =>
              new ResidualQuantizer(
                Array.from({ length: stages }, (_, s) => book(20 + 30 * s, dim, seed + s, device, metric)),
              ),
          );
          assert.equal(cuda.device, 'cuda:0');
          const vectors = values(n * dim, seed + 9);
          const expected = cpu.encodeSync(vectors);
          assert.deepEqual(await cuda.encode(vectors), expected);
          assert.deepEqual(cuda.decodeSync(expected.indices), expected.quantized);
          const x = DeviceBuffer.fromSync(vectors, { device: 'cuda' });
          const there = await cuda.encode(x, { result: 'device' });
          assert.deepEqual(await there.indices.read(), expected.indices);
          assert.deepEqual(await there.quantized.read(), expected.quantized);
          assert.deepEqual(await there.errors.read(), expected.errors);
          const sum = await cuda.decode(there.indices, { result: 'device' });
          assert.deepEqual(await sum.read(), expected.quantized);
          const first = expected.indices.filter((_, i) => i % stages === 0);
          assert.deepEqual(cuda.decodeSync(first, { stages: 1 }), cpu.decodeSync(first, { stages: 1 }));
        },
      ),
      { numRuns: 4 },
    );
  });

  it('product: indices and codes are those of the CPU to the bit, wherever they are', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 150 }),
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }),
        seeds,
        async (n, dims, seed) => {
          const [cuda, cpu] = DEVICES.map(
            (device) => new ProductQuantizer(dims.map((dim, g) => book(15 + 40 * g, dim, seed + g, device))),
          );
          const vectors = values(n * cpu.dim, seed + 9);
          const expected = cpu.encodeSync(vectors);
          assert.deepEqual(await cuda.encode(vectors), expected);
          assert.deepEqual(cuda.decodeSync(expected.indices), expected.quantized);
          const x = DeviceBuffer.fromSync(vectors, { device: 'cuda' });
          const there = cuda.encodeSync(x, { result: 'device' });
          assert.deepEqual(there.indices.readSync(), expected.indices);
          assert.deepEqual(
            (await cuda.decode(there.indices, { result: 'device' })).readSync(),
            expected.quantized,
          );
          if (n > 0) {
            const query = vectors.subarray(0, cpu.dim);
            assert.deepEqual(
              cuda.searchSync(query, expected.indices),
              cpu.searchSync(query, expected.indices),
            );
          }
        },
      ),
      { numRuns: 4 },
    );
  });

  it('say what is wrong: rows, indices, beams, codebooks apart', async () => {
    const residual = new ResidualQuantizer([book(9, 4, 1, 'cuda'), book(8, 4, 2, 'cuda')]);
    const product = new ProductQuantizer([book(9, 4, 1, 'cuda'), book(8, 2, 2, 'cuda')]);
    const x = values(12 * 5, 3);
    x[17] = Number.NaN;
    await assert.rejects(residual.encode(x), /finite vectors but row 4 has NaN.*at stage 0/);
    await assert.rejects(product.encode(x), /no code for group 1 of row 2/);
    await assert.rejects(
      residual.encode(values(8, 1), { beam: 2 }),
      /Expected 1, as codebooks on cuda:0.*for beam/,
    );
    assert.throws(
      () => residual.decodeSync([0, 0, 3, 8]),
      /from 0 to 7 for stage 1 but received 8 at position 3/,
    );
    assert.throws(
      () => product.decodeSync([0, 7, 9, -1]),
      /from 0 to 8 for group 0 but received 9 at position 2/,
    );
    const buffer = DeviceBuffer.fromSync(Int32Array.of(0, 0, -1, 0), { device: 'cuda' });
    await assert.rejects(residual.decode(buffer), /for stage 0 but received -1 at position 2/);
    assert.throws(
      () => new ResidualQuantizer([book(9, 4, 1, 'cuda'), book(8, 4, 2, 'cpu')]),
      /on one device but codebooks\[0\] is on cuda:0 and codebooks\[1\] on cpu/,
    );
  });

  it('go over many rows in pieces when the device is small, and reject when it is lost', () => {
    const got = inChild(
      PRELUDE,
      `const books = (device) => [1, 2].map((s) => new Codebook(values(32 * 20).map((v) => v / s), { dim: 32, device }));
       const x = values(2500 * 32);
       const same = [ResidualQuantizer, ProductQuantizer].map((Quantizer) => {
         const [cuda, cpu] = ['cuda', 'cpu'].map((device) => new Quantizer(books(device)));
         const [a, b] = [cuda, cpu].map((q) => q.encodeSync(x));
         return JSON.stringify(a) === JSON.stringify(b) &&
           JSON.stringify(cuda.decodeSync(a.indices)) === JSON.stringify(cpu.decodeSync(a.indices));
       });
       const quantizer = new ResidualQuantizer(books('cuda'));
       process.env.EMULATED_FAULT = 'cudaStreamSynchronize:719';
       return [...same, await failure(quantizer.encode(x.subarray(0, 64)))];`,
      { EMULATED_MEMORY_MIB: '1' },
    );
    assert.deepEqual(got.slice(0, 2), [true, true]);
    assert.equal(got[2].code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
  });
});

const PRELUDE = `
  const { Codebook, EmaCodebook, kMeans, ProductQuantizer, ResidualQuantizer } = require('./dist/index.js');
  const values = (length) => Float32Array.from({ length }, (_, i) => Math.sin(i * i));
  const failure = (promise) => promise.then(() => 'no error', ({ code, message, reason }) => ({ code, message, reason }));
`;

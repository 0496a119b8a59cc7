import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Codebook, ResidualQuantizer } from '../lib/codebook/index.js';
import { native } from '../lib/native.js';
import { gridFloats, random, randomFloats } from './support/random.js';
import { refused } from './support/refused.js';

interface Hypothesis {
  residual: Float32Array;
  path: number[];
}

const squared = (row: Float32Array) => row.reduce((sum, value) => sum + value * value, 0);

/** One row by the definition, with nothing but single lookups. */
function encodeRow(codebooks: Codebook[], row: Float32Array, beam: number): number[] {
  let beams: Hypothesis[] = [{ residual: row, path: [] }];
  for (const codebook of codebooks) {
    const k = Math.min(beam, codebook.size - codebook.nonFinite);
    const extended = beams.flatMap(({ residual, path }) =>
      [...codebook.nearestSync(residual, { k }).indices].map((index) => {
        const code = codebook.lookup([index]);
        const rest = residual.map((value, e) => value - code[e]);
        return { residual: rest, path: [...path, index], error: squared(rest) };
      }),
    );
    beams = extended.sort((a, b) => a.error - b.error).slice(0, beam); // sort is stable
  }
  return beams[0].path;
}

describe('ResidualQuantizer', () => {
  const coarse = new Codebook(Float32Array.of(0, 0, 4, 0, 0, 4), { dim: 2 });
  const fine = new Codebook(Float32Array.of(0, 0, 1, 0, 0, 1, -1, -1), { dim: 2 });
  const quantizer = new ResidualQuantizer([coarse, fine]);

  it('quantises what the stages before left over', async () => {
    const vectors = Float32Array.of(5, 0, -1, -1, 0.25, 5);
    const encoded = await quantizer.encode(vectors);
    assert.deepEqual(encoded, {
      indices: Int32Array.of(1, 1, 0, 3, 2, 2),
      quantized: Float32Array.of(5, 0, -1, -1, 0, 5),
      errors: Float32Array.of(0, 0, 0.0625),
    });
    assert.deepEqual(quantizer.encodeSync(vectors), encoded);
    assert.deepEqual(await quantizer.decode(encoded.indices), encoded.quantized);
    assert.deepEqual(quantizer.decodeSync(encoded.indices), encoded.quantized);
    const first = encoded.indices.filter((_, i) => i % 2 === 0);
    assert.deepEqual(await quantizer.decode(first, { stages: 1 }), Float32Array.of(4, 0, 0, 0, 0, 4));
  });

  it('a beam finds the pair of codes that greedy misses', () => {
    const near = new Codebook(Float32Array.of(0, 10), { dim: 1 });
    const far = new Codebook(Float32Array.of(0, -6), { dim: 1 });
    const pair = new ResidualQuantizer([near, far]);
    const greedy = pair.encodeSync(Float32Array.of(4.5));
    assert.deepEqual(greedy.indices, Int32Array.of(0, 0));
    const beam = pair.encodeSync(Float32Array.of(4.5), { beam: 2 });
    assert.deepEqual(beam.indices, Int32Array.of(1, 1));
    assert.deepEqual([greedy.errors[0], beam.errors[0]], [20.25, 0.25]);
  });

  it('gives what the definition gives, greedy and by beam, on any number of threads', () => {
    const threads = native().threads();
    const property = fc.property(
      fc.record({
        seed: fc.integer(),
        dim: fc.integer({ min: 1, max: 9 }),
        sizes: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
        n: fc.integer({ min: 0, max: 20 }),
        beam: fc.constantFrom(1, 1, 2, 3, 7, 64),
        metric: fc.constantFrom<'l2' | 'cosine'>('l2', 'l2', 'cosine'),
        grid: fc.boolean(),
        spoilt: fc.boolean(),
      }),
      ({ seed, dim, sizes, n, beam, metric, grid, spoilt }) => {
        const next = random(seed);
        const codebooks = sizes.map((size, stage) => {
          const codes = grid ? gridFloats(size * dim, next) : randomFloats(size * dim, next, 0.5 ** stage);
          if (spoilt && size > 1) codes[0] = Number.NaN;
          return new Codebook(codes, { dim, metric });
        });
        const vectors = grid ? gridFloats(n * dim, next) : randomFloats(n * dim, next);
        const rows = new ResidualQuantizer(codebooks);
        const encoded = rows.encodeSync(vectors, { beam });
        const expected = Array.from({ length: n }, (_, i) =>
          encodeRow(codebooks, vectors.subarray(i * dim, (i + 1) * dim), beam),
        );
        assert.deepEqual(encoded.indices, Int32Array.from(expected.flat()));
        assert.deepEqual(rows.decodeSync(encoded.indices), encoded.quantized);
        const sum = new Float32Array(n * dim);
        for (let stage = 0; stage < sizes.length; stage++) {
          const codes = codebooks[stage].lookup(expected.map((path) => path[stage]));
          codes.forEach((value, e) => {
            sum[e] += value;
          });
        }
        assert.deepEqual(encoded.quantized, sum);
        encoded.errors.forEach((error, i) => {
          const rest = vectors
            .subarray(i * dim, (i + 1) * dim)
            .map((value, e) => value - encoded.quantized[i * dim + e]);
          assert.equal(error, Math.fround(squared(rest)));
        });
        native().setThreads(1);
        try {
          assert.deepEqual(rows.encodeSync(vectors, { beam }), encoded);
        } finally {
          native().setThreads(threads);
        }
      },
    );
    fc.assert(property, { numRuns: 60 });
  });

  it('gives rows the same result in a batch of many chunks', () => {
    const next = random(1);
    const stages = [1, 0.5].map((scale) => new Codebook(randomFloats(50 * 3, next, scale), { dim: 3 }));
    const many = new ResidualQuantizer(stages);
    const vectors = randomFloats(3000 * 3, next);
    const whole = many.encodeSync(vectors, { beam: 16 });
    for (const at of [0, 1023, 1024, 2999]) {
      const one = many.encodeSync(vectors.subarray(at * 3, at * 3 + 3), { beam: 16 });
      assert.deepEqual(one.indices, whole.indices.subarray(at * 2, at * 2 + 2));
    }
  });

  it('stops when its signal aborts', async () => {
    await assert.rejects(quantizer.encode(new Float32Array(2), { signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
    const next = random(2);
    const large = new ResidualQuantizer([new Codebook(randomFloats(4096 * 32, next), { dim: 32 })]);
    const controller = new AbortController();
    const running = large.encode(randomFloats(20_000 * 32, next), { beam: 8, signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 5);
    await assert.rejects(running, /enough/);
  });

  it('says what is wrong with bad input', async () => {
    assert.throws(() => new ResidualQuantizer([]), refused(/one per stage/));
    assert.throws(() => new ResidualQuantizer([{}] as never), refused(/a Codebook for codebooks\[0\]/));
    const other = new Codebook(Float32Array.of(1), { dim: 1 });
    assert.throws(() => new ResidualQuantizer([coarse, other]), refused(/one dimension.*2 and 1/));
    const ip = new Codebook(Float32Array.of(1, 1), { dim: 2, metric: 'ip' });
    assert.throws(() => new ResidualQuantizer([ip]), refused(/codebooks\[0\].*'ip'/));
    const spoilt = new Codebook(Float32Array.of(Number.NaN), { dim: 1 });
    assert.throws(() => new ResidualQuantizer([spoilt]), refused(/finite code/));
    await assert.rejects(quantizer.encode(new Float32Array(3)), refused(/rows of 2/));
    await assert.rejects(quantizer.encode(new Float32Array(2), { beam: 0 }), refused(/1 to 64 for beam/));
    await assert.rejects(
      quantizer.encode(new Float32Array(2), { beem: 2 } as never),
      refused(/'beem'.*'beam'/),
    );
    await assert.rejects(quantizer.encode(Float32Array.of(0, 0, 0, Number.NaN)), refused(/row 1 .*stage 0/));
    await assert.rejects(quantizer.decode([0]), refused(/multiple of 2 .*received 1/));
    await assert.rejects(quantizer.decode([0, 0, 0, 4]), refused(/0 to 3 for stage 1 .*4 at position 3/));
    await assert.rejects(quantizer.decode([-1, 0]), refused(/-1 at position 0/));
    await assert.rejects(quantizer.decode([0], { stages: 3 }), refused(/1 to 2 for stages/));
  });

  it('is disposed of by itself or with its codebooks', async () => {
    const gone = new ResidualQuantizer([coarse]);
    gone[Symbol.dispose]();
    await assert.rejects(gone.encode(new Float32Array(2)), refused(/disposed/, 'ERR_TOKENFLOW_DISPOSED'));
    const codebook = new Codebook(Float32Array.of(1), { dim: 1 });
    const orphan = new ResidualQuantizer([codebook]);
    codebook.dispose();
    assert.throws(() => orphan.decodeSync([0]), refused(/Codebook was disposed/, 'ERR_TOKENFLOW_DISPOSED'));
  });

  it('describes itself as JSON', () => {
    assert.equal(
      JSON.stringify(quantizer),
      '{"type":"ResidualQuantizer","dim":2,"stages":[{"size":3,"metric":"l2"},{"size":4,"metric":"l2"}]}',
    );
  });
});

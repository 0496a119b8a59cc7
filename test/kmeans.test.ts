import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Codebook, type KMeansProgress, kMeans, kMeansSync, TokenFlowError } from '../lib/codebook/index.js';
import { Random } from '../lib/codebook/random.js';
import { native } from '../lib/native.js';
import { gridFloats, random, randomFloats } from './support/random.js';

const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof TokenFlowError, String(error));
  assert.equal(error.code, 'ERR_TOKENFLOW_INVALID_ARGUMENT');
  assert.match(error.message, message);
  return true;
};

/** Sum of the distances of all vectors from their nearest codes. */
function objective(vectors: Float32Array, codes: Float32Array, dim: number, metric: 'l2' | 'cosine' = 'l2') {
  const { distances } = new Codebook(codes, { dim, metric }).nearestSync(vectors);
  return distances.reduce((sum, distance) => sum + distance, 0);
}

/** One of Lloyd's iterations in double, given the assignment; empty codes are left alone. */
function means(
  vectors: Float32Array,
  indices: Int32Array,
  codes: Float32Array,
  dim: number,
  metric: 'l2' | 'cosine',
): Float32Array {
  const next = Float32Array.from(codes);
  for (let code = 0; code < codes.length / dim; code++) {
    const sum = new Float64Array(dim);
    let count = 0;
    indices.forEach((index, i) => {
      if (index !== code) return;
      const row = vectors.subarray(i * dim, (i + 1) * dim);
      count++;
      for (let e = 0; e < dim; e++) sum[e] += row[e];
    });
    const size = metric === 'cosine' ? Math.sqrt(sum.reduce((s, v) => s + v * v, 0)) : count;
    if (size > 0)
      next.set(
        sum.map((value) => value / size),
        code * dim,
      );
  }
  return next;
}

/** Blobs far from each other. */
function blobs(count: number, each: number, dim: number, next: () => number): Float32Array {
  const centres = randomFloats(count * dim, next, 100);
  return Float32Array.from({ length: count * each * dim }, (_, i) => {
    const row = Math.floor(i / dim);
    return centres[(row % count) * dim + (i % dim)] + next() - 0.5;
  });
}

describe('kMeans', () => {
  it('finds blobs, by either seeding, the same Sync', async () => {
    const vectors = blobs(8, 50, 3, random(1));
    const options = { dim: 3, size: 8, seed: 5 };
    const found = await kMeans(vectors, options);
    assert.ok(found.converged);
    assert.ok(objective(vectors, found.codes, 3) < 400 * 3 * 0.1, 'one code per blob');
    assert.deepEqual(kMeansSync(vectors, options), found);
    const drawn = kMeansSync(vectors, { ...options, init: 'random' });
    assert.notDeepEqual(drawn.codes, found.codes);
    assert.ok(drawn.objectives.every((value, i) => i === 0 || value <= drawn.objectives[i - 1]));
  });

  it("an iteration is Lloyd's, on any number of threads", () => {
    const threads = native().threads();
    const property = fc.property(
      fc.record({
        seed: fc.integer(),
        dim: fc.integer({ min: 1, max: 20 }),
        n: fc.integer({ min: 1, max: 300 }),
        size: fc.integer({ min: 1, max: 40 }),
        metric: fc.constantFrom<'l2' | 'cosine'>('l2', 'cosine'),
        grid: fc.boolean(),
      }),
      ({ seed, dim, n, size: wanted, metric, grid }) => {
        const next = random(seed);
        const size = Math.min(wanted, n);
        const floats = (length: number) => (grid ? gridFloats(length, next) : randomFloats(length, next));
        const vectors = floats(n * dim);
        const init = floats(size * dim);
        const options = { dim, size, metric, init, maxIterations: 1 };
        const found = kMeansSync(vectors, options);
        // Spherical k-means is k-means of the unit vectors that a cosine codebook compares.
        const rows = (given: Float32Array) => {
          const book = new Codebook(given, { dim, metric });
          return book.lookup(Array.from({ length: book.size }, (_, j) => j));
        };
        const seen = rows(vectors);
        const start = rows(init);
        const { indices, distances } = new Codebook(start, { dim, metric }).nearestSync(seen);
        const expected = means(seen, indices, start, dim, metric);
        const total = distances.reduce((sum, distance) => sum + distance, 0);
        assert.ok(Math.abs(found.objectives[0] - total) <= 1e-4 * (total + 1));
        const counts = new Int32Array(size);
        for (const index of indices) counts[index]++;
        for (let code = 0; code < size; code++) {
          const actual = found.codes.subarray(code * dim, (code + 1) * dim);
          const wantedRow = expected.subarray(code * dim, (code + 1) * dim);
          const near = (row: Float32Array) => row.every((value, e) => Math.abs(value - actual[e]) <= 1e-5);
          if (counts[code] > 0) {
            assert.ok(near(wantedRow), `code ${code}: ${actual} for ${wantedRow}`);
          } else {
            // A split moves it onto a vector; where there is nothing to split it stays.
            const moved = Array.from(indices.keys()).some((i) => near(seen.subarray(i * dim, (i + 1) * dim)));
            assert.ok(moved || near(wantedRow), `empty code ${code}`);
          }
        }
        native().setThreads(1);
        try {
          assert.deepEqual(kMeansSync(vectors, options), found);
        } finally {
          native().setThreads(threads);
        }
      },
    );
    fc.assert(property, { numRuns: 80 });
  });

  it('never raises the objective, whatever the data', () => {
    const property = fc.property(
      fc.integer(),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 30 }),
      fc.constantFrom<'l2' | 'cosine'>('l2', 'cosine'),
      fc.boolean(),
      (seed, dim, size, metric, grid) => {
        const next = random(seed);
        const vectors = (grid ? gridFloats : randomFloats)(size * 7 * dim, next);
        const found = kMeansSync(vectors, {
          dim,
          size,
          metric,
          seed: seed >>> 0,
          tolerance: 0,
          maxIterations: 40,
        });
        found.objectives.forEach((value, i) => {
          if (i > 0) assert.ok(value <= found.objectives[i - 1] * (1 + 1e-5) + 1e-5, `${found.objectives}`);
        });
        const last = found.objectives.at(-1) ?? 0;
        assert.ok(objective(vectors, found.codes, dim, metric) <= last * (1 + 1e-5) + 1e-5);
      },
    );
    fc.assert(property, { numRuns: 60 });
  });

  it('splits codes that no vector chose, until all are in use', () => {
    const vectors = blobs(6, 20, 2, random(2));
    const init = new Float32Array(6 * 2).fill(1e6); // all six in one far place: one takes all, five are empty
    const empties: number[] = [];
    const found = kMeansSync(vectors, {
      dim: 2,
      size: 6,
      init,
      onProgress: ({ empty }) => empty !== undefined && empties.push(empty),
    });
    assert.equal(empties[0], 5);
    assert.equal(empties.at(-1), 0);
    const chosen = new Codebook(found.codes, { dim: 2 }).nearestSync(vectors).indices;
    assert.equal(new Set(chosen).size, 6);
  });

  it('k-means++ draws in proportion to squared distances', () => {
    // From 0, 3 and 10, after 0: 3 in 9 of 109 draws. After 3: 0 in 9 of 58. After 10: 0 in 100 of 149.
    const vectors = Float32Array.of(0, 3, 10);
    const pairs = new Map<string, number>();
    const runs = 6000;
    for (let seed = 0; seed < runs; seed++) {
      const { codes } = kMeansSync(vectors, { dim: 1, size: 2, maxIterations: 0, seed });
      pairs.set(String([...codes]), (pairs.get(String([...codes])) ?? 0) + 1);
    }
    const expected = {
      '0,3': 9 / 109,
      '0,10': 100 / 109,
      '3,0': 9 / 58,
      '3,10': 49 / 58,
      '10,0': 100 / 149,
      '10,3': 49 / 149,
    };
    for (const [pair, share] of Object.entries(expected)) {
      const mean = (runs * share) / 3;
      const off = Math.abs((pairs.get(pair) ?? 0) - mean) / Math.sqrt(mean);
      assert.ok(off < 4.5, `${pair}: ${pairs.get(pair)} draws, ${mean} expected`);
    }
  });

  it('seeds with what there is when there are fewer different vectors than codes', () => {
    const vectors = new Float32Array(10 * 2).fill(1);
    for (const init of ['k-means++', 'random'] as const) {
      const found = kMeansSync(vectors, { dim: 2, size: 4, init });
      assert.deepEqual(found.codes, new Float32Array(8).fill(1));
      assert.equal(found.objectives.at(-1), 0);
    }
  });

  it('gives the same codes for the same seed, others for another', () => {
    const vectors = randomFloats(500 * 4, random(3));
    const codes = (seed: number) => kMeansSync(vectors, { dim: 4, size: 20, seed }).codes;
    assert.deepEqual(codes(1), codes(1));
    assert.notDeepEqual(codes(1), codes(2));
    assert.notDeepEqual(codes(2 ** 32 + 1), codes(1));
  });

  it('reports progress, and ends where it is asked to', async () => {
    const vectors = randomFloats(400 * 3, random(4));
    const reports: KMeansProgress[] = [];
    const found = await kMeans(vectors, {
      dim: 3,
      size: 100,
      maxIterations: 3,
      tolerance: 0,
      onProgress: (report) => reports.push(report),
    });
    assert.equal(found.iterations, 3);
    assert.ok(!found.converged);
    assert.deepEqual(
      reports.map(({ phase, done, total }) => [phase, done, total]),
      [
        ['seed', 64, 100],
        ['seed', 100, 100],
        ['iterate', 1, 3],
        ['iterate', 2, 3],
        ['iterate', 3, 3],
      ],
    );
    assert.deepEqual(
      reports.slice(2).map((report) => report.objective),
      found.objectives,
    );
    const loose = kMeansSync(vectors, { dim: 3, size: 100, tolerance: 0.5 });
    assert.deepEqual([loose.iterations, loose.converged], [2, true]);
  });

  it('stops when its signal aborts, in the midst of an iteration too', async () => {
    const vectors = randomFloats(50_000 * 16, random(5));
    const options = { dim: 16, size: 2000, init: 'random' as const, maxIterations: 1000, tolerance: 0 };
    await assert.rejects(kMeans(vectors, { ...options, signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
    const timed = new AbortController();
    setTimeout(() => timed.abort(new Error('enough')), 30);
    await assert.rejects(kMeans(vectors, { ...options, signal: timed.signal }), /enough/);
    const counted = new AbortController();
    const onProgress = ({ phase }: KMeansProgress) =>
      phase === 'iterate' && counted.abort(new Error('one will do'));
    await assert.rejects(kMeans(vectors, { ...options, signal: counted.signal, onProgress }), /one will do/);
    await assert.rejects(
      kMeans(vectors, {
        ...options,
        onProgress: () => {
          throw new Error('of the caller');
        },
      }),
      /of the caller/,
    );
  });

  it('says what is wrong with bad input', async () => {
    const vectors = new Float32Array(8);
    const wrong = (options: object, message: RegExp, given: unknown = vectors) =>
      assert.rejects(
        kMeans(given as Float32Array, { dim: 2, size: 2, ...options } as never),
        refused(message),
      );
    await wrong({ size: 5 }, /at least as many vectors as codes \(5\) but received 4/);
    await wrong({ dim: 3 }, /rows of 3/);
    await wrong({ metric: 'ip' }, /'l2' or 'cosine' for metric/);
    await wrong({ init: 'kmeans++' }, /did you mean 'k-means\+\+'/);
    await wrong({ init: new Float32Array(2) }, /4 elements for init/);
    await wrong({ init: new Float32Array(4).fill(Number.NaN) }, /finite codes/);
    await wrong({ tolerance: -1 }, /tolerance/);
    await wrong({ seed: 0.5 }, /seed/);
    await wrong({ maxIter: 5 }, /did you mean 'maxIterations'|Unknown option 'maxIter'/);
    await wrong({ onProgress: 1 }, /a function for onProgress/);
    await wrong({}, /row 1 has NaN/, Float32Array.of(0, 0, Number.NaN, 0));
    await wrong({}, /row 0 overflows/, Float32Array.of(3e38, 3e38, 1, 1, 0, 0));
    assert.throws(() => kMeansSync(vectors, undefined as never), refused(/dim and size/));
  });
});

describe('Random', () => {
  it('draws whole numbers evenly, and samples without repeats', () => {
    const numbers = new Random(7);
    const counts = new Int32Array(10);
    for (let i = 0; i < 20_000; i++) counts[numbers.integer(10)]++;
    for (const count of counts) assert.ok(Math.abs(count - 2000) < 5 * Math.sqrt(2000), `${counts}`);
    assert.ok(Array.from({ length: 1000 }, () => numbers.integer(2 ** 53)).every(Number.isSafeInteger));
    const property = fc.property(fc.nat(1000), fc.nat(50), (below, count) => {
      const size = Math.min(count, below);
      const sample = numbers.sample(size, below);
      assert.equal(new Set(sample).size, size);
      assert.ok(sample.every((value) => value >= 0 && value < below));
    });
    fc.assert(property);
    assert.deepEqual(
      numbers.sample(30, 30).sort((a, b) => a - b),
      Array.from({ length: 30 }, (_, i) => i),
    );
  });
});

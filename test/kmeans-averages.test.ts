import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Codebook, EmaCodebook, kMeansSync, MiniBatchKMeans, TokenFlowError } from '../lib/codebook/index.js';
import { native } from '../lib/native.js';
import { random, randomFloats } from './support/random.js';

const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof TokenFlowError, String(error));
  assert.equal(error.code, 'ERR_TOKENFLOW_INVALID_ARGUMENT');
  assert.match(error.message, message);
  return true;
};

/** Indices below `size`, some of them far more often than others. */
function skewed(n: number, size: number, next: () => number): Int32Array {
  return Int32Array.from({ length: n }, () => Math.floor(next() ** 3 * size));
}

function unitRows(rows: Float32Array, dim: number): Float32Array {
  const units = Float32Array.from(rows);
  for (let at = 0; at < rows.length; at += dim) {
    const norm = Math.hypot(...rows.subarray(at, at + dim));
    for (let e = at; e < at + dim; e++) units[e] = norm > 0 ? rows[e] / norm : 0;
  }
  return units;
}

describe('counts and sums of a batch', () => {
  it('are those of a plain loop, bit for bit, on any number of threads', async () => {
    const threads = native().threads();
    const property = fc.property(
      fc.integer(),
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 0, max: 3000 }),
      (seed, dim, size, n) => {
        const next = random(seed);
        const ema = new EmaCodebook(new Float32Array(size * dim), { dim });
        const vectors = randomFloats(n * dim, next);
        const indices = skewed(n, size, next);
        const counts = new Float64Array(size);
        const sums = new Float64Array(size * dim);
        indices.forEach((code, i) => {
          counts[code]++;
          for (let e = 0; e < dim; e++) sums[code * dim + e] += vectors[i * dim + e];
        });
        for (const count of [1, 3, threads]) {
          native().setThreads(count);
          try {
            assert.deepEqual(ema.accumulateSync(vectors, indices), { counts, sums });
          } finally {
            native().setThreads(threads);
          }
        }
      },
    );
    fc.assert(property, { numRuns: 50 });
    const ema = new EmaCodebook(new Float32Array(4), { dim: 2 });
    const vectors = Float32Array.of(1, 2, 3, 4);
    assert.deepEqual(await ema.accumulate(vectors, [1, 1]), ema.accumulateSync(vectors, [1, 1]));
  });

  it('cosine: of unit vectors', () => {
    const ema = new EmaCodebook(Float32Array.of(1, 0, 0, 1), { dim: 2, metric: 'cosine' });
    const { counts, sums } = ema.accumulateSync(Float32Array.of(3, 4, 0, 0, 30, 40), [1, 1, 1]);
    assert.deepEqual(counts, Float64Array.of(0, 3));
    const f = Math.fround;
    assert.deepEqual(sums, Float64Array.of(0, 0, 2 * f(0.6), 2 * f(0.8)));
  });

  it('say what is wrong with bad input', async () => {
    const ema = new EmaCodebook(new Float32Array(4), { dim: 2 });
    const vectors = new Float32Array(4);
    await assert.rejects(ema.accumulate(vectors, [0]), refused(/2 indices, one per vector/));
    await assert.rejects(ema.accumulate(vectors, [0, 2]), refused(/0 to 1 but received 2 at position 1/));
    await assert.rejects(ema.accumulate(vectors, [0, -1]), refused(/-1 at position 1/));
    await assert.rejects(ema.accumulate(Float32Array.of(0, Number.NaN), [0]), refused(/row 0/));
    await assert.rejects(ema.accumulate(vectors, [0, 0], { signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
  });
});

describe('EmaCodebook', () => {
  it('moves codes by the published formula', async () => {
    const property = fc.property(
      fc.integer(),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 30 }),
      fc.constantFrom(0, 0.5, 0.99),
      fc.constantFrom<'l2' | 'cosine'>('l2', 'cosine'),
      (seed, dim, size, decay, metric) => {
        const next = random(seed);
        const codes = randomFloats(size * dim, next);
        const ema = new EmaCodebook(codes, { dim, decay, metric });
        const start = metric === 'cosine' ? unitRows(codes, dim) : codes;
        const counts = new Float64Array(size).fill(1);
        const sums = Float64Array.from(start);
        for (let step = 0; step < 4; step++) {
          const n = Math.floor(next() * 60) + 1;
          const vectors = randomFloats(n * dim, next);
          const indices = skewed(n, size, next);
          ema.updateSync(vectors, indices);
          const rows = metric === 'cosine' ? unitRows(vectors, dim) : vectors;
          for (let j = 0; j < size; j++) {
            const mine = [...indices.keys()].filter((i) => indices[i] === j);
            counts[j] = decay * counts[j] + (1 - decay) * mine.length;
            for (let e = 0; e < dim; e++) {
              const sum = mine.reduce((total, i) => total + rows[i * dim + e], 0);
              sums[j * dim + e] = decay * sums[j * dim + e] + (1 - decay) * sum;
            }
          }
        }
        const total = counts.reduce((a, b) => a + b, 0);
        for (let j = 0; j < size; j++) {
          assert.ok(Math.abs(ema.counts[j] - counts[j]) < 1e-9);
          const smoothed = ((counts[j] + 1e-5) / (total + size * 1e-5)) * total;
          const row = sums.subarray(j * dim, (j + 1) * dim);
          const norm = Math.hypot(...row);
          if (metric === 'cosine' && norm < 1e-3) continue; // no direction to compare
          for (let e = 0; e < dim; e++) {
            const expected = row[e] / (metric === 'cosine' ? norm : smoothed);
            assert.ok(
              Math.abs(ema.codes[j * dim + e] - expected) < 1e-4,
              `${ema.codes[j * dim + e]} ${expected}`,
            );
          }
        }
      },
    );
    fc.assert(property, { numRuns: 50 });
  });

  it('learns from sums that several processes added up, as from one batch', async () => {
    const next = random(1);
    const codes = randomFloats(10 * 4, next);
    const vectors = randomFloats(200 * 4, next);
    const indices = new Codebook(codes, { dim: 4 }).nearestSync(vectors).indices;
    const whole = new EmaCodebook(codes, { dim: 4 });
    await whole.update(vectors, indices);
    const parts = new EmaCodebook(codes, { dim: 4 });
    const [a, b] = [0, 100].map((at) =>
      parts.accumulateSync(vectors.subarray(at * 4, (at + 100) * 4), indices.subarray(at, at + 100)),
    );
    const add = (x: Float64Array, y: Float64Array) => x.map((value, i) => value + y[i]);
    await parts.apply({ counts: add(a.counts, b.counts), sums: add(a.sums, b.sums) });
    assert.deepEqual(parts.counts, whole.counts);
    parts.codes.forEach((value, i) => {
      assert.ok(Math.abs(value - whole.codes[i]) < 1e-6);
    });
    const resumed = new EmaCodebook(whole.codes, { dim: 4, counts: whole.counts, sums: whole.sums });
    resumed.updateSync(vectors, indices);
    whole.updateSync(vectors, indices);
    assert.deepEqual(resumed.codes, whole.codes);
  });

  it('revives dead codes: code, count and sum together', async () => {
    const codes = Float32Array.of(0, 0, 5, 5, 9, 9);
    const make = () => {
      const ema = new EmaCodebook(codes, { dim: 2, decay: 0.5 });
      for (let i = 0; i < 6; i++) ema.updateSync(Float32Array.of(0, 0), [0]);
      return ema;
    };
    const ema = make();
    assert.deepEqual(ema.deadCodes(0.1), Int32Array.of(1, 2));
    const vectors = Float32Array.of(1, 2, 3, 4, 5, 6);
    assert.deepEqual(await ema.revive(vectors, { threshold: 0.1, seed: 3 }), Int32Array.of(1, 2));
    assert.deepEqual(ema.deadCodes(0.1), new Int32Array(0));
    const rows = [1, 2].map((code) => [...ema.codes.subarray(code * 2, code * 2 + 2)]);
    assert.notDeepEqual(rows[0], rows[1]);
    for (const [i, row] of rows.entries()) {
      assert.ok(['1,2', '3,4', '5,6'].includes(String(row)));
      assert.equal(ema.counts[i + 1], 0.1);
      assert.deepEqual(
        [...ema.sums.subarray(i * 2 + 2, i * 2 + 4)],
        row.map((value) => value * 0.1),
      );
    }
    const again = make();
    again.reviveSync(vectors, { threshold: 0.1, seed: 3 });
    assert.deepEqual(again.codes, ema.codes);
    // Its own average: an update without it leaves it where it is, but for the smoothing.
    const before = [...ema.codes.subarray(2, 4)];
    ema.updateSync(Float32Array.of(0, 0), [0]);
    before.forEach((value, e) => {
      assert.ok(Math.abs(ema.codes[2 + e] - value) < 0.01 * value);
    });
    // Fewer vectors than dead codes: some are drawn twice.
    const few = make();
    few.reviveSync(Float32Array.of(7, 7), { threshold: 0.1, seed: 0 });
    assert.deepEqual(few.codes.subarray(2), Float32Array.of(7, 7, 7, 7));
    const unit = new EmaCodebook(Float32Array.of(0, 1), {
      dim: 2,
      metric: 'cosine',
      counts: new Float64Array(1),
      sums: new Float64Array(2),
    });
    unit.reviveSync(Float32Array.of(3, 4), { threshold: 1, seed: 0 });
    assert.deepEqual(unit.codes, Float32Array.of(0.6, 0.8));
  });

  it('updates off the event loop as it does blocking, one at a time', async () => {
    const next = random(8);
    for (const metric of ['l2', 'cosine'] as const) {
      const codes = randomFloats(600 * 5, next);
      const [one, other] = [0, 1].map(() => new EmaCodebook(codes, { dim: 5, metric }));
      const vectors = randomFloats(900 * 5, next);
      const indices = skewed(900, 600, next);
      const batch = one.accumulateSync(vectors, indices);
      one.applySync(batch);
      const revived = one.reviveSync(vectors, { threshold: 0.995, seed: 5 });
      assert.ok(revived.length > 10);
      const pending = other.apply(batch);
      batch.counts.fill(Number.NaN); // read at the call
      await assert.rejects(other.apply(batch), refused(/one update at a time/));
      await assert.rejects(other.update(vectors, indices), refused(/one update at a time/));
      assert.throws(() => other.applySync(batch), refused(/one update at a time/));
      assert.throws(
        () => other.reviveSync(vectors, { threshold: 1, seed: 0 }),
        refused(/one update at a time/),
      );
      await pending;
      assert.deepEqual(await other.revive(vectors, { threshold: 0.995, seed: 5 }), revived);
      assert.deepEqual([other.codes, other.counts, other.sums], [one.codes, one.counts, one.sums]);
    }
  });

  it('stays as it was when an update fails or is aborted', async () => {
    const ema = new EmaCodebook(Float32Array.of(0, 1, 2, 3), { dim: 2 });
    const before = [ema.codes.slice(), ema.counts.slice(), ema.sums.slice()];
    const batch = { counts: Float64Array.of(1, 1), sums: Float64Array.of(1, 2, 3, Number.NaN) };
    await assert.rejects(ema.apply(batch), refused(/finite number for sums\[3\]/));
    const signal = AbortSignal.abort();
    batch.sums.fill(1);
    await assert.rejects(ema.apply(batch, { signal }), { name: 'AbortError' });
    await assert.rejects(ema.revive(new Float32Array(2), { threshold: 9, seed: 0, signal }), {
      name: 'AbortError',
    });
    await assert.rejects(
      ema.revive(Float32Array.of(1, 1, Infinity, 1), { threshold: 9, seed: 0 }),
      refused(/row 1/),
    );
    assert.deepEqual([ema.codes, ema.counts, ema.sums], before);
    await ema.apply(batch);
    assert.notDeepEqual(ema.codes, before[0]);
  });

  it('says what is wrong with bad input', async () => {
    const make =
      (options: object, codes = new Float32Array(4)) =>
      () =>
        new EmaCodebook(codes, { dim: 2, ...options } as never);
    assert.throws(make({ decay: 1 }), refused(/below 1 for decay/));
    assert.throws(make({ epsilon: 0 }), refused(/above 0 for epsilon/));
    assert.throws(make({ dacay: 0.9 }), refused(/did you mean 'decay'/));
    assert.throws(make({ counts: new Float64Array(2) }), refused(/both or neither/));
    assert.throws(
      make({ counts: new Float64Array(1), sums: new Float64Array(4) }),
      refused(/2 elements for counts/),
    );
    assert.throws(make({}, Float32Array.of(0, 0, Number.NaN, 0)), refused(/row 1 has NaN/));
    const ema = make({})();
    const counts = Float64Array.of(1, -1);
    assert.throws(
      make({ counts, sums: new Float64Array(4) }),
      refused(/at least 0 for counts\[1\] but received -1/),
    );
    assert.throws(() => ema.applySync({ counts, sums: new Float64Array(4) }), refused(/counts\[1\].*-1/));
    await assert.rejects(ema.apply({ counts } as never), refused(/4 elements for sums/));
    await assert.rejects(
      ema.revive(new Float32Array(0), { threshold: 1, seed: 0 }),
      refused(/number of vectors/),
    );
    await assert.rejects(ema.revive(new Float32Array(2), { threshold: -1, seed: 0 }), refused(/threshold/));
    await assert.rejects(ema.revive(new Float32Array(2), { threshold: 1 } as never), refused(/seed/));
  });
});

describe('MiniBatchKMeans', () => {
  it('keeps each code at the mean of all vectors that chose it', async () => {
    const next = random(4);
    const first = randomFloats(5 * 3, next);
    const learner = new MiniBatchKMeans(first, { dim: 3 });
    const chosen = Array.from({ length: 5 }, (): number[][] => []);
    for (let step = 0; step < 5; step++) {
      const codebook = new Codebook(learner.codes, { dim: 3 });
      const batch = randomFloats(30 * 3, next);
      const { indices, objective } = step % 2 ? learner.updateSync(batch) : await learner.update(batch);
      const expected = codebook.nearestSync(batch);
      assert.deepEqual(indices, expected.indices);
      assert.equal(
        objective,
        expected.distances.reduce((a, b) => a + b, 0),
      );
      indices.forEach((code, i) => {
        chosen[code].push([...batch.subarray(i * 3, i * 3 + 3)]);
      });
    }
    chosen.forEach((rows, code) => {
      assert.equal(learner.counts[code], rows.length);
      for (let e = 0; e < 3; e++) {
        const mean = rows.reduce((sum, row) => sum + row[e], 0) / rows.length;
        const expected = rows.length > 0 ? mean : first[code * 3 + e];
        assert.ok(Math.abs(learner.codes[code * 3 + e] - expected) < 1e-6);
      }
    });
  });

  it('comes near to k-means', () => {
    const next = random(5);
    const vectors = randomFloats(4000 * 4, next);
    const seeds = kMeansSync(vectors, { dim: 4, size: 32, maxIterations: 0 }).codes;
    const full = kMeansSync(vectors, { dim: 4, size: 32, init: seeds }).codes;
    const learner = new MiniBatchKMeans(seeds, { dim: 4 });
    for (let at = 0; at < vectors.length; at += 800) learner.updateSync(vectors.subarray(at, at + 800));
    const cost = (codes: Float32Array) =>
      new Codebook(codes, { dim: 4 }).nearestSync(vectors).distances.reduce((a, b) => a + b, 0);
    assert.ok(cost(learner.codes) < 1.1 * cost(full));
    assert.ok(cost(learner.codes) < 0.9 * cost(seeds));
  });

  it('takes one update at a time, and is as before when one fails', async () => {
    const learner = new MiniBatchKMeans(Float32Array.of(0, 1), { dim: 1 });
    const running = learner.update(Float32Array.of(0.25));
    await assert.rejects(learner.update(Float32Array.of(1)), refused(/one update at a time/));
    assert.throws(() => learner.updateSync(Float32Array.of(1)), refused(/one update at a time/));
    await running;
    const before = Float32Array.from(learner.codes);
    assert.deepEqual(before, Float32Array.of(0.25, 1));
    await assert.rejects(learner.update(Float32Array.of(5, Number.NaN)), refused(/row 1/));
    await assert.rejects(learner.update(Float32Array.of(5), { signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
    assert.deepEqual(learner.codes, before);
    learner.updateSync(Float32Array.of(0.75));
  });

  it('describe themselves as JSON', () => {
    const codes = Float32Array.of(0, 1);
    assert.equal(
      JSON.stringify([new EmaCodebook(codes, { dim: 1 }), new MiniBatchKMeans(codes, { dim: 1 })]),
      '[{"type":"EmaCodebook","dim":1,"size":2,"metric":"l2","decay":0.99,"epsilon":0.00001},' +
        '{"type":"MiniBatchKMeans","dim":1,"size":2,"metric":"l2"}]',
    );
  });
});

/**
 * The lookup gives exactly the index that the definition gives, whatever the shape and the data. Runs at the level
 * in force; codebook-levels.test.ts runs it again at every other one.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type LookupStats, type Metric, PartedCodebook, type ScreenMode } from '../lib/codebook/index.js';
import { native } from '../lib/native.js';
import { random } from './support/random.js';

const KINDS = [
  'plain',
  'duplicates',
  'grid',
  'zeros',
  'denormal',
  'huge',
  'tiny',
  'far',
  'mixed sizes',
  'near',
  'not finite',
] as const;

/** Values of one kind for a codebook's part, or for queries against it. */
function fill(out: Float32Array, dim: number, kind: (typeof KINDS)[number], next: () => number): void {
  const rows = out.length / dim;
  for (let i = 0; i < out.length; i++) {
    const value = next() * 2 - 1;
    switch (kind) {
      case 'grid':
        out[i] = Math.round(value * 2); // few distinct values: many equal scores
        break;
      case 'denormal':
        out[i] = value * 1e-39;
        break;
      case 'huge':
        out[i] = value * 1e18;
        break;
      case 'tiny':
        out[i] = value * 1e-18;
        break;
      case 'far':
        out[i] = 1000 + value;
        break;
      case 'near':
        out[i] = 0.5 + value * 1e-6;
        break;
      default:
        out[i] = value;
    }
  }
  for (let r = 0; r < rows; r++) {
    const row = out.subarray(r * dim, (r + 1) * dim);
    if (kind === 'duplicates' && next() < 0.7) row.set(out.subarray(0, dim));
    if (kind === 'zeros' && next() < 0.3) row.fill(next() < 0.5 ? 0 : -0);
    if (kind === 'mixed sizes') row.set(row.map((v) => v * 10 ** (Math.floor(next() * 12) - 6)));
    if (kind === 'not finite' && next() < 0.3)
      row[Math.floor(next() * dim)] = [Number.NaN, Infinity, -Infinity, 3e38][Math.floor(next() * 4)];
  }
}

interface Case {
  metric: Metric;
  dims: number[];
  normalize: boolean[];
  weights: number[];
  codes: number;
  n: number;
  k: number;
  kind: (typeof KINDS)[number];
  queryKind: (typeof KINDS)[number];
  hits: boolean;
  screen: ScreenMode;
  seed: number;
}

const cases = (
  most: { codes: number; n: number; dim: number },
  { least = 1, screens = ['auto'] }: { least?: number; screens?: ScreenMode[] } = {},
): fc.Arbitrary<Case> =>
  fc
    .record({
      metric: fc.constantFrom<Metric>('l2', 'cosine', 'ip'),
      dims: fc.array(fc.integer({ min: 1, max: most.dim }), { minLength: 1, maxLength: 3 }),
      flags: fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
      weights: fc.array(fc.constantFrom(1, 1, 1, 0.5, 2, 0, -1, 0.3), { minLength: 3, maxLength: 3 }),
      codes: fc.integer({ min: least, max: most.codes }),
      n: fc.integer({ min: 0, max: most.n }),
      k: fc.constantFrom(1, 1, 1, 2, 3, 10, 64),
      kind: fc.constantFrom(...KINDS),
      queryKind: fc.constantFrom(...KINDS),
      hits: fc.boolean(),
      screen: fc.constantFrom(...screens),
      seed: fc.integer(),
    })
    .map(({ flags, ...c }) => ({
      ...c,
      normalize: c.dims.map((_, p) => flags[p]),
      weights: c.dims.map((_, p) => c.weights[p]),
      k: Math.min(c.k, c.codes),
    }));

function check(c: Case): LookupStats {
  const next = random(c.seed);
  const dim = c.dims.reduce((a, b) => a + b, 0);
  const parts = c.dims.map((d, p) => {
    const vectors = new Float32Array(c.codes * d);
    fill(vectors, d, c.kind, next);
    return { vectors, dim: d, normalize: c.normalize[p] };
  });
  const queries = new Float32Array(c.n * dim);
  fill(queries, dim, c.queryKind, next);
  if (c.hits) {
    for (let i = 0; i < c.n; i += 2) {
      const j = Math.floor(next() * c.codes);
      let at = i * dim;
      for (const part of parts) {
        queries.set(part.vectors.subarray(j * part.dim, (j + 1) * part.dim), at);
        at += part.dim;
      }
    }
  }
  const expected = new Int32Array(c.n * c.k);
  const referenceParts = parts.map((part, p) => ({
    ...part,
    normalize: part.normalize || c.metric === 'cosine',
    weight: c.weights[p],
  }));
  native().codebookReference(referenceParts, c.codes, c.metric, queries, c.k, expected);
  const codebook = new PartedCodebook(parts, { metric: c.metric, screen: c.screen });
  const found = codebook.nearestSync(queries, { k: c.k, weights: c.weights, partDistances: true });
  assert.deepEqual(found.indices, expected);
  for (let i = 0; i < expected.length; i++) {
    // Elements near the end of float32 may leave a sum of parts undefined (infinity minus infinity).
    const overflows = c.kind === 'not finite' || c.queryKind === 'not finite';
    if (expected[i] < 0 || !overflows) assert.equal(Number.isNaN(found.distances[i]), expected[i] < 0);
    const own = found.partDistances!.map((part) => part[i]);
    if (expected[i] < 0) {
      assert.ok(own.every(Number.isNaN));
    } else if (c.metric !== 'ip' && !overflows) {
      assert.ok(own.every((distance) => distance >= 0));
    }
  }
  const { stats } = codebook;
  codebook.dispose();
  return stats;
}

describe(`exact lookup at level ${native().simdLevel()}`, () => {
  it('small shapes of every kind', () => {
    fc.assert(
      fc.property(cases({ codes: 200, n: 20, dim: 20 }), (c) => void check(c)),
      { numRuns: 400 },
    );
  });

  it('shapes that fill tiles, blocks and threads', () => {
    fc.assert(
      fc.property(cases({ codes: 3000, n: 70, dim: 50 }), (c) => void check(c)),
      { numRuns: 25 },
    );
  }).timeout(120_000);

  const screenable = cases({ codes: 6000, n: 70, dim: 30 }, { least: 500, screens: ['always'] });

  it('screened, whatever the data', () => {
    fc.assert(
      fc.property(screenable, (c) => void check(c)),
      { numRuns: 60 },
    );
  }).timeout(240_000);

  it('screened, on data that a screen is for', () => {
    let queries = 0;
    let screened = 0;
    const run = (c: Case) => {
      const stats = check({ ...c, k: 1, kind: 'plain', queryKind: 'plain', weights: c.dims.map(() => 1) });
      queries += stats.queries;
      screened += stats.screened;
    };
    fc.assert(fc.property(screenable, run), { numRuns: 30 });
    const share = screened / queries;
    if (native().simdLevel() !== 'scalar') assert.ok(share > 0.5, `a share of ${share} was screened`);
  }).timeout(240_000);

  it('scores within rounding of the real ones', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 64 }), (seed, dim) => {
        const next = random(seed);
        const vectors = Float32Array.from({ length: 300 * dim }, () => next() * 2 - 1);
        const queries = Float32Array.from({ length: 10 * dim }, () => next() * 2 - 1);
        const chain = new Int32Array(10);
        const part = { vectors, dim, normalize: false, weight: 1 };
        const scores = native().codebookReference([part], 300, 'l2', queries, 1, chain);
        for (let i = 0; i < 10; i++) {
          let least = Infinity;
          for (let j = 0; j < 300; j++) {
            let score = 0;
            for (let k = 0; k < dim; k++) {
              const c = vectors[j * dim + k];
              score += c * c - 2 * queries[i * dim + k] * c;
            }
            least = Math.min(least, score);
          }
          assert.ok(scores[i] - least <= 4 * dim * 2 ** -24 * dim && scores[i] >= least - 1e-9);
        }
      }),
      { numRuns: 30 },
    );
  });

  it('gives the same from any number of threads and any batch', async () => {
    const next = random(7);
    const vectors = Float32Array.from({ length: 5000 * 24 }, () => Math.round(next() * 6));
    const queries = Float32Array.from({ length: 700 * 24 }, () => Math.round(next() * 6));
    const threads = native().threads();
    for (const [k, screen] of [
      [1, 'off'],
      [5, 'off'],
      [1, 'always'],
      [3, 'always'],
    ] as const) {
      const codebook = new PartedCodebook([{ vectors, dim: 24 }], { screen });
      const whole = codebook.nearestSync(queries, { k });
      try {
        for (const count of [1, 2, 3, 7]) {
          native().setThreads(count);
          assert.deepEqual(codebook.nearestSync(queries, { k }), whole);
          for (const batch of [1, 5, 33]) {
            const some = codebook.nearestSync(queries.subarray(0, batch * 24), { k });
            assert.deepEqual(some.indices, whole.indices.subarray(0, batch * k));
            assert.deepEqual(some.distances, whole.distances.subarray(0, batch * k));
          }
        }
      } finally {
        native().setThreads(threads);
      }
    }
  });
});

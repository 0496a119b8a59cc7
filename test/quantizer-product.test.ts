import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Codebook, type Metric, ProductQuantizer } from '../lib/codebook/index.js';
import { native } from '../lib/native.js';
import { gridFloats, random, randomFloats } from './support/random.js';
import { refused } from './support/refused.js';

/** Columns [begin, end) of rows of `dim`. */
function columns(rows: Float32Array, dim: number, begin: number, end: number): Float32Array {
  return rows.filter((_, i) => i % dim >= begin && i % dim < end);
}

describe('ProductQuantizer', () => {
  const first = new Codebook(Float32Array.of(0, 0, 4, 0, 0, 4), { dim: 2 });
  const second = new Codebook(Float32Array.of(-1, 1), { dim: 1 });
  const quantizer = new ProductQuantizer([first, second]);

  it('quantises every group by its own codebook', async () => {
    assert.deepEqual([quantizer.dim, quantizer.groups, quantizer.tableSize], [3, 2, 5]);
    const vectors = Float32Array.of(3, 1, 0.5, 1, 3, -7);
    const encoded = await quantizer.encode(vectors);
    assert.deepEqual(encoded, {
      indices: Int32Array.of(1, 1, 2, 0),
      quantized: Float32Array.of(4, 0, 1, 0, 4, -1),
    });
    assert.deepEqual(quantizer.encodeSync(vectors), encoded);
    assert.deepEqual(await quantizer.decode(encoded.indices), encoded.quantized);
    assert.deepEqual(quantizer.decodeSync([1, 1]), Float32Array.of(4, 0, 1));
  });

  it('tabulates distances, and finds what is nearest by their sums', async () => {
    const query = Float32Array.of(1, 0, 0);
    const tables = await quantizer.distanceTables(query);
    assert.deepEqual(tables, Float32Array.of(1, 9, 17, 1, 1));
    assert.deepEqual(quantizer.distanceTablesSync(query), tables);
    const rows = Int32Array.of(1, 0, 0, 1, 2, 0, 0, 0);
    const found = await quantizer.search(query, rows, { k: 4 });
    assert.deepEqual(found, {
      indices: Int32Array.of(1, 3, 0, 2),
      distances: Float32Array.of(2, 2, 10, 18),
    });
    assert.deepEqual(quantizer.searchSync(query, rows, { k: 4 }), found);
    const none = quantizer.searchSync(Float32Array.of(Number.NaN, 0, 0), rows);
    assert.deepEqual(none, { indices: Int32Array.of(-1), distances: Float32Array.of(Number.NaN) });
  });

  it('agrees with its codebooks, whatever the metric and the threads', () => {
    const threads = native().threads();
    const property = fc.property(
      fc.record({
        seed: fc.integer(),
        dims: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 4 }),
        size: fc.integer({ min: 1, max: 60 }),
        n: fc.integer({ min: 0, max: 30 }),
        queries: fc.integer({ min: 0, max: 5 }),
        metric: fc.constantFrom<Metric>('l2', 'cosine', 'ip'),
        normalize: fc.boolean(),
        grid: fc.boolean(),
      }),
      ({ seed, dims, size, n, queries, metric, normalize, grid }) => {
        const next = random(seed);
        const floats = (length: number) => (grid ? gridFloats(length, next) : randomFloats(length, next));
        const dim = dims.reduce((a, b) => a + b, 0);
        const groups = dims.map((d) => new Codebook(floats(size * d), { dim: d, metric, normalize }));
        const product = new ProductQuantizer(groups);
        const vectors = floats(n * dim);
        const { indices, quantized } = product.encodeSync(vectors);
        let begin = 0;
        groups.forEach((group, g) => {
          const part = columns(vectors, dim, begin, begin + group.dim);
          const own = indices.filter((_, i) => i % dims.length === g);
          assert.deepEqual(own, group.nearestSync(part).indices);
          assert.deepEqual(columns(quantized, dim, begin, begin + group.dim), group.lookup(own));
          begin += group.dim;
        });

        const asked = floats(queries * dim);
        const tables = product.distanceTablesSync(asked);
        begin = 0;
        groups.forEach((group, g) => {
          const k = Math.min(64, size);
          const found = group.nearestSync(columns(asked, dim, begin, begin + group.dim), { k });
          found.indices.forEach((index, at) => {
            const entry = tables[Math.floor(at / k) * product.tableSize + g * size + index];
            assert.equal(entry, found.distances[at]);
          });
          begin += group.dim;
        });
        if (n > 0) {
          const k = Math.min(5, n);
          const found = product.searchSync(asked, indices, { k });
          const sign = metric === 'ip' ? -1 : 1;
          for (let q = 0; q < queries; q++) {
            const sums = Array.from({ length: n }, (_, row) => {
              let sum = 0;
              for (let g = 0; g < dims.length; g++) {
                const code = indices[row * dims.length + g];
                sum = Math.fround(sum + tables[q * product.tableSize + g * size + code]);
              }
              return { row, sum };
            }).sort((a, b) => sign * (a.sum - b.sum) || a.row - b.row);
            const best = sums.slice(0, k);
            assert.deepEqual(
              [...found.indices.subarray(q * k, (q + 1) * k)],
              best.map(({ row }) => row),
            );
            found.distances.subarray(q * k, (q + 1) * k).forEach((distance, rank) => {
              assert.ok(distance === best[rank].sum, `${distance} for ${best[rank].sum}`); // 0 equals -0
            });
          }
          native().setThreads(1);
          try {
            assert.deepEqual(product.searchSync(asked, indices, { k }), found);
            assert.deepEqual(product.encodeSync(vectors), { indices, quantized });
          } finally {
            native().setThreads(threads);
          }
        }
      },
    );
    fc.assert(property, { numRuns: 60 });
  });

  it('says what is wrong with bad input', async () => {
    assert.throws(() => new ProductQuantizer([]), refused(/one per group/));
    assert.throws(() => new ProductQuantizer([first, 3] as never), refused(/codebooks\[1\]/));
    const ip = new Codebook(Float32Array.of(1), { dim: 1, metric: 'ip' });
    assert.throws(() => new ProductQuantizer([first, ip]), refused(/one metric/));
    await assert.rejects(quantizer.encode(new Float32Array(4)), refused(/rows of 3/));
    await assert.rejects(quantizer.encode(Float32Array.of(0, 0, Infinity)), refused(/group 1 of row 0/));
    await assert.rejects(quantizer.decode([0]), refused(/multiple of 2/));
    await assert.rejects(quantizer.decode([0, 2]), refused(/0 to 1 for group 1 .*2 at position 1/));
    const query = new Float32Array(3);
    await assert.rejects(quantizer.search(query, Int32Array.of(0, 0), { k: 2 }), refused(/for k/));
    await assert.rejects(quantizer.search(query, Int32Array.of(3, 0)), refused(/0 to 2 for group 0/));
    const gone = new ProductQuantizer([second]);
    gone.dispose();
    assert.throws(() => gone.decodeSync([0]), refused(/disposed/, 'ERR_TOKENFLOW_DISPOSED'));
    await assert.rejects(quantizer.search(query, Int32Array.of(0, 0), { signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
  });

  it('describes itself as JSON', () => {
    assert.equal(
      JSON.stringify(quantizer),
      '{"type":"ProductQuantizer","metric":"l2","groups":[{"dim":2,"size":3},{"dim":1,"size":2}]}',
    );
  });
});

import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Graph } from '../lib/graph/ops.js';
import { defaultBatch, splitBatch } from '../lib/tokenizer/batching.js';
import { tokenCount } from '../lib/tokenizer/config.js';
import { channelsFirst, channelsLast } from '../lib/tokenizer/layout.js';
import { type TokenInput, tokenRows } from '../lib/tokenizer/token-rows.js';

const model = { scales: [1, 2, 3], codebookSize: 100 };
const full = tokenCount(model.scales); // 14

describe('token inputs', () => {
  const row = (start: number, count = full) =>
    Int32Array.from({ length: count }, (_, i) => (start + i) % 100);

  it('are whole rows, one row of first scales, rows by shape, or one array per image', () => {
    const two = Int32Array.from([...row(0), ...row(50)]);
    const expected = { tokens: two, count: 2, scaleCount: 3 };
    assert.deepEqual(tokenRows(two, model), expected);
    assert.deepEqual(tokenRows({ tokens: two, shape: [2, full] }, model), expected);
    assert.deepEqual(tokenRows([row(0), row(50)], model), expected);
    assert.deepEqual(tokenRows([[...row(0)], Uint16Array.from(row(50))], model), expected);
    assert.deepEqual(tokenRows(Uint16Array.from(two), model), expected);
    assert.deepEqual(tokenRows(row(7, 5), model), { tokens: row(7, 5), count: 1, scaleCount: 2 });
    assert.deepEqual(tokenRows({ tokens: row(7, 5), shape: [5, 1] }, model), {
      tokens: row(7, 5),
      count: 5,
      scaleCount: 1,
    });
  });

  it('are cut to the scales asked for, row by row', () => {
    const two = Int32Array.from([...row(0), ...row(50)]);
    for (const scales of [1, 2, 3]) {
      const width = tokenCount(model.scales, scales);
      assert.deepEqual(tokenRows(two, model, scales), {
        tokens: Int32Array.from([...row(0, width), ...row(50, width)]),
        count: 2,
        scaleCount: scales,
      });
    }
  });

  it('are refused with what was expected', () => {
    const refused = (input: unknown, message: RegExp, scales?: number) =>
      assert.throws(
        () => tokenRows(input as TokenInput, model, scales),
        (error: Error & { code: string }) => {
          assert.equal(error.code, 'ERR_TOKENFLOW_INVALID_ARGUMENT');
          assert.match(error.message, message);
          return true;
        },
      );
    refused(row(0, 6), /1, 5, 14 per image for this model, but received 6 per image/);
    refused(row(0, 15), /whole rows of 14 tokens but received 15 tokens/);
    refused(new Int32Array(0), /whole rows/);
    refused([], /at least one image/);
    refused([row(0), row(0, 5)], /14 as for the first, but received 5 for image 1/);
    refused(['abc'], /one token array per image/);
    refused('abc', /an Int32Array/);
    refused(new Float32Array(14), /an Int32Array/);
    refused({ tokens: row(0), shape: [2, 14] }, /B \* T = 14/);
    refused({ tokens: row(0), shape: [2, 7] }, /received 7 per image/);
    refused(row(0), /from 1 to 3/, 0);
    refused(row(0), /from 1 to 3/, 4);
    refused(row(0), /from 1 to 3/, 1.5);
    refused(row(0, 5), /from 1 to 2/, 3);
    refused(
      Int32Array.from(row(0)).fill(100, 3, 4),
      /tokens from 0 to 99 but received 100 at position 3 of image 0/,
    );
    refused(Int32Array.from(row(0)).fill(-1, 3, 4), /received -1 at position 3/);
    refused([[...row(0), ...row(0)].slice(0, 13).concat(0.5)], /received 0.5 at position 13/);
  });
});

describe('batches', () => {
  it('split into runs that cover every image once, in order, none above the size', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 500 }), fc.integer({ min: 1, max: 20 }), (count, size) => {
        const chunks = splitBatch(count, size);
        let next = 0;
        for (const chunk of chunks) {
          assert.equal(chunk.start, next);
          assert.ok(chunk.count >= 1 && chunk.count <= size);
          next += chunk.count;
        }
        assert.equal(next, count);
        const sizes = new Set(chunks.map((chunk) => chunk.count));
        assert.ok(sizes.size <= 2 + Math.log2(size));
      }),
    );
  });

  it('default to fewer images the wider the widest map', () => {
    const graph = (side: number, channels: number): Graph => ({
      values: [{ shape: [1, side, side, channels], dtype: 'f32' }],
      ops: [],
      inputs: {},
      outputs: {},
    });
    assert.equal(defaultBatch(graph(64, 32)), 8);
    assert.equal(defaultBatch(graph(256, 128)), 2);
    assert.equal(defaultBatch(graph(256, 256)), 1);
    assert.equal(defaultBatch(graph(432, 256)), 1);
    // Images for every lane, as long as their maps (of 64 MiB in the third line) stay within 256 MiB.
    assert.equal(defaultBatch(graph(64, 32), 3), 6);
    assert.equal(defaultBatch(graph(64, 32), 16), 16);
    assert.equal(defaultBatch(graph(256, 256), 2), 2);
    assert.equal(defaultBatch(graph(256, 256), 4), 4);
    assert.equal(defaultBatch(graph(256, 256), 5), 1);
  });
});

describe('channel order', () => {
  it('goes to channels last and back', () => {
    const nchw = Float32Array.from({ length: 2 * 3 * 4 }, (_, i) => i);
    const nhwc = channelsLast(nchw, 2, 3);
    assert.deepEqual([...nhwc.subarray(0, 6)], [0, 4, 8, 1, 5, 9]);
    assert.deepEqual([...nhwc.subarray(12, 15)], [12, 16, 20]);
    assert.deepEqual(channelsFirst(nhwc, 2, 3), nchw);
  });
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { Codebook, DualCodebook, PartedCodebook, TokenFlowError } from '../lib/codebook/index.js';

const refused =
  (message: RegExp, code = 'ERR_TOKENFLOW_INVALID_ARGUMENT') =>
  (error: unknown) => {
    assert.ok(error instanceof TokenFlowError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };

describe('Codebook', () => {
  const corners = Float32Array.of(0, 0, 1, 0, 0, 1, 1, 1); // four codes of two elements

  it('finds the nearest code and its squared distance', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    assert.equal(codebook.size, 4);
    const queries = Float32Array.of(0.75, 0, 1, 1);
    const found = await codebook.nearest(queries);
    assert.deepEqual(found, { indices: Int32Array.of(1, 3), distances: Float32Array.of(0.0625, 0) });
    assert.deepEqual(codebook.nearestSync(queries), found);
  });

  it('ranks the k nearest, equal ones by index', () => {
    const { indices, distances } = new Codebook(corners, { dim: 2 }).nearestSync(Float32Array.of(0.5, 0.5), {
      k: 4,
    });
    assert.deepEqual(indices, Int32Array.of(0, 1, 2, 3));
    assert.deepEqual(distances, new Float32Array(4).fill(0.5));
  });

  it('cosine: 1 - cos, whatever the lengths; a zero vector is similar to nothing', () => {
    const codebook = new Codebook(Float32Array.of(0, 0, 5, 0, 0, 0.1), { dim: 2, metric: 'cosine' });
    const { indices, distances } = codebook.nearestSync(Float32Array.of(0.001, 0, -1, -1, 0, 0), { k: 3 });
    assert.deepEqual(indices, Int32Array.of(1, 0, 2, 0, 1, 2, 0, 1, 2));
    const wanted = [0, 1, 1, 1, 1 + Math.SQRT1_2, 1 + Math.SQRT1_2, 1, 1, 1];
    distances.forEach((distance, i) => {
      assert.ok(Math.abs(distance - wanted[i]) < 1e-6, `${i}: ${distance}`);
    });
    assert.deepEqual(codebook.lookup([1, 2]), Float32Array.of(1, 0, 0, 1));
  });

  it('ip: the inner product, larger is nearer', () => {
    const codebook = new Codebook(corners, { dim: 2, metric: 'ip' });
    const { indices, distances } = codebook.nearestSync(Float32Array.of(2, -1), { k: 4 });
    assert.deepEqual(indices, Int32Array.of(1, 3, 0, 2));
    assert.deepEqual(distances, Float32Array.of(2, 1, 0, -1));
  });

  it('never chooses a code with NaN or infinity, and answers -1 for such a query', () => {
    const { NaN: nan } = Number;
    const codebook = new Codebook(Float32Array.of(nan, 0, Infinity, 0, 9, 9), { dim: 2 });
    assert.equal(codebook.nonFinite, 2);
    const { indices, distances } = codebook.nearestSync(Float32Array.of(0, 0, nan, 0, 0, -Infinity), {
      k: 2,
    });
    assert.deepEqual(indices, Int32Array.of(2, -1, -1, -1, -1, -1));
    assert.deepEqual(distances, Float32Array.of(162, nan, nan, nan, nan, nan));
  });

  it('writes into arrays of the caller, also when the call is queued', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    const out = { indices: new Int32Array(1), distances: new Float32Array(1) };
    const found = await codebook.nearest(Float32Array.of(1, 0.9), { out });
    assert.equal(found.indices, out.indices);
    assert.equal(found.distances, out.distances);
    assert.equal(out.indices[0], 3);
    await assert.rejects(
      codebook.nearest(corners, { out }),
      refused(/Int32Array of 4 elements for out\.indices/),
    );
  });

  it('reads queries at the call: they may change or leave at once', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    const queries = Float32Array.of(1, 1);
    const pending = codebook.nearest(queries);
    queries.fill(0);
    structuredClone(queries, { transfer: [queries.buffer] });
    assert.deepEqual((await pending).indices, Int32Array.of(3));
    await assert.rejects(codebook.nearest(queries), refused(/transferred or resized/));
  });

  it('takes shared memory and no queries at all', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(8));
    const codebook = new Codebook(corners, { dim: 2 });
    assert.deepEqual((await codebook.nearest(shared)).indices, Int32Array.of(0));
    assert.equal((await codebook.nearest(new Float32Array(0))).indices.length, 0);
    assert.equal(codebook.lookup([]).length, 0);
  });

  it('stops when its signal aborts', async () => {
    const codebook = new Codebook(new Float32Array(4096 * 64).map(Math.random), { dim: 64 });
    const queries = new Float32Array(20_000 * 64);
    await assert.rejects(codebook.nearest(queries, { signal: AbortSignal.abort() }), { name: 'AbortError' });
    const controller = new AbortController();
    const running = codebook.nearest(queries, { signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 5);
    await assert.rejects(running, /enough/);
  });

  it('completes a lookup that was under way when it was disposed', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    const pending = codebook.nearest(Float32Array.of(0, 1));
    codebook.dispose();
    codebook[Symbol.dispose]();
    assert.deepEqual((await pending).indices, Int32Array.of(2));
    await assert.rejects(codebook.nearest(corners), refused(/disposed/, 'ERR_TOKENFLOW_DISPOSED'));
    assert.throws(() => codebook.lookup([0]), refused(/disposed/, 'ERR_TOKENFLOW_DISPOSED'));
  });

  it('says what is wrong with bad input', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    const make = (vectors: unknown, options: unknown) => () =>
      new Codebook(vectors as Float32Array, options as never);
    assert.throws(make(corners, { dim: 3 }), refused(/multiple of 3 elements.*vectors.*received 8/));
    assert.throws(make([1, 2], { dim: 2 }), refused(/Float32Array for vectors.*an array of 2/));
    assert.throws(make(corners, undefined), refused(/object with dim/));
    assert.throws(make(corners, { dim: 2, metrc: 'l2' }), refused(/'metrc'.*did you mean 'metric'/));
    assert.throws(make(corners, { dim: 2, metric: 'cosin' }), refused(/did you mean 'cosine'/));
    assert.throws(make(corners, { dim: 2.5 }), refused(/dim.*2\.5/));
    assert.throws(make(new Float32Array(0), { dim: 2 }), refused(/number of codes/));
    assert.throws(
      make(corners, { dim: 2, device: 'cuda' }),
      refused(/device/, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE'),
    );
    await assert.rejects(codebook.nearest(Float32Array.of(1, 2, 3)), refused(/rows of 2.*received 3/));
    await assert.rejects(codebook.nearest(corners, { k: 5 }), refused(/1 to 4 for k/));
    await assert.rejects(codebook.nearest(corners, { k: 0 }), refused(/for k/));
    await assert.rejects(codebook.nearest(corners, { K: 1 } as never), refused(/Unknown option 'K'/));
    assert.throws(() => codebook.lookup([0, 4]), refused(/from 0 to 3 but received 4 at position 1/));
    assert.throws(() => codebook.lookup([-1]), refused(/received -1 at position 0/));
    assert.throws(() => codebook.lookup([0.5]), refused(/indices\[0\]/));
  });
});

describe('DualCodebook', () => {
  const semantic = Float32Array.of(0, 0, 1, 0, 0, 1);
  const pixel = Float32Array.of(5, 0, 2);
  const dual = new DualCodebook([
    { vectors: semantic, dim: 2 },
    { vectors: pixel, dim: 1 },
  ]);

  it('weighs the parts under one index, in one call', async () => {
    const queries = [Float32Array.of(0, 0), Float32Array.of(2)];
    const at = async (weights?: number[]) =>
      (await dual.nearest(queries, { weights, k: 3, partDistances: true })) as Required<
        Awaited<ReturnType<typeof dual.nearest>>
      >;
    const even = await at();
    assert.deepEqual(even.indices, Int32Array.of(2, 1, 0));
    assert.deepEqual(even.distances, Float32Array.of(1, 5, 9));
    assert.deepEqual(even.partDistances, [Float32Array.of(1, 1, 0), Float32Array.of(0, 4, 9)]);
    assert.deepEqual((await at([1, 0])).indices, Int32Array.of(0, 1, 2));
    assert.deepEqual((await at([0, -1])).indices, Int32Array.of(0, 1, 2));
    assert.deepEqual((await at([0, -1])).distances, Float32Array.of(-9, -4, 0));
  });

  it('takes rows side by side as well, and returns them so', () => {
    assert.deepEqual(dual.nearestSync(Float32Array.of(0, 0, 2)).indices, Int32Array.of(2));
    assert.deepEqual(dual.lookup([2, 0]), Float32Array.of(0, 1, 2, 0, 0, 5));
  });

  it('normalises part by part', () => {
    const mixed = new PartedCodebook([
      { vectors: Float32Array.of(10, 0, 0, 0.1), dim: 2, normalize: true },
      { vectors: Float32Array.of(3, 4), dim: 1 },
    ]);
    assert.deepEqual(mixed.lookup([0, 1]), Float32Array.of(1, 0, 3, 0, 1, 4));
  });

  it('says what is wrong with bad input', async () => {
    const part = { vectors: semantic, dim: 2 };
    assert.throws(() => new DualCodebook([part] as never), refused(/two parts/));
    assert.throws(() => new DualCodebook([part, { vectors: pixel.subarray(1), dim: 1 }]), refused(/3, 2/));
    assert.throws(() => new PartedCodebook([]), refused(/parts/));
    await assert.rejects(dual.nearest([semantic] as never), refused(/2 arrays, one per part/));
    await assert.rejects(dual.nearest([semantic, pixel.subarray(1)]), refused(/3, 2/));
    await assert.rejects(dual.nearest(semantic, { weights: [1] }), refused(/2 finite numbers/));
    await assert.rejects(dual.nearest(semantic, { weights: [1, Number.NaN] }), refused(/weights/));
  });
});

describe('codebooks in workers', () => {
  it('load, look up and are terminated, repeatedly', async () => {
    const script = `
      const { parentPort } = require('node:worker_threads');
      const { Codebook } = require(${JSON.stringify(path.join(__dirname, '..', 'lib', 'codebook', 'index.js'))});
      const codebook = new Codebook(new Float32Array(2048 * 16).map(Math.random), { dim: 16 });
      const go = async () => { for (;;) { await codebook.nearest(new Float32Array(500 * 16)); parentPort.postMessage(1); } };
      go();`;
    for (let round = 0; round < 4; round++) {
      const workers = Array.from({ length: 3 }, () => new Worker(script, { eval: true }));
      await Promise.all(workers.map((w) => new Promise((resolve) => w.once('message', resolve))));
      await Promise.all(workers.map((w) => w.terminate()));
    }
  });

  it('let the process end while a lookup is queued', () => {
    const script = `
      const { Codebook } = require(${JSON.stringify(path.join(__dirname, '..', 'lib', 'codebook', 'index.js'))});
      const codebook = new Codebook(new Float32Array(4096 * 64).map(Math.random), { dim: 64 });
      codebook.nearest(new Float32Array(4000 * 64));
      codebook.nearest(new Float32Array(4000 * 64));
      setTimeout(() => process.exit(7), 20);`;
    const run = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' });
    assert.equal(run.status, 7, run.stderr);
  });
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { Codebook, codeUsage, DualCodebook, PartedCodebook } from '../lib/codebook/index.js';
import { refused } from './support/refused.js';

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

  it('gives a vector that is a code the distance 0, however far from the origin', () => {
    const rows = Float32Array.from({ length: 500 * 7 }, (_, i) => 1e4 + Math.fround(Math.sin(i * i)));
    for (const metric of ['l2', 'cosine'] as const) {
      const codebook = new Codebook(rows, { dim: 7, metric });
      const { indices, distances } = codebook.nearestSync(rows, { k: 64 });
      indices.forEach((index, at) => {
        assert.ok(distances[at] >= 0);
        if (index === Math.floor(at / 64)) assert.equal(distances[at], 0);
      });
    }
  });

  it('takes up to 2^24 codes and 4096 elements', () => {
    const many = new Float32Array(2 ** 24); // zeros but for three
    const places = { 5: 3, 12345678: -2, [2 ** 24 - 1]: 7 };
    for (const [at, value] of Object.entries(places)) many[Number(at)] = value;
    const line = new Codebook(many, { dim: 1 });
    const { indices, distances } = line.nearestSync(Float32Array.of(2.5, -2, 9, 0.25));
    assert.deepEqual(indices, Int32Array.of(5, 12_345_678, 2 ** 24 - 1, 0));
    assert.deepEqual(distances, Float32Array.of(0.25, 0, 4, 0.0625));
    assert.deepEqual(line.lookup([2 ** 24 - 1]), Float32Array.of(7));
    line.dispose();
    assert.throws(() => new Codebook(new Float32Array(2 ** 24 + 1), { dim: 1 }), refused(/number of codes/));
    for (const dim of [1024, 4096]) {
      const rows = Float32Array.from({ length: 40 * dim }, (_, i) => Math.sin(i * i));
      const wide = new Codebook(rows, { dim });
      assert.deepEqual(
        wide.nearestSync(rows).indices,
        Int32Array.from({ length: 40 }, (_, j) => j),
      );
    }
    assert.throws(() => new Codebook(new Float32Array(4097), { dim: 4097 }), refused(/1 to 4096 for dim/));
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
      make(corners, { dim: 2, device: 'cuda:99' }),
      refused(/Device 'cuda:99' is not available/, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE'),
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

describe('codebooks for inspection', () => {
  const corners = Float32Array.of(0, 0, 1, 0, 0, 1, 1, 1);

  it('describe themselves as JSON: class, shape, metric, parts and memory, no codes', () => {
    const codebook = new Codebook(corners, { dim: 2, metric: 'cosine' });
    const { bytes } = codebook.stats;
    assert.ok(bytes >= corners.byteLength);
    assert.deepEqual(JSON.parse(JSON.stringify(codebook)), {
      type: 'Codebook',
      size: 4,
      dim: 2,
      metric: 'cosine',
      device: codebook.device,
      parts: [{ dim: 2, normalize: true }],
      nonFinite: 0,
      bytes,
    });
    const part = { vectors: corners, dim: 2 };
    const dual = new DualCodebook([
      part,
      { vectors: Float32Array.of(1, 2, 3, Number.NaN), dim: 1, normalize: true },
    ]);
    assert.deepEqual(JSON.parse(JSON.stringify(dual)), {
      type: 'DualCodebook',
      size: 4,
      dim: 3,
      metric: 'l2',
      device: dual.device,
      parts: [
        { dim: 2, normalize: false },
        { dim: 1, normalize: true },
      ],
      nonFinite: 1,
      bytes: dual.stats.bytes,
    });
    assert.equal(new PartedCodebook([part]).toJSON().type, 'PartedCodebook');
    for (const gone of [codebook, dual]) {
      assert.equal(gone.disposed, false);
      gone[Symbol.dispose]();
      assert.equal(gone.disposed, true);
      assert.equal(gone.toJSON().bytes, 0);
    }
  });

  it('unit: codes that are unit vectors already are taken bit for bit', () => {
    const codebook = new Codebook(Float32Array.of(1, 2, 3, 4, 5, 6, 0, 0), { dim: 2, metric: 'cosine' });
    const rows = codebook.lookup([0, 1, 2, 3]);
    for (const options of [{ metric: 'cosine' as const }, {}]) {
      const again = new Codebook(rows, { dim: 2, unit: true, ...options });
      assert.deepEqual(again.lookup([0, 1, 2, 3]), rows);
      assert.deepEqual(again.toJSON().parts, [{ dim: 2, normalize: true }]);
    }
    assert.throws(
      () => new Codebook(Float32Array.of(1, 0, 3, 4), { dim: 2, unit: true }),
      refused(/unit vectors.*code 1 has length 5.*leave unit out/),
    );
  });

  it('onNonFinite: codes and queries that can have no distance are errors where asked for', async () => {
    const bad = Float32Array.of(0, 0, Number.NaN, 1, 1, 1);
    const make = (codes: Float32Array, onNonFinite?: string) =>
      new Codebook(codes, { dim: 2, onNonFinite: onNonFinite as never });
    assert.equal(make(bad).nonFinite, 1);
    assert.throws(() => make(bad, 'throw'), refused(/finite codes but 1 of 3.*onNonFinite: 'skip'/));
    assert.throws(() => make(bad, 'thrwo'), refused(/did you mean 'throw'/));
    const part = { vectors: bad, dim: 2 };
    assert.throws(() => new DualCodebook([part, part], { onNonFinite: 'throw' }), refused(/1 of 3/));
    const strict = make(corners, 'throw');
    const queries = Float32Array.of(0, 0, 1, Infinity);
    const out = { indices: Int32Array.of(7, 7), distances: new Float32Array(2) };
    await assert.rejects(strict.nearest(queries, { out }), refused(/finite queries but row 1/));
    assert.deepEqual(out.indices, Int32Array.of(7, 7));
    assert.throws(() => strict.nearestSync(queries, { k: 2 }), refused(/row 1/));
    await assert.rejects(strict.quantize(queries), refused(/row 1/));
    assert.deepEqual((await strict.nearest(queries.subarray(0, 2))).indices, Int32Array.of(0));
  });
});

describe('what a quantiser needs', () => {
  const corners = Float32Array.of(0, 0, 1, 0, 0, 1, 1, 1);

  it('quantize: indices, codes, errors and histogram in one call', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    const rows = Float32Array.of(0.5, 0, 1, 1, 3, 1, Number.NaN, 0);
    const result = await codebook.quantize(rows);
    assert.deepEqual(result, {
      indices: Int32Array.of(0, 3, 3, -1),
      codes: Float32Array.of(0, 0, 1, 1, 1, 1, Number.NaN, Number.NaN),
      errors: Float32Array.of(0.25, 0, 4, Number.NaN),
      counts: Int32Array.of(1, 0, 0, 2),
    });
    assert.deepEqual(codebook.quantizeSync(rows), result);
    await assert.rejects(
      codebook.quantize(rows, { k: 2 } as never),
      refused(/Unknown option 'k' for quantize/),
    );
  });

  it('quantize: the error is that of the row as it is compared', () => {
    const codebook = new Codebook(Float32Array.of(2, 0, 0, 2), { dim: 2, metric: 'cosine' });
    const { codes, errors } = codebook.quantizeSync(Float32Array.of(7, 0, 3, -4));
    assert.deepEqual(codes, Float32Array.of(1, 0, 1, 0));
    assert.equal(errors[0], 0);
    assert.ok(Math.abs(errors[1] - 0.8) < 1e-6); // (0.6, -0.8) from (1, 0)
    const dual = new DualCodebook([
      { vectors: Float32Array.of(0, 5), dim: 1 },
      { vectors: Float32Array.of(0, 5), dim: 1 },
    ]);
    assert.deepEqual(dual.quantizeSync(Float32Array.of(1, 4), { weights: [0, 1] }), {
      indices: Int32Array.of(1),
      codes: Float32Array.of(5, 5),
      errors: Float32Array.of(17),
      counts: Int32Array.of(0, 1),
    });
  });

  it('margin: the gap to the second best, whatever k', () => {
    const codebook = new Codebook(corners, { dim: 2 });
    const queries = Float32Array.of(0.25, 0, 0.5, 1, Number.NaN, 0);
    const one = codebook.nearestSync(queries, { margin: true });
    assert.deepEqual(one.margins, Float32Array.of(0.5, 0, Number.NaN));
    assert.deepEqual(one.indices, Int32Array.of(0, 2, -1));
    assert.equal(one.distances.length, 3);
    const three = codebook.nearestSync(queries, { k: 3, margin: true });
    assert.deepEqual(three.margins, one.margins);
    assert.deepEqual(three.distances, codebook.nearestSync(queries, { k: 3 }).distances);
    const alone = new Codebook(Float32Array.of(1), { dim: 1 });
    assert.deepEqual(
      alone.nearestSync(Float32Array.of(4), { margin: true }).margins,
      Float32Array.of(Infinity),
    );
    const ip = new Codebook(corners, { dim: 2, metric: 'ip' });
    assert.deepEqual(ip.nearestSync(Float32Array.of(2, 1), { margin: true }).margins, Float32Array.of(1));
    const dual = new DualCodebook([
      { vectors: Float32Array.of(0, 5, 9), dim: 1 },
      { vectors: Float32Array.of(0, 5, 9), dim: 1 },
    ]);
    const { partDistances, margins } = dual.nearestSync(Float32Array.of(1, 2, 8, 9), {
      margin: true,
      partDistances: true,
    });
    assert.deepEqual(partDistances, [Float32Array.of(1, 1), Float32Array.of(4, 0)]);
    assert.deepEqual(margins, Float32Array.of(20, 24));
  });

  it('takes 16-bit floats as their bits', async () => {
    const codebook = new Codebook(corners, { dim: 2 });
    // 1, 0.5 / -0, the smallest subnormal / infinity, 0
    const half = Uint16Array.of(0x3c00, 0x3800, 0x8000, 0x0001, 0x7c00, 0);
    const { indices, distances } = await codebook.nearest(half, { format: 'f16' });
    assert.deepEqual(indices, Int32Array.of(1, 0, -1));
    assert.deepEqual(distances, Float32Array.of(0.25, 2 ** -48, Number.NaN));
    const brain = Uint16Array.of(0x3f80, 0xbf80, 0x7fc0, 0); // 1, -1 / NaN, 0
    assert.deepEqual(codebook.nearestSync(brain, { format: 'bf16' }), {
      indices: Int32Array.of(1, -1),
      distances: Float32Array.of(1, Number.NaN),
    });
    await assert.rejects(codebook.nearest(half), refused(/Float32Array for queries/));
    await assert.rejects(
      codebook.nearest(corners, { format: 'f16' }),
      refused(/Uint16Array, as the format is 'f16'/),
    );
    await assert.rejects(
      codebook.nearest(half, { format: 'f8' as never }),
      refused(/'f16' or 'bf16' for format/),
    );
  });

  it('every 16-bit float reads as the float32 of its value', () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const value = (format: 'f16' | 'bf16', b: number) => {
      const [size, bias] = format === 'f16' ? [10, 15] : [7, 127];
      const exponent = (b & 0x7fff) >> size;
      const fraction = (b & ((1 << size) - 1)) / 2 ** size;
      const size1 = exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
      return b & 0x8000 ? -size1 : size1;
    };
    const origin = new Codebook(Float32Array.of(1), { dim: 1, metric: 'ip' });
    for (const format of ['f16', 'bf16'] as const) {
      const { indices, distances } = origin.nearestSync(bits, { format });
      const special = format === 'f16' ? 0x7c00 : 0x7f80;
      bits.forEach((b, i) => {
        if ((b & 0x7fff) >= special) assert.equal(indices[i], -1);
        else if (distances[i] !== value(format, b)) assert.fail(`${format} ${b}: ${distances[i]}`);
      });
    }
  });

  it('codeUsage: entropy, perplexity, dead codes, collapse', () => {
    const usage = codeUsage(Int32Array.of(2, 0, 1, 1));
    assert.deepEqual(usage, {
      total: 4,
      used: 3,
      usage: 0.75,
      entropy: 1.5,
      perplexity: 2 ** 1.5,
      dead: Int32Array.of(1),
      top: 0,
      topShare: 0.5,
    });
    assert.equal(codeUsage([0, 9]).perplexity, 1);
    assert.deepEqual([codeUsage([0]).top, codeUsage([0]).topShare, codeUsage([0]).entropy], [-1, 0, 0]);
    assert.throws(() => codeUsage([1, -1]), refused(/counts\[1\]/));
  });

  it('stats: which kernel ran, and how much was scored exactly', () => {
    const vectors = new Float32Array(8192 * 16).map(Math.random);
    const queries = new Float32Array(300 * 16).map(Math.random);
    const screened = new Codebook(vectors, { dim: 16, screen: 'always', device: 'cpu' });
    const plain = new Codebook(vectors, { dim: 16, screen: 'off', device: 'cpu' });
    assert.deepEqual(screened.nearestSync(queries), plain.nearestSync(queries));
    const { kernel, screen } = screened.stats;
    assert.equal(plain.stats.exactShare, 1);
    assert.equal(plain.stats.screened, 0);
    assert.equal(plain.stats.queries, 300);
    if (kernel === 'scalar') {
      assert.equal(screen, undefined);
    } else {
      assert.match(screen!, kernel === 'avx2' ? /avx2/ : /vnni|avx2/);
      assert.equal(screened.stats.screened, 300);
      assert.ok(screened.stats.exactShare < 0.1);
    }
    const automatic = new Codebook(vectors, { dim: 16, device: 'cpu' });
    automatic.nearestSync(queries);
    assert.equal(automatic.stats.screened, 0); // too few queries yet for packing the screen to pay
    for (let i = 0; i < 8; i++) automatic.nearestSync(queries);
    assert.equal(automatic.stats.screened > 0, kernel !== 'scalar');
  });

  it('screen: gives up on data that defeat it, and still answers exactly', () => {
    const vectors = new Float32Array(8192 * 16).map(() => 0.5 + 1e-6 * Math.random());
    const queries = new Float32Array(600 * 16).map(() => 0.5 + 1e-6 * Math.random());
    const screened = new Codebook(vectors, { dim: 16, screen: 'always', device: 'cpu' });
    assert.deepEqual(
      screened.nearestSync(queries),
      new Codebook(vectors, { dim: 16, screen: 'off' }).nearestSync(queries),
    );
    assert.equal(screened.stats.exactShare, 1);
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
      const library = require(${JSON.stringify(path.join(__dirname, '..', 'lib', 'codebook', 'index.js'))});
      const vectors = new Float32Array(2048 * 16).map(Math.random);
      const codebook = new library.Codebook(vectors, { dim: 16 });
      const residual = new library.ResidualQuantizer([codebook, codebook]);
      const ema = new library.EmaCodebook(vectors, { dim: 16 });
      const work = [
        () => codebook.nearest(vectors),
        () => residual.encode(vectors, { beam: 2 }),
        () => ema.update(vectors, codebook.nearestSync(vectors).indices),
        () => library.kMeans(vectors, { dim: 16, size: 64, maxIterations: 3 }),
      ];
      const go = async () => { for (;;) for (const call of work) { await call(); parentPort.postMessage(1); } };
      go();`;
    for (let round = 0; round < 4; round++) {
      const workers = Array.from({ length: 3 }, () => new Worker(script, { eval: true }));
      await Promise.all(workers.map((w) => new Promise((resolve) => w.once('message', resolve))));
      await new Promise((resolve) => setTimeout(resolve, 20 * round)); // to end each round in another call
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

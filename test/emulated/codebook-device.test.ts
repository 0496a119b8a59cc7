/** Codebooks on a card, over the emulated machine: what the CPU gives, bit for bit, and everything that can go wrong. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Codebook, DeviceBuffer, type Metric, PartedCodebook, type TokenFlowError } from '../../lib/index.js';
import { emulated, inChild } from './child.js';

const METRICS: Metric[] = ['l2', 'cosine', 'ip'];

/** Reproducible values around 0. */
function values(length: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** The bits of an array; every NaN is one. */
function bits(array: Float32Array | Int32Array): number[] {
  if (array instanceof Int32Array) return [...array];
  const raw = new Uint32Array(array.buffer, array.byteOffset, array.length);
  return Array.from(array, (value, i) => (Number.isNaN(value) ? 0x7fc00000 : raw[i]));
}

function sameBits(a: object, b: object): void {
  assert.deepEqual(Object.keys(a), Object.keys(b));
  for (const [name, one] of Object.entries(a)) {
    const other = (b as Record<string, unknown>)[name];
    if (Array.isArray(one)) sameBits(one, other as object);
    else assert.deepEqual(bits(one), bits(other as Float32Array), name);
  }
}

async function readAll(result: object): Promise<Record<string, unknown>> {
  const read: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(result)) {
    if (Array.isArray(value))
      read[name] = await Promise.all(value.map((buffer: DeviceBuffer) => buffer.read()));
    else read[name] = await (value as DeviceBuffer).read();
  }
  return read;
}

interface Case {
  dims: number[];
  codes: number;
  n: number;
  k: number;
  metric: Metric;
  weights: number[];
  seed: number;
  spoilt: boolean;
  screen: 'off' | 'always' | 'auto';
}

const cases: fc.Arbitrary<Case> = fc
  .record({
    dims: fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 3 }),
    codes: fc.integer({ min: 1, max: 150 }),
    n: fc.integer({ min: 0, max: 150 }),
    k: fc.integer({ min: 1, max: 64 }),
    metric: fc.constantFrom(...METRICS),
    weights: fc.array(fc.constantFrom(1, 0.5, -1, 0), { minLength: 3, maxLength: 3 }),
    seed: fc.integer({ min: 1, max: 1e6 }),
    spoilt: fc.boolean(),
    screen: fc.constantFrom('off' as const, 'always' as const, 'auto' as const),
  })
  .map((c) => ({ ...c, k: Math.min(c.k, c.codes), weights: c.weights.slice(0, c.dims.length) }));

function make(c: Case, device: 'cpu' | 'cuda') {
  const parts = c.dims.map((dim, p) => {
    const vectors = values(c.codes * dim, c.seed + p);
    for (let j = 1; j < c.codes; j += 3) vectors.copyWithin(j * dim, 0, dim); // ties
    if (c.spoilt && p === 0)
      for (let j = 0; j < c.codes; j += 5) vectors[j * dim] = [Number.NaN, Infinity, 3e38][j % 3];
    return { vectors, dim, normalize: p % 2 === 1 };
  });
  return new PartedCodebook(parts, { metric: c.metric, device, screen: c.screen });
}

function queriesOf(c: Case): Float32Array {
  const dim = c.dims.reduce((a, b) => a + b, 0);
  const x = values(c.n * dim, c.seed + 77);
  if (c.spoilt) for (let i = 0; i < c.n; i += 4) x[i * dim] = [Number.NaN, -Infinity, 2e38, 0][(i / 4) % 4];
  return x;
}

describe('codebooks on a CUDA device', function () {
  this.timeout(120_000);
  before(function () {
    if (!emulated()) this.skip();
  });

  it('nearest, with margins and the parts’ distances, is that of the CPU to the bit', () => {
    fc.assert(
      fc.property(cases, (c) => {
        const x = queriesOf(c);
        const options = { k: c.k, weights: c.weights, margin: true, partDistances: true };
        sameBits(make(c, 'cuda').nearestSync(x, options), make(c, 'cpu').nearestSync(x, options));
      }),
      { numRuns: 12 },
    );
  });

  it('quantize and lookup are those of the CPU to the bit', () => {
    fc.assert(
      fc.property(cases, (c) => {
        const [cuda, cpu] = [make(c, 'cuda'), make(c, 'cpu')];
        sameBits(
          cuda.quantizeSync(queriesOf(c), { weights: c.weights }),
          cpu.quantizeSync(queriesOf(c), { weights: c.weights }),
        );
        const every = Int32Array.from({ length: c.codes }, (_, j) => j);
        assert.deepEqual(bits(cuda.lookup(every)), bits(cpu.lookup(every)));
      }),
      { numRuns: 8 },
    );
  });

  it('results that stay on the device are the same, and may be given on', async () => {
    await fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const [cuda, cpu] = [make(c, 'cuda'), make(c, 'cpu')];
        const x = queriesOf(c);
        for (const codebook of [cuda, cpu]) {
          const queries = await DeviceBuffer.from(x, { device: codebook.device as 'cpu' });
          const options = { k: c.k, weights: c.weights, margin: true, partDistances: true };
          const found = await codebook.nearest(queries, { ...options, result: 'device' });
          sameBits(await readAll(found), cpu.nearestSync(x, options));
          const quantized = await codebook.quantize(queries, { weights: c.weights, result: 'device' });
          const expected = cpu.quantizeSync(x, { weights: c.weights });
          sameBits(await readAll(quantized), expected);
          if (expected.indices.every((index) => index >= 0)) {
            const rows = await codebook.lookup(quantized.indices);
            assert.deepEqual(bits(await rows.read()), bits(cpu.lookup(expected.indices)));
          }
          // Queries on the device, results on the host.
          sameBits(codebook.nearestSync(queries, options), cpu.nearestSync(x, options));
        }
      }),
      { numRuns: 6 },
    );
  });

  it('takes 16-bit floats of every kind as the CPU does', async () => {
    const every = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const codes = values(60 * 64, 3);
    const [cuda, cpu] = (['cuda', 'cpu'] as const).map((device) => new Codebook(codes, { dim: 64, device }));
    for (const format of ['f16', 'bf16'] as const) {
      const expected = cpu.quantizeSync(every, { format });
      sameBits(cuda.quantizeSync(every, { format }), expected);
      const buffer = DeviceBuffer.fromSync(every, { device: 'cuda', dtype: format });
      sameBits(cuda.quantizeSync(buffer), expected);
      assert.deepEqual(await buffer.read(), every);
      assert.throws(() => cuda.quantizeSync(buffer, { format: 'f32' }), /'f16'|'bf16'/);
    }
  });

  it('goes over many queries in pieces when the device is small, with the same results', () => {
    const same = inChild(
      PRELUDE,
      `const codes = values(100 * 16), x = values(2500 * 16);
       const [cuda, cpu] = ['cuda', 'cpu'].map((device) => new Codebook(codes, { dim: 16, device }));
       const [a, b] = [cuda, cpu].map((c) => [c.nearestSync(x, { k: 3, margin: true }), c.quantizeSync(x)]);
       return JSON.stringify(a) === JSON.stringify(b);`,
      { EMULATED_MEMORY_MIB: '1' },
    );
    assert.equal(same, true);
  });

  it('says where it runs, and what its lookups did', () => {
    const codebook = new Codebook(values(4096 * 8, 1), { dim: 8, device: 'cuda', screen: 'always' });
    assert.equal(codebook.device, 'cuda:0');
    assert.equal(codebook.toJSON().device, 'cuda:0');
    codebook.nearestSync(values(64 * 8, 2));
    const { kernel, screen, queries, screened, exactShare } = codebook.stats;
    assert.deepEqual([kernel, screen, queries, screened], ['cuda', 'bf16 tensor cores', 64, 64]);
    assert.ok(exactShare > 0 && exactShare < 0.2, `${exactShare}`);
    const plain = new Codebook(values(64, 1), { dim: 8, device: 'cuda', screen: 'off' });
    plain.nearestSync(values(64, 2));
    assert.deepEqual([plain.stats.screened, plain.stats.exactShare], [0, 1]);
  });

  it('throws for queries without a code where the codebook says so, wherever the results are', async () => {
    const codebook = new Codebook(values(40, 1), { dim: 4, device: 'cuda', onNonFinite: 'throw' });
    const x = values(40, 2);
    x[29] = Number.NaN;
    for (const result of ['host', 'device'] as const) {
      await assert.rejects(
        codebook.nearest(x, { result } as { result: 'host' }),
        /finite queries but row 7 has/,
      );
    }
  });

  it('refuses indices out of range, and says which', async () => {
    const codebook = new Codebook(values(40, 1), { dim: 4, device: 'cuda' });
    const indices = await DeviceBuffer.from(Int32Array.of(0, 3, 9, 10, -1), { device: 'cuda' });
    await assert.rejects(codebook.lookup(indices), /from 0 to 9 but received 10 at position 3/);
  });

  it('stops when aborted, and goes on afterwards', async () => {
    const codebook = new Codebook(values(40, 1), { dim: 4, device: 'cuda' });
    const controller = new AbortController();
    const queued = codebook.nearest(values(4000, 2), { signal: controller.signal, result: 'device' });
    controller.abort(new Error('enough'));
    await assert.rejects(queued, /enough/);
    assert.equal((await codebook.nearest(values(4, 2))).indices.length, 1);
  });
});

/** A rejection of this code and message. */
function refused(message: RegExp, code = 'ERR_TOKENFLOW_INVALID_ARGUMENT') {
  return (error: TokenFlowError) => {
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

describe('DeviceBuffer on a CUDA device', function () {
  this.timeout(120_000);
  before(function () {
    if (!emulated()) this.skip();
  });

  it('is on its device, and refused by codebooks on another', async () => {
    const buffer = await DeviceBuffer.from(Float32Array.of(1, 2, 3, 4), { device: 'cuda' });
    assert.deepEqual(buffer.toJSON(), {
      type: 'DeviceBuffer',
      device: 'cuda:0',
      dtype: 'f32',
      length: 4,
      byteLength: 16,
    });
    const codebook = new Codebook(values(40, 1), { dim: 4, device: 'cpu' });
    await assert.rejects(codebook.nearest(buffer), refused(/on cpu.*received one on cuda:0/));
    const two = inChild(
      PRELUDE,
      `const buffer = await DeviceBuffer.from(values(8), { device: 'cuda:1' });
       const codebook = new Codebook(values(40), { dim: 4, device: 'cuda' });
       const other = new Codebook(values(40), { dim: 4, device: 'cuda:1' });
       return [await failure(codebook.nearest(buffer)), (await other.nearest(buffer)).indices.length];`,
      { EMULATED_DEVICES: '2' },
    );
    assert.match(two[0].message, /on cuda:0, where this call runs,.*one on cuda:1/);
    assert.equal(two[1], 2);
  });

  it('gives its memory back when disposed of, when collected and when its worker ends', () => {
    const got = inChild(
      PRELUDE,
      `const { Worker } = require('node:worker_threads');
       const { once } = require('node:events');
       const large = () => DeviceBuffer.from(new Float32Array(3 << 18), { device: 'cuda' }); // 3 MiB of 8
       for (let i = 0; i < 20; i++) (await large()).dispose();
       const settled = async () => { gc(); await new Promise((done) => setTimeout(done, 5)); };
       for (let i = 0; i < 20; i++) { await large(); await settled(); await settled(); }
       for (let i = 0; i < 3; i++) {
         const script = "const { DeviceBuffer, Codebook } = require('./dist/index.js');" +
           "const keep = [DeviceBuffer.fromSync(new Float32Array(3 << 18), { device: 'cuda' })," +
           "  new Codebook(new Float32Array(1 << 18), { dim: 4, device: 'cuda' })];" +
           "keep[1].nearestSync(new Float32Array(4));" +
           "globalThis.keep = keep; require('node:worker_threads').parentPort.postMessage('there'); setInterval(() => {}, 1e6);";
         const worker = new Worker(script, { eval: true });
         await once(worker, 'message');
         await worker.terminate();
       }
       const both = [await large(), await large()];
       const third = await failure(large());
       both[0].dispose();
       return [third, await failure(large())];`,
      { EMULATED_MEMORY_MIB: '8' },
    );
    assert.equal(got[0].code, 'ERR_TOKENFLOW_OUT_OF_MEMORY');
    assert.match(
      got[0].message,
      /no memory for a device buffer: 3145728 bytes are needed, \d+ of 8388608 are free/,
    );
    assert.equal(got[1], 'no error');
  });

  it('out of memory for a codebook or a result rejects the call, frees what it had, and the next works', () => {
    const got = inChild(
      PRELUDE,
      `const big = new Codebook(new Float32Array(3 << 20), { dim: 64, device: 'cuda' });
       const refused = await failure(big.nearest(new Float32Array(64)));
       const small = new Codebook(values(16 * 256), { dim: 256, device: 'cuda' });
       const x = await DeviceBuffer.from(new Float32Array(128 * 256), { device: 'cuda' }); // as large as its codes
       const results = [];
       for (let i = 0; i < 16; i++) {
         results.push(await failure(small.quantize(x, { result: 'device' })));
         gc(); await new Promise((done) => setTimeout(done, 5));
       }
       return [refused, ...new Set(results.map((r) => r.code ?? r))];`,
      { EMULATED_MEMORY_MIB: '2' },
    );
    assert.equal(got[0].code, 'ERR_TOKENFLOW_OUT_OF_MEMORY');
    assert.match(got[0].message, /no memory for a codebook of 49152 codes/);
    assert.deepEqual(got.slice(1).sort(), ['no error']);
  });

  for (const [call, status] of [
    ['launch', 700],
    ['cudaStreamSynchronize', 719],
    ['cudaMemcpyAsync', 700],
    ['cudaMemsetAsync', 719],
  ] as const) {
    it(`lost in ${call}: queued calls reject, later ones are refused with the reason, the CPU works`, () => {
      const got = inChild(
        PRELUDE,
        `const codebook = new Codebook(values(800), { dim: 8, device: 'cuda' });
         const x = values(400);
         const buffer = await DeviceBuffer.from(x, { device: 'cuda' });
         await codebook.nearest(buffer);
         const expected = codebook.nearestSync(x);
         process.env.EMULATED_FAULT = '${call}:${status}';
         const pending = await Promise.all([codebook.nearest(buffer), codebook.quantize(x), codebook.nearest(x),
           codebook.nearest(buffer, { result: 'device' })].map(failure));
         process.env.EMULATED_FAULT = '';
         const later = await Promise.all([buffer.read(), buffer.write(x), codebook.nearest(x),
           DeviceBuffer.from(x, { device: 'cuda:0' })].map(failure));
         const made = await failure((async () => new Codebook(values(80), { dim: 8, device: 'cuda' }))());
         const auto = new Codebook(values(800), { dim: 8, device: 'auto' });
         const cpu = JSON.stringify(auto.nearestSync(x)) === JSON.stringify(expected);
         buffer.dispose(); codebook.dispose();
         return { pending, later, made, device: auto.device, cpu };`,
      );
      for (const { code, message } of [...got.pending, ...got.later.slice(0, 3)]) {
        assert.equal(code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
        assert.match(message, /Device 'cuda:0' was lost: .*(illegal memory access|launch failure)/);
      }
      assert.equal(got.later[3].reason, 'device-lost');
      assert.equal(got.made.reason, 'device-lost');
      assert.deepEqual([got.device, got.cpu], ['cpu', true]);
    });
  }

  it('a failure that leaves the device whole rejects one call only', () => {
    const got = inChild(
      PRELUDE,
      `const codebook = new Codebook(values(800), { dim: 8, device: 'cuda' });
       const all = [];
       for (const fault of ['launch:701', 'cudaMemcpyAsync:1', 'cudaMallocHost:2', 'cudaMemsetAsync:801', 'cudaMalloc:2']) {
         const fresh = new Codebook(values(800), { dim: 8, device: 'cuda' });
         process.env.EMULATED_FAULT = fault;
         const refused = await failure(fresh.nearest(values(400)));
         process.env.EMULATED_FAULT = '';
         all.push([refused.code ?? refused, await failure(fresh.nearest(values(400)))]);
       }
       return all;`,
    );
    assert.deepEqual(got, [
      ['ERR_TOKENFLOW_INTERNAL', 'no error'],
      ['ERR_TOKENFLOW_INTERNAL', 'no error'],
      ['no error', 'no error'], // pinned memory is had once
      ['ERR_TOKENFLOW_INTERNAL', 'no error'],
      ['ERR_TOKENFLOW_OUT_OF_MEMORY', 'no error'],
    ]);
  });

  it('does not keep the process from ending while calls are queued', () => {
    const got = inChild(
      PRELUDE,
      `const codebook = new Codebook(values(8000), { dim: 8, device: 'cuda' });
       for (let i = 0; i < 50; i++) codebook.nearest(values(80000), { result: 'device' }).catch(() => {});
       console.log('true');
       process.exit(0);`,
    );
    assert.equal(got, true);
  });
});

const PRELUDE = `
  const { Codebook, DeviceBuffer } = require('./dist/index.js');
  const values = (length) => Float32Array.from({ length }, (_, i) => Math.sin(i * i));
  const failure = (promise) => promise.then(() => 'no error', ({ code, message, reason }) => ({ code, message, reason }));
`;

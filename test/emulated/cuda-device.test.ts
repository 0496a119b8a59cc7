/**
 * The CUDA backend as a user meets it, over the emulated machine: which device is chosen, what precision computes what, and
 * everything that can go wrong with a card. Each case is a process of its own, because a lost device stays lost.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { native, packageRoot } from '../../lib/native.js';

const golden = path.join(packageRoot(), 'test', 'golden', 'clipb');

/** What every script may use. */
const PRELUDE = `
  const { TokenFlow, listBackends } = require('./dist/index.js');
  const { native } = require('./dist/native.js');
  const { resolveDevice } = require('./dist/backends.js');
  const golden = ${JSON.stringify(golden)};
  const load = (options) => TokenFlow.load(golden + '/checkpoint.pt', { config: golden + '/config.json', ...options });
  const image = (seed = 7) => ({ data: Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => i * seed), width: 64, height: 64 });
  const failure = (promise) => promise.then(() => 'no error', ({ code, message, reason }) => ({ code, message, reason }));
  const graphs = (batch) => {
    const { GraphBuilder } = require('./dist/graph/builder.js');
    const graph = new GraphBuilder(batch);
    graph.output('y', graph.linear(graph.input('x', [40, 64]), { weight: 'w', out: 64 }));
    return graph.build().graph;
  };
  const program = (batch = 1, device = 'cuda:0') => {
    const program = native().createProgram(graphs(batch), native().createWeightStore(device), 'f32');
    program.setWeight('w', Float32Array.from({ length: 64 * 64 }, (_, i) => Math.sin(i)));
    return program;
  };
  const x = (batch = 1) => Float32Array.from({ length: batch * 40 * 64 }, (_, i) => Math.cos(i));
`;

const { TOKENFLOW_DEVICE: _, ...WITHOUT_DEVICE } = process.env;

function run(body: string, env: NodeJS.ProcessEnv = {}) {
  const script = `${PRELUDE}
    (async () => { ${body} })().then((result) => console.log(JSON.stringify(result)));`;
  const result = spawnSync(process.execPath, ['-e', script], {
    encoding: 'utf8',
    cwd: packageRoot(),
    env: { ...WITHOUT_DEVICE, ...env },
  });
  assert.equal(result.status, 0, `status ${result.status}, signal ${result.signal}: ${result.stderr}`);
  return JSON.parse(result.stdout.trim().split('\n').pop()!);
}

describe('a CUDA device', function () {
  this.timeout(120_000);
  before(function () {
    if (native().cudaStatus().devices[0]?.name === 'Emulated card') return;
    console.log('    skipped: no emulated card here; npm run test:simt runs these');
    this.skip();
  });

  it('is chosen by auto, by its number and by TOKENFLOW_DEVICE, and can be inspected', () => {
    const env = { EMULATED_DEVICES: '2' };
    const got = run(
      `const cuda = listBackends()[1];
       return [resolveDevice('auto'), resolveDevice('cuda'), resolveDevice('cuda:1'), resolveDevice('cpu'), cuda];`,
      env,
    );
    assert.deepEqual(got.slice(0, 4), ['cuda:0', 'cuda:0', 'cuda:1', 'cpu']);
    assert.equal(got[4].available, true);
    assert.deepEqual(got[4].devices[1], {
      id: 'cuda:1',
      name: 'Emulated card',
      computeCapability: '9.0',
      memoryBytes: 2 ** 30,
      precisions: ['f32', 'bf16'],
    });
    assert.equal(run(`return resolveDevice()`, { ...env, TOKENFLOW_DEVICE: 'cuda:1' }), 'cuda:1');
    const { code, message } = run(`return failure(load({ device: 'cuda:5' }))`, env);
    assert.equal(code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
    assert.match(message, /there are 2, counted from 0/);
  });

  it('without a card behind the driver: auto falls back, cuda throws with the reason', () => {
    const got = run(
      `return [resolveDevice('auto'), (await load()).device, await failure(load({ device: 'cuda' }))]`,
      { EMULATED_DEVICES: '0' },
    );
    assert.deepEqual(got.slice(0, 2), ['cpu', 'cpu']);
    assert.equal(got[2].code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
    assert.equal(got[2].reason, 'no-device');
  });

  it('older than compute capability 8.0 computes in f32 and refuses bf16', () => {
    const got = run(
      `const encoded = await (await load({ device: 'cuda' })).encode([image()]);
       return [encoded.tokens.length, await failure(load({ device: 'cuda', precision: 'bf16' }))]`,
      { EMULATED_ARCH: '75' },
    );
    assert.equal(got[0], 30);
    assert.equal(got[1].code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
    assert.match(got[1].message, /below 8\.0/);
  });

  it('computes linear layers and convolutions in f32 to the bit as the scalar chain of the CPU does', () => {
    const equal = run(
      `process.env.TOKENFLOW_WINOGRAD = 'off';
       const { GraphBuilder } = require('./dist/graph/builder.js');
       const graph = new GraphBuilder(2);
       const map = graph.input('x', [9, 11, 24]);
       const first = graph.conv2d(map, 'c1', { out: 40, kernel: 3, padding: 1, activation: 'swish' });
       const second = graph.conv2d(first, 'c2', { out: 32, kernel: 3, stride: 2, padding: [0, 0, 1, 1] });
       graph.output('y', graph.linear(second, { weight: 'l', bias: 'b', out: 20, activation: 'gelu' }));
       const { graph: plain } = graph.build();
       const run = (device) => {
         const program = native().createProgram(plain, native().createWeightStore(device), 'f32');
         let seed = 1;
         for (const { name, shape } of program.missingWeights()) {
           const count = shape.reduce((a, b) => a * b, 1);
           program.setWeight(name, Float32Array.from({ length: count }, () => Math.sin(seed++) / 8));
         }
         const x = Float32Array.from({ length: 2 * 9 * 11 * 24 }, (_, i) => Math.cos(i));
         return program.runSync({ x }).y;
       };
       return Buffer.compare(Buffer.from(run('cpu').buffer), Buffer.from(run('cuda:0').buffer)) === 0;`,
    );
    assert.equal(equal, true);
  });

  it('encodes in bf16 close to f32', () => {
    const got = run(
      `const features = async (precision) =>
         (await (await load({ device: 'cuda', precision })).encode([image()], { features: true }));
       const [exact, fast] = [await features('f32'), await features('bf16')];
       const same = exact.tokens.filter((token, i) => token === fast.tokens[i]).length;
       return same / exact.tokens.length;`,
    );
    // Random weights: an early token that differs moves all later residuals.
    assert.ok(got > 0.3, `${got} of the tokens agree`);
  });

  it('captures repeated runs in a graph, launches one by one where that is refused, with the same bits', () => {
    const body = `const p = program();
      const runs = [1, 2, 3].map(() => Buffer.from(p.runSync({ x: x() }).y.buffer).toString('base64'));
      return [new Set(runs).size, runs[0], p.profile()[0].milliseconds > 0];`;
    const captured = run(body);
    assert.equal(captured[0], 1);
    for (const env of [
      { TOKENFLOW_CUDA_GRAPHS: 'off' },
      { EMULATED_FAULT: 'cudaStreamBeginCapture:900' },
      { EMULATED_FAULT: 'cudaStreamEndCapture:901' },
      { EMULATED_FAULT: 'cudaGraphInstantiate:2' },
    ]) {
      assert.deepEqual(run(body, env), captured, JSON.stringify(env));
    }
  });

  it('puts a batch into the streams before the one in front of it is done, each with its own results', () => {
    const body = `const p = program(2);
      const inputs = Array.from({ length: 12 }, (_, n) => x(2).map((v) => v * (n + 1)));
      const alone = inputs.map((x) => Buffer.from(p.runSync({ x }).y.buffer).toString('base64'));
      const trace = () => require('node:fs').readFileSync(process.env.EMULATED_TRACE, 'utf8').trim().split('\\n');
      const before = trace().length;
      const together = await Promise.all(inputs.map((x) => p.run({ x }).promise));
      return [together.every(({ y }, n) => Buffer.from(y.buffer).toString('base64') === alone[n]), trace().slice(before)];`;
    const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-trace-'));
    try {
      const env = { EMULATED_TRACE: path.join(folder, 'trace') };
      for (const wander of ['0', '5', '77']) {
        const [same, trace] = run(body, { ...env, EMULATED_WANDER: wander }) as [boolean, string[]];
        assert.equal(same, true);
        const issued = trace.filter((line) => /^issued (up|down)load|^waited event/.test(line));
        assert.equal(issued.filter((line) => line === 'waited event').length, 12);
        // The second and third batches go up before the first and second are waited for, and so on.
        let [ahead, most] = [0, 0];
        for (const line of issued) {
          if (line === 'issued upload') most = Math.max(most, ++ahead);
          if (line === 'waited event') ahead--;
        }
        assert.equal(most, 2, 'two under way, no more');
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('keeps its results when another program moves the memory that a graph has noted down', () => {
    const same = run(
      `const store = native().createWeightStore('cuda:0');
       const make = (batch) => {
         const p = native().createProgram(graphs(batch), store, 'f32');
         for (const { name } of p.missingWeights()) {
           p.setWeight(name, Float32Array.from({ length: 64 * 64 }, (_, i) => Math.sin(i)));
         }
         return p;
       };
       const small = make(1), large = make(9);
       const first = [small.runSync({ x: x() }), small.runSync({ x: x() })][1].y;
       large.runSync({ x: x(9) });
       const later = [small.runSync({ x: x() }), small.runSync({ x: x() })][1].y;
       return first.every((v, i) => v === later[i]);`,
    );
    assert.equal(same, true);
  });

  it('out of memory says how much was needed and what batch fits, and goes on working', () => {
    const got = run(
      `const p = program(40000);
       const refused = await failure(p.run({ x: new Float32Array(40000 * 40 * 64) }).promise);
       const fitting = Number(/A batch of (\\d+) fits/.exec(refused.message)?.[1]);
       const fits = await failure(program(fitting).run({ x: new Float32Array(fitting * 40 * 64) }).promise);
       return { refused, fitting, fits, lost: listBackends()[1].reason };`,
      { EMULATED_MEMORY_MIB: '64' },
    );
    assert.equal(got.refused.code, 'ERR_TOKENFLOW_OUT_OF_MEMORY');
    assert.match(
      got.refused.message,
      /A batch of 40000 needs \d+ MiB .* of its 64 MiB only \d+ MiB are free/,
    );
    assert.ok(got.fitting > 1000 && got.fitting < 40000, `${got.fitting}`);
    assert.equal(got.fits, 'no error');
    assert.equal(got.lost, null);
  });

  it('out of memory for weights names the weight', () => {
    const { code, message } = run(
      `const { GraphBuilder } = require('./dist/graph/builder.js');
       const graph = new GraphBuilder(1);
       graph.output('y', graph.linear(graph.input('x', [1, 4096]), { weight: 'w', out: 4096 }));
       const p = native().createProgram(graph.build().graph, native().createWeightStore('cuda:0'), 'f32');
       return failure((async () => p.setWeight('w', new Float32Array(4096 * 4096)))());`,
      { EMULATED_MEMORY_MIB: '32' },
    );
    assert.equal(code, 'ERR_TOKENFLOW_OUT_OF_MEMORY');
    assert.match(message, /The weight 'w' of 16777216 elements does not fit/);
  });

  for (const [call, status] of [
    ['launch', 700],
    ['cudaEventSynchronize', 719],
    ['cudaMemcpyAsync', 700],
    ['cudaGraphLaunch', 719],
  ] as const) {
    it(`lost in ${call}: pending promises reject, later calls are refused with the reason, the CPU works`, () => {
      const got = run(
        `const p = program();
         p.runSync({ x: x() });
         const before = await p.run({ x: x() }).promise;
         process.env.EMULATED_FAULT = '${call}:${status}';
         const pending = await Promise.all([1, 2, 3].map(() => failure(p.run({ x: x() }).promise)));
         process.env.EMULATED_FAULT = '';
         const cuda = listBackends()[1];
         return { pending, later: await failure(load({ device: 'cuda' })), auto: resolveDevice('auto'),
           store: await failure((async () => program())()), cuda,
           cpu: program(1, 'cpu').runSync({ x: x() }).y.length };`,
        // Once captured, launches and copies happen inside the graph.
        call === 'cudaGraphLaunch' ? {} : { TOKENFLOW_CUDA_GRAPHS: 'off' },
      );
      assert.equal(got.pending.length, 3);
      for (const { code, message } of got.pending) {
        assert.equal(code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
        assert.match(message, /Device 'cuda:0' was lost: .*(illegal memory access|launch failure)/);
      }
      assert.equal(got.later.reason, 'device-lost');
      assert.equal(got.store.code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
      assert.equal(got.cuda.available, false);
      assert.equal(got.cuda.reason, 'device-lost');
      assert.match(got.cuda.detail, /was lost|failed while/);
      assert.equal(got.auto, 'cpu');
      assert.equal(got.cpu, 40 * 64);
    });
  }

  it('a failure that leaves the device whole rejects one call only', () => {
    const got = run(
      `const p = program();
       process.env.EMULATED_FAULT = 'launch:701';
       const refused = await failure(p.run({ x: x() }).promise);
       process.env.EMULATED_FAULT = '';
       return [refused, (await p.run({ x: x() }).promise).y.length, listBackends()[1].reason];`,
    );
    assert.equal(got[0].code, 'ERR_TOKENFLOW_INTERNAL');
    assert.deepEqual(got.slice(1), [40 * 64, null]);
  });

  it('two cards work at once, each on its own', () => {
    const equal = run(
      `const [a, b] = [program(3, 'cuda:0'), program(3, 'cuda:1')];
       const [one, two] = await Promise.all([a, b].map((p) => p.run({ x: x(3) }).promise));
       return one.y.every((v, i) => v === two.y[i]);`,
      { EMULATED_DEVICES: '2' },
    );
    assert.equal(equal, true);
  });

  it('is shared by workers, and a worker that ends leaves it to the others', () => {
    const got = run(
      `const { Worker } = require('node:worker_threads');
       const { once } = require('node:events');
       const script = \`${PRELUDE.replace(/\\/g, '\\\\').replace(/`/g, '\\`').replace(/\$\{/g, '\\${')}
         const { parentPort } = require('node:worker_threads');
         const p = program();
         for (let i = 0; i < 20; i++) p.run({ x: x() }).promise.catch(() => {});
         p.run({ x: x() }).promise.catch(() => {});
         parentPort.postMessage('running');
         setInterval(() => {}, 1000);\`;
       const workers = [1, 2].map(() => new Worker(script, { eval: true }));
       await Promise.all(workers.map((worker) => once(worker, 'message')));
       const own = program();
       const during = own.run({ x: x() }).promise;
       await Promise.all(workers.map((worker) => worker.terminate()));
       await during;
       return own.runSync({ x: x() }).y.length;`,
    );
    assert.equal(got, 40 * 64);
  });

  it('does not keep the process from ending while work is queued', () => {
    const script = `${PRELUDE} const p = program(200); for (let i = 0; i < 50; i++) p.run({ x: x(200) }); process.exit(3);`;
    const result = spawnSync(process.execPath, ['-e', script], {
      encoding: 'utf8',
      cwd: packageRoot(),
      timeout: 60_000,
    });
    assert.equal(result.status, 3, `signal ${result.signal}: ${result.stderr}`);
  });

  it('refuses programs and stores that were disposed of, and gives their memory back', () => {
    const got = run(
      `const rounds = [];
       for (let i = 0; i < 40; i++) {
         const store = native().createWeightStore('cuda:0');
         const p = native().createProgram(graphs(100), store, 'f32');
         p.setWeight('w', new Float32Array(64 * 64));
         p.runSync({ x: x(100) });
         p.dispose();
         store.dispose();
         rounds.push(await failure((async () => p.runSync({ x: x(100) }))()));
       }
       return rounds;`,
      { EMULATED_MEMORY_MIB: '8' },
    );
    for (const { code } of got) assert.equal(code, 'ERR_TOKENFLOW_DISPOSED');
  });
});

/**
 * What can only be known on a card, in at most eight minutes: `npm run gpu:report -- [--minutes 8] [--out docs/gpu]`.
 *
 * Runs the test suite with TOKENFLOW_DEVICE=cuda, compares a million lookups with the CPU's to the bit, lets
 * compute-sanitizer watch small cases where it is installed, and takes times with CUDA events: ours by op, PyTorch's beside
 * them. Writes <card>.md and <card>.json. Sections that no longer fit into the time are named as left out. Without a card it
 * says why, writes nothing and ends with 0; it ends with 1 when a test or a comparison failed.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Rival } from './rival.mjs';

const root = path.resolve(import.meta.dirname, '..', '..');
const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '8' },
    out: { type: 'string', default: path.join(root, 'docs', 'gpu') },
  },
});
const deadline = Date.now() + Number(options.minutes) * 60_000;
const secondsLeft = () => (deadline - Date.now()) / 1000;
const say = (text) => process.stderr.write(`gpu-report: ${text}\n`);

// The tests' own build: it has the library, and the random weights of the full-size models.
const require = createRequire(path.join(root, 'dist-test', 'package.json'));
const lib = (name) => require(`./lib/${name}.js`);

function endWithoutCard(why) {
  say(`no GPU was used: ${why}. Nothing was measured and no file was written.`);
  process.exit(0);
}

/** The library for the cards of this machine, built where that was left out and a compiler is here. */
function buildLibrary() {
  if (spawnSync('nvidia-smi', [], { stdio: 'ignore' }).status !== 0) return 'nvidia-smi finds no card';
  if (spawnSync('nvcc', ['--version'], { stdio: 'ignore' }).status !== 0) {
    return 'tokenflow_cuda.so was not built, and nvcc is not here to build it';
  }
  say('building tokenflow_cuda.so for the cards of this machine');
  const cmake = ['node_modules/cmake-js/bin/cmake-js', 'build', '--parallel', '16', '--CDTOKENFLOW_CUDA=ON'];
  const built = spawnSync(process.execPath, [...cmake, '--CDCMAKE_CUDA_ARCHITECTURES=native'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return built.status === 0 ? null : 'tokenflow_cuda.so could not be built';
}

if (!existsSync(path.join(root, 'dist-test', 'lib', 'index.js'))) {
  say('the tests were not built; type: node tools/setup.mjs --test');
  process.exit(1);
}
const cuda = lib('backends').listBackends()[1];
if (cuda.reason === 'not-built') {
  const why = buildLibrary();
  if (why !== null) endWithoutCard(why);
  // The answer is remembered by the process, so a new one asks again.
  const again = spawnSync(process.execPath, process.argv.slice(1), { stdio: 'inherit' });
  process.exit(again.status ?? 1);
}
if (!cuda.available) {
  const detail = cuda.detail ? ` (${cuda.detail})` : '';
  endWithoutCard(`${lib('backends').explainBackend(cuda.reason)}${detail}`);
}

const device = lib('backends').resolveDevice('cuda');
const card = cuda.devices.find(({ id }) => id === device);
const { native } = lib('native');
const report = {
  card: card.name,
  computeCapability: card.computeCapability,
  memoryBytes: card.memoryBytes,
  date: new Date().toISOString(),
  node: process.version,
  version: require(path.join(root, 'package.json')).version,
  failures: [],
  leftOut: [],
};
const rival = Rival.find();
report.torch = rival ? await rival.ask({ do: 'about' }) : null;

/** Runs a part of the report unless its time is up; what it throws becomes a failure of the report. */
async function section(name, seconds, work) {
  if (secondsLeft() < seconds) {
    report.leftOut.push(name);
    say(`${name}: left out, ${Math.max(0, secondsLeft()).toFixed(0)} s are left`);
    return;
  }
  say(name);
  try {
    report[name] = await work();
  } catch (error) {
    report.failures.push(`${name}: ${error.message}`);
    say(`${name}: ${error.message}`);
  }
}

const environment = { ...process.env, TOKENFLOW_DEVICE: device };
const mocha = path.join(root, 'node_modules', 'mocha', 'bin', 'mocha.js');

/** Milliseconds of one run by CUDA events: the median over runs of the sum over the ops that `counts`. */
function millisecondsOf(program, inputs, counts = () => true, runs = 7) {
  const total = () =>
    program.profile().reduce((sum, { op, milliseconds }) => sum + (counts(op) ? milliseconds : 0), 0);
  const times = [];
  for (let i = 0; i < runs + 2; i++) {
    const before = total();
    program.runSync(inputs);
    if (i >= 2) times.push(total() - before);
  }
  return times.sort((a, b) => a - b)[runs >> 1];
}

/** A graph that looks up n cells, `batch` images of side x side, in one scale: no pooling, no resize. */
function lookupGraph(batch, side, k, d) {
  const { GraphBuilder } = lib('graph/builder');
  const graph = new GraphBuilder(batch);
  const { tokens } = graph.multiscaleEncode(graph.input('x', [side, side, d]), new Map([['codes', [k, d]]]), [
    side,
  ]);
  graph.output('tokens', tokens);
  return graph.build().graph;
}

function randomFloats(count, seed) {
  const data = new Float32Array(count);
  let state = seed | 1;
  for (let i = 0; i < count; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    data[i] = state / 2 ** 31;
  }
  return data;
}

function lookupProgram(where, batch, side, k, d) {
  const program = native().createProgram(
    lookupGraph(batch, side, k, d),
    native().createWeightStore(where),
    'f32',
  );
  program.setWeight('codes', randomFloats(k * d, 77));
  return program;
}

await section('tests', 60, () => {
  const args = [
    mocha,
    'dist-test/test/**/*.test.js',
    '--reporter',
    'json',
    '--ignore',
    'dist-test/test/emulated/**',
  ];
  const limit = Math.max(30, Math.min(180, secondsLeft() - 120)) * 1000;
  const run = spawnSync(process.execPath, args, {
    cwd: root,
    env: environment,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    timeout: limit,
  });
  if (run.status === null) throw new Error(`the tests did not end in ${limit / 1000} s`);
  const { stats, failures } = JSON.parse(run.stdout.slice(run.stdout.indexOf('{\n  "stats"')));
  for (const { fullTitle, err } of failures) report.failures.push(`test: ${fullTitle}: ${err.message}`);
  return { passed: stats.passes, failed: stats.failures, skipped: stats.pending };
});

await section('lookups equal to the CPU', 60, () => {
  const [batch, side, k, d] = [8, 128, 8192, 40];
  const [ours, reference] = [device, 'cpu'].map((where) => lookupProgram(where, batch, side, k, d));
  let queries = 0;
  let different = 0;
  for (let round = 0; queries < 1_000_000 && secondsLeft() > 30; round++) {
    const x = randomFloats(batch * side * side * d, round + 1);
    const [a, b] = [ours, reference].map((program) => program.runSync({ x }).tokens);
    queries += a.length;
    different += a.filter((token, i) => token !== b[i]).length;
  }
  if (different > 0) throw new Error(`${different} of ${queries} indices differ`);
  return { queries, different };
});

await section('compute-sanitizer', 60, () => {
  if (spawnSync('compute-sanitizer', ['--version'], { stdio: 'ignore' }).status !== 0) return 'not installed';
  const result = {};
  for (const tool of ['memcheck', 'racecheck']) {
    const args = ['--tool', tool, '--error-exitcode', '9', process.execPath, mocha];
    const cases = [
      'dist-test/test/program-ops.test.js',
      '--grep',
      '768 to 100|24 channels|groups|50 tokens|encodes',
      '--timeout',
      '0',
    ];
    const limit = Math.max(20, Math.min(60, secondsLeft() - 60)) * 1000;
    const run = spawnSync('compute-sanitizer', [...args, ...cases], {
      cwd: root,
      env: environment,
      encoding: 'utf8',
      timeout: limit,
    });
    result[tool] =
      run.status === 0 ? 'clean' : run.status === null ? `not done in ${limit / 1000} s` : 'errors';
    if (run.status === 9) report.failures.push(`compute-sanitizer ${tool}: ${run.stdout.slice(-2000)}`);
  }
  return result;
});

await section('ceilings', 20, () => rival?.ask({ do: 'ceilings' }) ?? 'no PyTorch');

// Times by op need single launches.
process.env.TOKENFLOW_CUDA_GRAPHS = 'off';

await section('lookup times', 60, async () => {
  const rows = [];
  for (const [n, k, d] of [
    [817, 32768, 40],
    [8192, 8192, 8],
    [8192, 32768, 32],
    [8192, 32768, 40],
    [32768, 32768, 40],
    [32768, 131072, 64],
    [131072, 32768, 40],
    [131072, 262144, 8],
  ]) {
    if (secondsLeft() < 45) break;
    // n as images of 64 x 64 cells, so that one launch has all of them
    const side = n < 4096 ? Math.round(Math.sqrt(n)) : 64;
    const batch = Math.max(1, Math.round(n / side ** 2));
    const program = lookupProgram(device, batch, side, k, d);
    const x = randomFloats(batch * side * side * d, 5);
    const row = { n: batch * side * side, k, d, ours: millisecondsOf(program, { x }) };
    program.dispose();
    const compiled = n === 8192 && d === 40; // compiling takes long
    for (const way of ['cdist', 'matmul']) {
      for (const tf32 of [false, true]) {
        const asked = await rival?.ask({ do: 'lookup', n: row.n, k, d, way, tf32, compiled: false });
        if (asked) row[`${way}${tf32 ? ' tf32' : ''}`] = asked.milliseconds ?? asked.error;
      }
    }
    if (compiled && rival) {
      const asked = await rival.ask({
        do: 'lookup',
        n: row.n,
        k,
        d,
        way: 'matmul',
        tf32: false,
        compiled: true,
      });
      row['matmul compiled'] = asked.milliseconds ?? asked.error;
    }
    rows.push(row);
  }
  return rows;
});

await section('models', 60, async () => {
  const { randomWeights } = require('./test/support/random-weights.js');
  const { openModel } = lib('tokenizer/open-model');
  const { encodeGraph, decodeGraph } = lib('tokenizer/graphs');
  const rows = [];
  for (const [weights, variant, batches] of [
    ['clipb_enhanced', 'clipb-256', [1, 8, 32, 64]],
    ['siglip', 'siglip', [1, 8]],
  ]) {
    const source = randomWeights(weights);
    const model = openModel(source, variant);
    const kept = new Map(); // the same random weights for every program
    const read = (name) => {
      if (!kept.has(name)) {
        const derived = model.derived.get(name);
        kept.set(name, derived ? derived.compute(source.read(derived.from)) : source.read(name));
      }
      return kept.get(name);
    };
    for (const precision of ['bf16', 'f32']) {
      if (!card.precisions.includes(precision)) continue;
      const store = native().createWeightStore(device);
      for (const part of ['encode', 'decode']) {
        for (const batch of batches) {
          if (secondsLeft() < 25) break;
          const { graph } =
            part === 'encode'
              ? encodeGraph(model, batch, { image: 'u8' })
              : decodeGraph(model, batch, model.scales.length, 'u8');
          const row = { variant, part, precision, batch };
          rows.push(row);
          try {
            const program = native().createProgram(graph, store, precision);
            for (const { name } of program.missingWeights()) program.setWeight(name, read(name));
            const [port, id] = Object.entries(graph.inputs)[0];
            const { shape, dtype } = graph.values[id];
            const count = shape.reduce((a, b) => a * b, 1);
            const input =
              dtype === 'u8' ? Uint8Array.from({ length: count }, (_, i) => i * 7) : new Int32Array(count);
            row.ours = millisecondsOf(program, { [port]: input }, () => true, 3);
            row.oursWithoutQuantiser = millisecondsOf(
              program,
              { [port]: input },
              (op) => !op.startsWith('multiscale'),
              3,
            );
            row.gigaMultiplyAdds = multiplyAdds(graph) / 1e9;
            row.tflops = (2 * row.gigaMultiplyAdds) / row.oursWithoutQuantiser;
            program.dispose();
          } catch (error) {
            row.error = error.message;
          }
          if (rival && secondsLeft() > 40) {
            const asked = await rival.ask({ do: 'graph', graph, precision, compiled: batch === 32 }, 60);
            row[batch === 32 ? 'torchCompiled' : 'torch'] = asked.milliseconds ?? asked.error;
          }
        }
      }
      store.dispose();
    }
  }
  return rows;
});

await section('tokens changed by bf16', 20, async () => {
  if (!card.precisions.includes('bf16')) return 'no bf16';
  const { TokenFlow } = lib('index');
  const samples = path.join(root, 'samples');
  const images = readdirSync(samples)
    .filter((file) => /\.(jpe?g|png)$/.test(file))
    .map((file) => path.join(samples, file));
  const tokens = [];
  for (const precision of ['f32', 'bf16']) {
    const tokenizer = await TokenFlow.load(path.join(root, 'models', 'tokenflow-tiny'), {
      device,
      precision,
    });
    tokens.push((await tokenizer.encode(images)).tokens);
    await tokenizer.dispose();
  }
  const changed = tokens[0].filter((token, i) => token !== tokens[1][i]).length;
  return { model: 'tokenflow-tiny', images: images.length, share: changed / tokens[0].length };
});

/** Multiply-adds of the products, convolutions and attention of a graph. */
function multiplyAdds(graph) {
  const size = (id) => graph.values[id].shape.reduce((a, b) => a * b, 1);
  let total = 0;
  for (const op of graph.ops) {
    const last = (id) => graph.values[id].shape.at(-1);
    if (op.op === 'linear') total += size(op.y) * last(op.x);
    if (op.op === 'conv2d') total += size(op.y) * last(op.x) * op.kernel ** 2;
    if (op.op === 'attention') total += 2 * size(op.y) * graph.values[op.y].shape[1];
  }
  return total;
}

rival?.end();

function table(rows) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const show = (value) =>
    typeof value === 'number' && !Number.isInteger(value) ? value.toPrecision(3) : (value ?? '');
  return [
    `| ${columns.join(' | ')} |`,
    `|${' --- |'.repeat(columns.length)}`,
    ...rows.map((row) => `| ${columns.map((column) => show(row[column])).join(' | ')} |`),
  ].join('\n');
}

const parts = [
  'tests',
  'lookups equal to the CPU',
  'compute-sanitizer',
  'ceilings',
  'lookup times',
  'models',
  'tokens changed by bf16',
];
const text = [
  `# ${report.card}`,
  `tokenflow ${report.version}, ${report.date.slice(0, 10)}, compute capability ${report.computeCapability}, ` +
    `${(report.memoryBytes / 2 ** 30).toFixed(0)} GiB, Node.js ${report.node}` +
    `${report.torch?.torch ? `, PyTorch ${report.torch.torch} (CUDA ${report.torch.cuda})` : ', no PyTorch'}. ` +
    'Times in milliseconds by CUDA events after warm-up, medians; made by `npm run gpu:report`. Ours are sums over the ops ' +
    'of a program started one by one; PyTorch computes the same layers in channels-last memory, without the quantiser.',
  ...(report.failures.length > 0
    ? ['## Failures', report.failures.map((line) => `- ${line}`).join('\n')]
    : []),
  ...parts
    .filter((name) => report[name] !== undefined)
    .flatMap((name) => [
      `## ${name[0].toUpperCase()}${name.slice(1)}`,
      Array.isArray(report[name])
        ? table(report[name])
        : typeof report[name] === 'string'
          ? report[name]
          : table([report[name]]),
    ]),
  ...(report.leftOut.length > 0 ? [`Left out, the time was up: ${report.leftOut.join(', ')}.`] : []),
].join('\n\n');
const file = path.join(options.out, report.card.replaceAll(/[^A-Za-z0-9]+/g, '-').toLowerCase());
mkdirSync(options.out, { recursive: true });
writeFileSync(`${file}.md`, `${text}\n`);
writeFileSync(`${file}.json`, `${JSON.stringify(report, null, 2)}\n`);
say(`wrote ${path.relative(process.cwd(), file)}.md and .json; ${report.failures.length} failures`);
process.exit(report.failures.length === 0 ? 0 : 1);

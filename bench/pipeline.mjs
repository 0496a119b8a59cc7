/**
 * The whole way of a dataset, files to token shards, against the bare native program on the same images:
 * `npm run bench:pipeline -- [--json FILE] [--only TEXT] [--quick]`. What each row says is in its note.
 *
 * The images are JPEGs with sides of 256 to 512 pixels, cut from the sample photographs at seeded places.
 */
import { fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { benchArguments, LoadGuard, Report, timeInTurn, withThreads } from './frame.mjs';
import { checkpointTensor, shapes } from './random-model.mjs';

const require = createRequire(import.meta.url);
const sharp = require('sharp');
const { ImageProcessor, openCheckpoint, openShard, TokenFlow } = require('../dist/index.js');
const { native } = require('../dist/native.js');
const { defaultBatch, lanesOf } = require('../dist/tokenizer/batching.js');
const { encodeGraph } = require('../dist/tokenizer/graphs.js');
const { openModel } = require('../dist/tokenizer/open-model.js');
const { WeightReader } = require('../dist/tokenizer/weight-reader.js');

const root = fileURLToPath(new URL('../', import.meta.url));
const PROCESSORS = os.availableParallelism();
const SHARD = 2048;
/** Resident memory may grow by so many bytes an image, which is 40 MB over 20 000; more is a leak, and the run fails. */
const MOST_GROWTH = 2048;

/** Models by name: where their weights come from, and how many images make a measurement of some seconds. */
const MODELS = {
  tiny: { weights: () => path.join(root, 'models', 'tokenflow-tiny'), images: 256 },
  'clipb-256': {
    weights: () => ({ path: 'random weights', tensors: described(), read: checkpointTensor, close() {} }),
    images: 16,
  },
};

function described() {
  return new Map([...shapes].map(([name, shape]) => [name, { shape }]));
}

/** Writes so many JPEGs and returns their paths. */
async function writeImages(folder, count) {
  const photographs = readdirSync(path.join(root, 'samples'))
    .filter((name) => name.endsWith('.jpg'))
    .map((name) => readFileSync(path.join(root, 'samples', name)));
  let state = 1;
  const upTo = (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 4294967296) * limit);
  };
  const files = [];
  for (let i = 0; i < count; i++) {
    const photograph = photographs[i % photographs.length];
    const { width, height } = await sharp(photograph).metadata();
    const cut = { width: Math.min(width, 256 + upTo(257)), height: Math.min(height, 256 + upTo(257)) };
    const file = path.join(folder, `${i}.jpg`);
    await sharp(photograph)
      .extract({ ...cut, left: upTo(width - cut.width + 1), top: upTo(height - cut.height + 1) })
      .jpeg({ quality: 90 })
      .toFile(file);
    files.push(file);
  }
  return files;
}

/** Files, or pixels in memory, through `encodeStream` into shards. `each` is told of every image. */
async function runPipeline(tokenizer, source, folder, each = () => {}) {
  const { tokenCount, codebookSize } = tokenizer;
  const open = (number) =>
    openShard('npy', path.join(folder, `shard-${number}`), { tokensPerImage: tokenCount, codebookSize });
  let shard = await open(0);
  let count = 0;
  for await (const record of tokenizer.encodeStream(source)) {
    if (count > 0 && count % SHARD === 0) {
      await shard.finish();
      shard = await open((count / SHARD) % 2);
    }
    await shard.write(record);
    each(++count, record);
  }
  await shard.finish();
}

/**
 * The native program by itself, over squares that are in memory: `run` with all threads on every op, `runLanes` as the
 * tokenizer runs it, in lanes.
 */
function openProgram(weights, threads) {
  const checkpoint = typeof weights === 'string' ? openCheckpoint(weights) : weights;
  const model = openModel(checkpoint, undefined, typeof weights === 'string' ? weights : undefined);
  const store = native().createWeightStore('cpu');
  const reader = new WeightReader(checkpoint, model);
  const programs = new Map();
  const compile = (batch, lanes) => {
    const key = `${batch} in ${lanes}`;
    if (!programs.has(key)) {
      const { graph } = encodeGraph(model, batch / lanes, { image: 'u8' });
      const program = native().createProgram(graph, store, 'f32', lanes);
      for (const { name } of program.missingWeights()) program.setWeight(name, reader.read(name));
      programs.set(key, program);
    }
    return programs.get(key);
  };
  const single = encodeGraph(model, 1, { image: 'u8' }).graph;
  const runBatches = (squares, batch, lanes) => {
    const bytes = model.imageSize ** 2 * 3;
    const tokens = [];
    for (let at = 0; at < squares.length; at += batch * bytes) {
      tokens.push(compile(batch, lanes).runSync({ image: squares.subarray(at, at + batch * bytes) }).tokens);
    }
    return tokens;
  };
  const batch = defaultBatch(single);
  const wide = defaultBatch(single, threads);
  return {
    batch,
    run: (squares) => runBatches(squares, batch, 1),
    runLanes: (squares) => runBatches(squares, wide, lanesOf(wide, threads)),
    dispose() {
      for (const program of programs.values()) program.dispose();
      store.dispose();
      checkpoint.close();
    },
  };
}

/** Share of the pipeline's tokens that equal those of the bare program. */
async function agreementOf(tokenizer, source, folder, expected) {
  let equal = 0;
  let at = 0;
  await runPipeline(tokenizer, source, folder, (_, { tokens }) => {
    for (const token of tokens) if (token === expected[at++]) equal++;
  });
  return equal / expected.length;
}

/** The 99th hundredth of event-loop delay beyond the sampling interval, in seconds, while `work` runs. */
async function eventLoopDelay(work) {
  const resolution = 1; // of the timer that samples, in milliseconds; its interval is part of what it records
  const histogram = monitorEventLoopDelay({ resolution });
  histogram.enable();
  await work();
  histogram.disable();
  const beyond = (nanoseconds) => Math.max(0, nanoseconds / 1e9 - resolution / 1e3);
  return {
    p99: beyond(histogram.percentile(99)),
    median: beyond(histogram.percentile(50)),
    most: beyond(histogram.max),
  };
}

const seconds = async (work) => {
  const started = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - started) / 1e9;
};

/**
 * Rows `pipeline/<model>/squares/<threads>` (pixels that need no decoding), `pipeline/<model>/jpeg/<threads>` and
 * `pipeline/<model>/event-loop/<threads>`.
 */
async function benchRate(report, name, { threads, folder, files, quick, wants }) {
  const rows = ['squares', 'jpeg', 'event-loop'].map((kind) => `pipeline/${name}/${kind}/${threads}`);
  if (!rows.some(wants)) return;
  const { weights, images } = MODELS[name];
  const paths = files.slice(0, images);
  await withThreads(threads, async () => {
    const tokenizer = await TokenFlow.load(weights(), { device: 'cpu', threads, preload: ['encode'] });
    const program = openProgram(weights(), threads);
    const { data: squares } = await new ImageProcessor({ size: tokenizer.imageSize }).prepareBatch(paths);
    const bytes = tokenizer.imageSize ** 2 * 3;
    const sources = {
      squares: paths.map((id, i) => ({
        id,
        pixels: {
          data: squares.subarray(i * bytes, (i + 1) * bytes),
          width: tokenizer.imageSize,
          height: tokenizer.imageSize,
        },
      })),
      jpeg: paths.map((file) => ({ id: file, path: file })),
    };
    const processorSeconds = async (work) => {
      const before = process.cpuUsage();
      await work();
      const { user, system } = process.cpuUsage(before);
      return (user + system) / 1e6 / images;
    };
    const [squaresRow, jpegRow, delayRow] = rows;
    for (const [kind, row] of [
      ['squares', squaresRow],
      ['jpeg', jpegRow],
    ]) {
      if (!wants(row)) continue;
      const expected = program.run(squares).flatMap((part) => [...part]);
      const agreement = await agreementOf(tokenizer, sources[kind], folder, expected);
      const guard = new LoadGuard();
      const times = await timeInTurn(
        {
          ours: () => runPipeline(tokenizer, sources[kind], folder),
          rival: async () => program.run(squares),
          lanes: async () => program.runLanes(squares),
        },
        { seconds: quick ? 4 : 12, least: 3 },
      );
      const ours = times.ours / images;
      report.add({
        name: row,
        seconds: ours,
        rival: 'bare program',
        rivalSeconds: times.rival / images,
        agreement,
        othersShare: guard.othersShare(),
        imagesPerSecond: 1 / ours,
        batch: program.batch,
      });
      report.note(
        `${row}: the program alone, in lanes as the tokenizer runs it, takes ${((times.lanes / images) * 1e3).toFixed(2)} ms an image`,
      );
      if (kind !== 'jpeg') continue;
      const computing = await processorSeconds(async () => program.runLanes(squares));
      const decoding = await processorSeconds(() =>
        new ImageProcessor({ size: tokenizer.imageSize }).prepareBatch(paths),
      );
      report.note(
        `${row}: an image takes ${(computing * 1e3).toFixed(1)} ms of processor to compute and ${(decoding * 1e3).toFixed(1)} ms to decode; ` +
          `the pipeline keeps ${(((computing + decoding) / PROCESSORS / ours) * 100).toFixed(0)} % of ${PROCESSORS} processors at that`,
      );
    }
    if (wants(delayRow)) {
      const guard = new LoadGuard();
      const { p99, median, most } = await eventLoopDelay(async () => {
        for (let run = 0; run < (quick ? 1 : 3); run++) await runPipeline(tokenizer, sources.jpeg, folder);
      });
      report.add({ name: delayRow, seconds: p99, othersShare: guard.othersShare(), median, most });
      report.note(
        `event-loop delay at full load: 99th hundredth ${(p99 * 1e3).toFixed(1)} ms, median ${(median * 1e3).toFixed(1)} ms, most ${(most * 1e3).toFixed(1)} ms`,
      );
    }
    program.dispose();
    await tokenizer.dispose();
  });
}

/** Least-squares slope. */
function slope(points) {
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const [mx, my] = [mean(points.map(([x]) => x)), mean(points.map(([, y]) => y))];
  const over = points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  return over / points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}

/** Row `pipeline/tiny/memory/<images>`: resident memory over many images, after the first quarter of them. */
async function benchMemory(report, { threads, folder, files, quick, wants }) {
  const count = quick ? 2000 : 20_000;
  const row = `pipeline/tiny/memory/${count}`;
  if (!wants(row)) return;
  await withThreads(threads, async () => {
    const tokenizer = await TokenFlow.load(MODELS.tiny.weights(), { device: 'cpu', threads });
    const source = Array.from({ length: count }, (_, i) => ({ id: `${i}`, path: files[i % files.length] }));
    const points = [];
    const guard = new LoadGuard();
    const taken = await seconds(() =>
      runPipeline(tokenizer, source, folder, (done) => {
        if (done % 100 === 0 && done > count / 4) points.push([done, process.memoryUsage.rss()]);
      }),
    );
    const perImage = slope(points);
    const level = Math.max(...points.map(([, resident]) => resident));
    report.add({
      name: row,
      seconds: taken / count,
      othersShare: guard.othersShare(),
      residentPerImage: perImage,
      resident: level,
    });
    report.note(
      `resident memory over ${count} images: at most ${(level / 1e6).toFixed(0)} MB, slope ${perImage.toFixed(0)} bytes an image (at most ${MOST_GROWTH} pass)`,
    );
    if (!(perImage <= MOST_GROWTH)) process.exitCode = 1;
    await tokenizer.dispose();
  });
}

/** One of the processes of `benchProcesses`: says when it is ready, then encodes what it is told to. */
async function serve() {
  const [, , , name, threads] = process.argv;
  const tokenizer = await TokenFlow.load(MODELS[name].weights(), {
    device: 'cpu',
    threads: Number(threads),
    preload: ['encode'],
  });
  process.on('message', async ({ files, folder }) => {
    const source = files.map((file) => ({ id: file, path: file }));
    await runPipeline(tokenizer, source, folder);
    process.send('done');
  });
  process.send('ready');
}

const answer = (child) => new Promise((resolve) => child.once('message', resolve));

/** Row `pipeline/<model>/processes/2`: two processes with half of the threads each against one with all. */
async function benchProcesses(report, name, { folder, files, quick, wants }) {
  const row = `pipeline/${name}/processes/2`;
  if (!wants(row)) return;
  if (PROCESSORS < 2) {
    report.note(`${row} is left out: one processor has no half`);
    return;
  }
  const { images } = MODELS[name];
  const paths = files.slice(0, images);
  const start = async (threads, number) => {
    const child = fork(fileURLToPath(import.meta.url), ['--serve', name, `${threads}`]);
    await answer(child);
    const own = path.join(folder, `${row.replaceAll('/', '-')}-${threads}-${number}`);
    mkdirSync(own, { recursive: true });
    return { child, folder: own };
  };
  const half = PROCESSORS >> 1;
  const one = [await start(PROCESSORS, 0)];
  const two = [await start(half, 0), await start(half, 1)];
  const work = (processes) => () =>
    Promise.all(
      processes.map(({ child, folder: own }, i) => {
        child.send({ files: paths.filter((_, at) => at % processes.length === i), folder: own });
        return answer(child);
      }),
    );
  const times = await timeInTurn({ two: work(two), one: work(one) }, { seconds: quick ? 4 : 15, least: 3 });
  for (const { child } of [...one, ...two]) child.kill();
  report.add({
    name: row,
    seconds: times.two / images,
    rival: 'one process',
    rivalSeconds: times.one / images,
    imagesPerSecond: images / times.two,
  });
}

async function main() {
  const { json, only, quick } = benchArguments();
  const wants = (row) => only === undefined || row.includes(only);
  const report = new Report('tokenflow: files to token shards');
  const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-bench-'));
  try {
    const files = await writeImages(folder, 256);
    const common = { folder, files, quick, wants };
    for (const name of Object.keys(MODELS)) {
      const counts = [...new Set([PROCESSORS, Math.max(1, PROCESSORS >> 1)])];
      for (const threads of counts) await benchRate(report, name, { ...common, threads });
      await benchProcesses(report, name, common);
    }
    await benchMemory(report, { ...common, threads: PROCESSORS });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  report.finish(json);
}

if (process.argv[2] === '--serve') await serve();
else await main();

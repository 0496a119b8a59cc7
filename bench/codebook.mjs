/**
 * `npm run bench:codebook`: the codebook layer against FAISS, onnxruntime, usearch and plain JavaScript, and against the
 * processor's own peak. `-- --json FILE` also writes the rows; `-- --only TEXT` runs those whose name contains it; `-- --quick`
 * takes fewer rounds.
 *
 * Names: tile/<dim>/<codes>/<queries>/<threads> (every code scored in fp32), screen/... (the same lookup, screened;
 * with the data's name when they are not the tokenizer's unit halves), small/... (a caller that streams), reading/... (the
 * same against one read of the codes), top10/..., onnx-argmax/..., onnx-top10/..., usearch/..., javascript/..., memory/...,
 * kmeans/<dim>/<codes>/<vectors>/<threads> (one iteration).
 */
import { createRequire } from 'node:module';
import { agreement, clustered, gaussian, nearCopies, unitHalves } from './codebook-data.mjs';
import {
  benchArguments,
  LoadGuard,
  median,
  Report,
  timeBesidePeak,
  timeInTurn,
  withThreads,
} from './frame.mjs';
import { benchKMeans, kMeansName } from './kmeans.mjs';
import { benchDualLookup } from './lookup.mjs';
import { benchLookupRivals } from './lookup-rivals.mjs';
import { Faiss } from './rivals/faiss.mjs';

const require = createRequire(import.meta.url);
const { Codebook } = require('../dist/codebook/index.js');
const { native } = require('../dist/native.js');

const { json, only, quick } = benchArguments();
const timing = quick ? { seconds: 0.4, least: 3 } : { seconds: 1.5, least: 7 };
const processors = [1, 2].filter((count) => count <= native().threads());

const DATA = {
  unit: { codes: unitHalves, queries: unitHalves },
  gauss: { codes: gaussian, queries: gaussian },
  clustered: {
    codes: (rows, dim) => clustered(rows, dim, { draw: 1 }),
    queries: (rows, dim) => clustered(rows, dim, { draw: 2 }),
  },
  // 64 copies of each of a few hundred codes, a hair apart
  copies: { codes: (rows, dim) => nearCopies(rows, dim, 1e-4, 1), queries: unitHalves },
  // all codes within 1e-4 of four places: the screen can tell none apart
  hopeless: { codes: (rows, dim) => nearCopies(rows, dim, 1e-4, 1, 4), queries: unitHalves },
};

const CASES = [];
for (const threads of processors) {
  for (const dim of [8, 32, 40, 64]) CASES.push({ kind: 'tile', dim, codes: 32768, queries: 817, threads });
  for (const queries of [817, 8192]) CASES.push({ kind: 'screen', dim: 40, codes: 32768, queries, threads });
  CASES.push({ kind: 'screen', dim: 8, codes: 32768, queries: 817, threads, data: 'gauss' });
  for (const data of ['clustered', 'copies', 'hopeless'])
    CASES.push({ kind: 'screen', dim: 40, codes: 32768, queries: 817, threads, data });
}
const most = processors[processors.length - 1];
for (const kind of ['tile', 'screen']) {
  CASES.push({ kind, dim: 8, codes: 262144, queries: 817, threads: most });
  CASES.push({ kind, dim: 256, codes: 16384, queries: 817, threads: most });
}
for (const queries of [1, 4, 16])
  CASES.push({ kind: 'small', dim: 40, codes: 32768, queries, threads: most });
for (const screen of ['off', 'always'])
  CASES.push({
    kind: screen === 'off' ? 'top10' : 'top10-screen',
    dim: 40,
    codes: 32768,
    queries: 817,
    threads: most,
    k: 10,
  });

const SCREENS = { tile: 'off', top10: 'off', screen: 'always', small: 'always', 'top10-screen': 'always' };

const nameOf = ({ kind, dim, codes, queries, threads, data }) =>
  [kind, dim, codes, queries, threads, ...(data ? [data] : [])].join('/');

async function run(report, faiss, test) {
  const { dim, threads, k = 1, data = 'unit' } = test;
  const codes = DATA[data].codes(test.codes, dim, 1);
  const queries = DATA[data].queries(test.queries, dim, 2);
  const codebook = new Codebook(codes, { dim, screen: SCREENS[test.kind] });
  await withThreads(threads, async () => {
    const guard = new LoadGuard();
    const { seconds, peak } = await timeBesidePeak(
      () => codebook.nearestSync(queries, { k }),
      threads,
      timing,
    );
    const othersShare = guard.othersShare();
    const { indices } = codebook.nearestSync(queries, { k });
    const rival = await faiss?.search({ codes, queries, dim, k, threads, runs: quick ? 3 : 7 });
    const { exactShare } = codebook.stats;
    report.add({
      name: nameOf(test),
      seconds,
      peak,
      operations: 2 * test.queries * test.codes * dim,
      threads,
      rival: rival && faiss.name,
      rivalSeconds: rival?.seconds,
      agreement: rival && agreement(indices, rival.indices),
      othersShare,
      exactShare,
    });
  });
  codebook.dispose();
}

/**
 * A caller that streams against the time of reading the codes once, as float32: a ratio of 1 is the floor of an unscreened
 * lookup. Once with `nearestSync` and, as `.../async`, with `await nearest`.
 */
async function reading(report, { dim, codes: size, queries: n, threads }, name) {
  const codes = unitHalves(size, dim, 1);
  const queries = unitHalves(n, dim, 2);
  const codebook = new Codebook(codes, { dim });
  codebook.nearestSync(unitHalves(2048, dim, 3)); // as in use: the screen is packed
  await withThreads(threads, async () => {
    const guard = new LoadGuard();
    // Each over and over: a caller that streams finds the codes in the cache.
    const calls = { seconds: 0.3, least: 50 };
    const { sync } = await timeInTurn({ sync: () => codebook.nearestSync(queries) }, calls);
    const { async } = await timeInTurn({ async: () => codebook.nearest(queries) }, calls);
    const reads = Array.from({ length: 5 }, () => native().readSeconds(codes.byteLength, threads));
    const row = {
      operations: 2 * n * size * dim,
      threads,
      rival: 'one read of the codes',
      rivalSeconds: median(reads),
      othersShare: guard.othersShare(),
    };
    report.add({ name, seconds: sync, ...row });
    report.add({ name: `${name}/async`, seconds: async, ...row });
  });
  codebook.dispose();
}

/** Resident memory that one large lookup adds, over its inputs and outputs. */
async function memory(report) {
  const [dim, size, n] = [40, 32768, 100_000];
  const codebook = new Codebook(unitHalves(size, dim, 1), { dim });
  const queries = unitHalves(n, dim, 2);
  let peak = 0;
  const before = process.memoryUsage.rss();
  const watch = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 5);
  const started = performance.now();
  await codebook.nearest(queries);
  const seconds = (performance.now() - started) / 1000;
  clearInterval(watch);
  const addedBytes = peak - before;
  report.add({ name: `memory/${dim}/${size}/${n}`, seconds, addedBytes });
  const inputsAndOutputs = n * dim * 4 + n * 8;
  report.note(
    `memory: resident size grew by ${(addedBytes / 2 ** 20).toFixed(0)} MB, of which ` +
      `${(inputsAndOutputs / 2 ** 20).toFixed(0)} MB are the copied input and the output`,
  );
  codebook.dispose();
}

const report = new Report('Codebook lookup');
const { faiss, reason } = await Faiss.start();
if (reason) report.note(`left out: ${reason}`);
const wanted = (name) => only === undefined || name.includes(only);
for (const test of CASES.filter((test) => wanted(nameOf(test)))) await run(report, faiss, test);
for (const test of CASES.filter(({ kind }) => kind === 'small')) {
  const name = nameOf({ ...test, kind: 'reading' });
  if (wanted(name)) await reading(report, test, name);
}
if (wanted('lookup/dual')) await benchDualLookup(report, { threads: processors });
await benchLookupRivals(report, wanted, processors);
for (const threads of processors.slice(-1))
  if (wanted(kMeansName(threads))) await benchKMeans(report, faiss, threads);
if (wanted('memory')) await memory(report);
faiss?.stop();
report.finish(json);

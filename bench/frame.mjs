/**
 * What every benchmark here shares: timing by medians, the processor's own peak measured in the same run, a guard
 * that notices other load, and the report as a table and as JSON.
 *
 * A row is { name, seconds, gflops, peakShare, rival, rivalSeconds, ratio, agreement }: `seconds` the median of one
 * call, `gflops` useful floating-point operations over it, `peakShare` of the fp32 FMA peak of as many threads,
 * `ratio` the rival's seconds over ours, `agreement` the share of equal results. What does not apply is null.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const { native } = createRequire(import.meta.url)('../dist/native.js');

/** Command line of a benchmark: `--json FILE`, `--only TEXT` (names that contain it), `--quick`. */
export function benchArguments() {
  const { values } = parseArgs({
    options: {
      json: { type: 'string' },
      only: { type: 'string' },
      quick: { type: 'boolean', default: false },
    },
  });
  return values;
}

const now = () => Number(process.hrtime.bigint()) / 1e9;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

/**
 * Median seconds of each of several functions, run in turn, so that a slow spell of the machine hits all of them.
 * Each is warmed up once; rounds go on for `seconds` in all, at least `least` of them. `rest` milliseconds of sleep go
 * before every call: the threads of some libraries spin on after their work, at the cost of whoever comes next.
 */
export async function timeInTurn(functions, { seconds = 2, least = 5, rest = 0 } = {}) {
  const names = Object.keys(functions);
  const times = Object.fromEntries(names.map((name) => [name, []]));
  for (const name of names) await functions[name]();
  const end = now() + seconds;
  for (let round = 0; round < least || (now() < end && round < 1000); round++) {
    for (const name of names) {
      if (rest) await sleep(rest);
      const started = now();
      await functions[name]();
      times[name].push(now() - started);
    }
  }
  return Object.fromEntries(names.map((name) => [name, median(times[name])]));
}

const peaks = new Map();

/** fp32 FMA operations per second of `threads` threads: the best seen in this run, or `again`, as it is at this moment. */
export function fmaPeak(threads, { again = false } = {}) {
  if (!again && peaks.has(threads)) return peaks.get(threads);
  const peak = native().fmaPeak(threads);
  peaks.set(threads, Math.max(peaks.get(threads) ?? 0, peak));
  return peak;
}

/**
 * Median seconds of `work`, called over and over, and the median peak of as many threads, measured between stretches of
 * such calls, so that a change of clock hits both.
 */
export async function timeBesidePeak(work, threads, { seconds = 2, least = 5 } = {}) {
  const stretch = 0.05;
  const times = [];
  const found = [];
  await work();
  const end = now() + seconds;
  do {
    found.push(fmaPeak(threads, { again: true }));
    for (const started = now(); now() < started + stretch || times.length < least; ) {
      const before = now();
      await work();
      times.push(now() - before);
    }
  } while (now() < end);
  return { seconds: median(times), peak: median(found) };
}

/** Runs `work` with that many compute threads. */
export async function withThreads(threads, work) {
  const before = native().threads();
  native().setThreads(threads);
  try {
    return await work();
  } finally {
    native().setThreads(before);
  }
}

function busySeconds() {
  const [user, nice, system, idle, iowait, irq, softirq] = readFileSync('/proc/stat', 'latin1')
    .split('\n', 1)[0]
    .trim()
    .split(/\s+/)
    .slice(1)
    .map((ticks) => Number(ticks) / 100);
  return {
    busy: user + nice + system + irq + softirq,
    all: user + nice + system + idle + iowait + irq + softirq,
  };
}

/** Notices what else the machine did while this process measured. */
export class LoadGuard {
  #start = this.#read();

  #read() {
    if (process.platform !== 'linux') return undefined;
    const { user, system } = process.cpuUsage();
    return { ...busySeconds(), own: (user + system) / 1e6 };
  }

  /** Share of all processors that others kept busy since the guard was made; undefined where unknown. */
  othersShare() {
    const end = this.#read();
    if (end === undefined) return undefined;
    const others = end.busy - this.#start.busy - (end.own - this.#start.own);
    return Math.max(0, others) / Math.max(1e-9, end.all - this.#start.all);
  }
}

export function machine() {
  const features = Object.entries(native().cpuFeatures())
    .filter(([, has]) => has)
    .map(([name]) => name);
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    processors: os.availableParallelism(),
    memory: os.totalmem(),
    simdLevel: native().simdLevel(),
    features,
    node: process.version,
  };
}

const text = (value, digits = 1, unit = '') => (value == null ? '' : `${value.toFixed(digits)}${unit}`);

function duration(seconds) {
  if (seconds == null) return '';
  return seconds >= 1
    ? `${seconds.toFixed(2)} s`
    : seconds >= 1e-3
      ? `${(seconds * 1e3).toFixed(2)} ms`
      : `${(seconds * 1e6).toFixed(1)} µs`;
}

const COLUMNS = [
  ['name', (r) => r.name],
  ['time', (r) => duration(r.seconds)],
  ['GFLOP/s', (r) => text(r.gflops)],
  ['of peak', (r) => text(r.peakShare && r.peakShare * 100, 1, ' %')],
  ['rival', (r) => r.rival ?? ''],
  ['its time', (r) => duration(r.rivalSeconds)],
  ['ratio', (r) => text(r.ratio, 2)],
  ['agreement', (r) => text(r.agreement && r.agreement * 100, 2, ' %')],
  ['load', (r) => (r.othersShare > 0.05 ? `${text(r.othersShare * 100, 0, ' %')} others` : '')],
];

/** Collects rows, prints each as it comes, and at the end writes them as JSON when asked. */
export class Report {
  #results = [];
  #widths = [36, 10, 8, 8, 24, 10, 7, 9, 10];

  constructor(title) {
    const { cpu, processors, simdLevel, node } = machine();
    console.log(`${title}\n${cpu}, ${processors} processors, level ${simdLevel}, Node.js ${node}`);
    this.#line(COLUMNS.map(([name]) => name));
  }

  #line(cells) {
    console.log(
      cells
        .map((cell, i) =>
          i === 0 || i === 4 ? cell.padEnd(this.#widths[i]) : cell.padStart(this.#widths[i]),
        )
        .join(' ')
        .trimEnd(),
    );
  }

  /**
   * Adds a row. Give `operations` (per call) and `threads` for gflops and peakShare, a rival's seconds for ratio; `peak`
   * where it was measured beside the calls, otherwise it is the best of the run.
   */
  add({
    name,
    seconds,
    operations,
    threads = 1,
    peak,
    rival,
    rivalSeconds,
    agreement,
    othersShare,
    ...more
  }) {
    const row = {
      name,
      seconds,
      gflops: operations ? operations / seconds / 1e9 : null,
      peakShare: operations ? operations / seconds / (peak ?? fmaPeak(threads)) : null,
      rival: rival ?? null,
      rivalSeconds: rivalSeconds ?? null,
      ratio: rivalSeconds ? rivalSeconds / seconds : null,
      agreement: agreement ?? null,
      ...(othersShare === undefined ? {} : { othersShare }),
      ...more,
    };
    this.#results.push(row);
    this.#line(COLUMNS.map(([, show]) => show(row)));
    return row;
  }

  /** A remark under the table: a rival that was left out and why, for instance. */
  note(remark) {
    console.log(`  ${remark}`);
  }

  finish(json) {
    const threads = [...peaks.keys()];
    const measured = Object.fromEntries(threads.map((count) => [count, fmaPeak(count) / 1e9]));
    for (const count of threads)
      this.note(`fp32 FMA peak, ${count} thread${count > 1 ? 's' : ''}: ${text(measured[count])} GFLOP/s`);
    const loaded = this.#results.filter((row) => row.othersShare > 0.05);
    if (loaded.length > 0)
      this.note(
        `Other processes took more than 5 % of the machine during ${loaded.length} rows: take those as lower bounds.`,
      );
    if (json !== undefined) {
      const report = { machine: { ...machine(), fmaPeakGflops: measured }, results: this.#results };
      writeFileSync(json, `${JSON.stringify(report, null, 2)}\n`);
    }
  }
}

/** Codes as averages of the vectors that chose them, as learning batch by batch keeps them. */
import { type Device, resolveDevice } from '../backends.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type AverageRule, type NativeJob, native, settle } from '../native.js';
import { type CallOptions, checkChoice, checkIndices, checkInteger, checkRows } from './arguments.js';
import { checkBuffer, DeviceBuffer, nativeOf } from './device-buffer.js';
import { Random } from './random.js';

/**
 * What a batch adds to every code. Processes that learn together add theirs up element by element (an all-reduce by
 * sum) before they apply them.
 */
export interface CodeSums {
  /** `[size]`: how many vectors chose each code. */
  counts: Float64Array;
  /** `[size, dim]`: their sum; of unit vectors for `cosine`. */
  sums: Float64Array;
}

export interface CodeAveragesOptions {
  /** Elements of a vector: 1 to 4096. */
  dim: number;
  /** `'l2'` (the default), or `'cosine'`: vectors are summed as unit vectors, and codes are made unit vectors. */
  metric?: 'l2' | 'cosine';
  /**
   * Where batches are added up. The codes and what stands behind them stay with the host. Default: `TOKENFLOW_DEVICE`, else
   * `'cpu'`. Every device gives the same sums, bit for bit.
   */
  device?: Device;
  /** State to continue from; both or neither. Copied. */
  counts?: Float64Array;
  sums?: Float64Array;
}

export interface ReviveOptions {
  /** Codes with a lower count are dead: at least 0. */
  threshold: number;
  /** A whole number; the same one draws the same vectors. */
  seed: number;
}

/** Options of these names, for classes that add their own. */
export const AVERAGES_OPTIONS = ['dim', 'metric', 'device', 'counts', 'sums'];

/**
 * Base of EmaCodebook and MiniBatchKMeans. `codes`, `counts` and `sums` are live: they change in place when an update ends,
 * and may be read, stored or sent at any time. Updates follow each other: await one before the next. One that fails or is
 * aborted leaves everything as it was.
 */
export abstract class CodeAverages {
  readonly dim: number;
  readonly size: number;
  readonly metric: 'l2' | 'cosine';
  /** Where batches are added up: `'cpu'` or `'cuda:0'`, … */
  readonly device: string;
  /** `[size, dim]`: for `new Codebook(codes, { dim, metric })`, which copies them. */
  readonly codes: Float32Array;
  /** `[size]`: how many vectors stand behind each code. */
  readonly counts: Float64Array;
  /** `[size, dim]`: their sum. */
  readonly sums: Float64Array;
  #busy = false;

  /** @internal */
  protected constructor(name: string, codes: unknown, options: CodeAveragesOptions, count: number) {
    if (options === undefined) throw invalidArgument(`the options of ${name}`, 'an object with dim', options);
    this.dim = checkInteger('dim', options.dim, 1, 4096);
    this.metric = checkChoice('metric', options.metric ?? 'l2', ['l2', 'cosine'] as const);
    this.device = resolveDevice(options.device, 'cpu');
    const checked = checkRows('codes', codes, this.dim);
    this.size = checkInteger('the number of codes', checked.length / this.dim, 1, 2 ** 24);
    checkFinite('codes', checked, this.dim);
    this.codes = Float32Array.from(checked);
    if (this.metric === 'cosine') makeUnit(this.codes, this.dim);
    if ((options.counts === undefined) !== (options.sums === undefined))
      throw invalidArgument('counts and sums', 'both or neither', options.counts ?? options.sums);
    if (options.counts !== undefined && options.sums !== undefined) {
      const state = this.checkSums(options as CodeSums);
      checkValues('counts', state.counts, 0);
      checkValues('sums', state.sums, -Infinity);
      this.counts = Float64Array.from(state.counts);
      this.sums = Float64Array.from(state.sums);
    } else {
      this.counts = new Float64Array(this.size).fill(count);
      this.sums = Float64Array.from(this.codes, (value) => value * count);
    }
  }

  /**
   * What a batch adds to every code: a stable counting sort of the vectors by code, then sums in double in the order of
   * the vectors, so that the number of threads changes nothing. Changes no state.
   *
   * @param vectors `[n, dim]`; copied at the call, or a DeviceBuffer on this device
   * @param indices `[n]`: each vector's code; likewise
   * @throws TokenFlowError for a vector that is not finite and for an index out of range, `-1` included
   */
  async accumulate(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options: CallOptions = {},
  ): Promise<CodeSums> {
    checkOptions('accumulate', options, ['signal']);
    const { request, result } = this.#request(vectors, indices, false);
    await settle(() => native().sumByCode(request), options.signal);
    return result;
  }

  /** As `accumulate`, blocking: for workers and scripts. */
  accumulateSync(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
  ): CodeSums {
    const { request, result } = this.#request(vectors, indices, true);
    native().sumByCode(request);
    return result;
  }

  /** Codes with a count below `threshold`, ascending. */
  deadCodes(threshold: number): Int32Array {
    if (typeof threshold !== 'number' || !(threshold >= 0))
      throw invalidArgument('threshold', 'a number of at least 0', threshold);
    const dead: number[] = [];
    for (let code = 0; code < this.size; code++) if (this.counts[code] < threshold) dead.push(code);
    return Int32Array.from(dead);
  }

  /**
   * Puts vectors, drawn evenly by `seed`, in the place of dead codes. Code, count and sum change together: the count to
   * `threshold`, so that a revived code is not dead at once. Vectors are drawn at most once each while there are enough.
   * Processes that learn together give the same vectors and seed.
   *
   * @param vectors `[n, dim]`, at least one; copied at the call
   * @returns the codes that were dead, ascending
   * @throws TokenFlowError when a vector is not finite, or another update is under way
   */
  async revive(vectors: Float32Array, options: ReviveOptions & CallOptions): Promise<Int32Array> {
    checkOptions('revive', options, ['threshold', 'seed', 'signal']);
    return this.exclusively(async () => {
      const { request, finish } = this.#revival(vectors, options, false);
      await settle(() => native().takeRows(request), options.signal);
      return finish();
    });
  }

  /** As `revive`, blocking: for workers and scripts. */
  reviveSync(vectors: Float32Array, options: ReviveOptions): Int32Array {
    checkOptions('revive', options, ['threshold', 'seed']);
    this.checkIdle();
    const { request, finish } = this.#revival(vectors, options, true);
    native().takeRows(request);
    return finish();
  }

  /** @internal Runs an update with no other beside it. */
  protected async exclusively<T>(work: () => Promise<T>): Promise<T> {
    this.checkIdle();
    this.#busy = true;
    try {
      return await work();
    } finally {
      this.#busy = false;
    }
  }

  /** @internal */
  protected checkIdle(): void {
    if (!this.#busy) return;
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      'Expected one update at a time but another is under way; await it first',
    );
  }

  /** @internal Averages a batch in, by the compute thread. */
  protected async average(batch: CodeSums, rule: AverageRule, signal?: AbortSignal): Promise<void> {
    const { start, finish } = this.#averaging(batch, rule, false);
    await settle(start, signal);
    finish();
  }

  /** @internal As `average`, blocking. */
  protected averageSync(batch: CodeSums, rule: AverageRule): void {
    const { start, finish } = this.#averaging(batch, rule, true);
    start();
    finish();
  }

  /** A job works on copies; the live arrays change when it is done. */
  #averaging(batch: CodeSums, rule: AverageRule, sync: boolean) {
    const { counts: batchCounts, sums: batchSums } = this.checkSums(batch);
    const next = { codes: this.codes.slice(), counts: this.counts.slice(), sums: this.sums.slice() };
    const normalize = this.metric === 'cosine';
    const request = { ...rule, dim: this.dim, normalize, batchCounts, batchSums, ...next, sync };
    return {
      start: (): NativeJob<void> => native().codesApply(request),
      finish: () => {
        this.codes.set(next.codes);
        this.counts.set(next.counts);
        this.sums.set(next.sums);
      },
    };
  }

  #revival(vectors: unknown, options: ReviveOptions, sync: boolean) {
    const checked = checkRows('vectors', vectors, this.dim);
    const total = checkInteger('the number of vectors', checked.length / this.dim, 1);
    const random = new Random(checkInteger('seed', options?.seed, 0));
    const dead = this.deadCodes(options.threshold);
    const rows = Float64Array.from(
      dead.length <= total
        ? random.sample(dead.length, total)
        : Array.from(dead, () => random.integer(total)),
    );
    const codes = new Float32Array(dead.length * this.dim);
    const normalize = this.metric === 'cosine';
    const finish = () => {
      dead.forEach((code, i) => {
        const at = code * this.dim;
        this.codes.set(codes.subarray(i * this.dim, (i + 1) * this.dim), at);
        this.counts[code] = options.threshold;
        for (let e = at; e < at + this.dim; e++) this.sums[e] = this.codes[e] * options.threshold;
      });
      return dead;
    };
    return { request: { vectors: checked, rows, dim: this.dim, normalize, codes, sync }, finish };
  }

  /** @internal Shapes only; what the numbers are is checked by native code. */
  protected checkSums(batch: CodeSums): CodeSums {
    const wanted = { counts: this.size, sums: this.size * this.dim };
    for (const name of ['counts', 'sums'] as const) {
      const given: unknown = batch?.[name];
      if (!(given instanceof Float64Array) || given.length !== wanted[name])
        throw invalidArgument(name, `a Float64Array of ${wanted[name]} elements`, given);
    }
    return batch;
  }

  #request(vectors: unknown, indices: unknown, sync: boolean) {
    const checked =
      vectors instanceof DeviceBuffer
        ? checkBuffer('vectors', vectors, this.device, ['f32'] as const, this.dim)
        : checkRows('vectors', vectors, this.dim);
    const n = checked.length / this.dim;
    const checkedIndices =
      indices instanceof DeviceBuffer
        ? checkBuffer('indices', indices, this.device, ['i32'] as const)
        : checkIndices('indices', indices);
    if (checkedIndices.length !== n)
      throw invalidArgument('indices', `${n} indices, one per vector,`, indices);
    const result = {
      counts: new Float64Array(this.size),
      sums: new Float64Array(this.size * this.dim),
    };
    const normalize = this.metric === 'cosine';
    return {
      request: {
        device: this.device,
        vectors: nativeOf(checked),
        indices: nativeOf(checkedIndices),
        ...{ n, dim: this.dim, normalize, sync },
        ...result,
      },
      result,
    };
  }
}

/** Rows as unit vectors, in place; a zero row stays, having no direction. */
function makeUnit(rows: Float32Array, dim: number): void {
  for (let at = 0; at < rows.length; at += dim) {
    let square = 0;
    for (let e = at; e < at + dim; e++) square += rows[e] * rows[e];
    const norm = Math.sqrt(square);
    if (norm > 0) for (let e = at; e < at + dim; e++) rows[e] /= norm;
  }
}

function checkValues(name: string, values: Float64Array, least: number): void {
  const wrong = values.findIndex((value) => !Number.isFinite(value) || value < least);
  if (wrong < 0) return;
  const expected = least === 0 ? 'a number of at least 0' : 'a finite number';
  throw invalidArgument(`${name}[${wrong}]`, expected, values[wrong]);
}

function checkFinite(name: string, values: Float32Array, dim: number): void {
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong < 0) return;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected finite ${name} but row ${Math.floor(wrong / dim)} has ${values[wrong]}`,
  );
}

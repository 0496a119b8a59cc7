/** Codes as averages of the vectors that chose them, as learning batch by batch keeps them. */
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { native, settle } from '../native.js';
import { checkChoice, checkIndices, checkInteger, checkRows } from './arguments.js';
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
  /** State to continue from; both or neither. Copied. */
  counts?: Float64Array;
  sums?: Float64Array;
}

/** Options of these names, for classes that add their own. */
export const AVERAGES_OPTIONS = ['dim', 'metric', 'counts', 'sums'];

/**
 * Base of EmaCodebook and MiniBatchKMeans. `codes`, `counts` and `sums` are live: they change in place with every
 * update, and may be read, stored or sent at any time between updates.
 */
export abstract class CodeAverages {
  readonly dim: number;
  readonly size: number;
  readonly metric: 'l2' | 'cosine';
  /** `[size, dim]`: for `new Codebook(codes, { dim, metric })`, which copies them. */
  readonly codes: Float32Array;
  /** `[size]`: how many vectors stand behind each code. */
  readonly counts: Float64Array;
  /** `[size, dim]`: their sum. */
  readonly sums: Float64Array;

  /** @internal */
  protected constructor(name: string, codes: unknown, options: CodeAveragesOptions, count: number) {
    if (options === undefined) throw invalidArgument(`the options of ${name}`, 'an object with dim', options);
    this.dim = checkInteger('dim', options.dim, 1, 4096);
    this.metric = checkChoice('metric', options.metric ?? 'l2', ['l2', 'cosine'] as const);
    const checked = checkRows('codes', codes, this.dim);
    this.size = checkInteger('the number of codes', checked.length / this.dim, 1, 2 ** 24);
    checkFinite('codes', checked, this.dim);
    this.codes = Float32Array.from(checked);
    if (this.metric === 'cosine') {
      for (let code = 0; code < this.size; code++) this.#toUnit(code, checked, code * this.dim);
    }
    if ((options.counts === undefined) !== (options.sums === undefined))
      throw invalidArgument('counts and sums', 'both or neither', options.counts ?? options.sums);
    if (options.counts !== undefined && options.sums !== undefined) {
      const state = this.checkSums(options as CodeSums);
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
   * @param vectors `[n, dim]`; copied at the call
   * @param indices `[n]`: each vector's code
   * @throws TokenFlowError for a vector that is not finite and for an index out of range, `-1` included
   */
  async accumulate(
    vectors: Float32Array,
    indices: Int32Array | readonly number[],
    options: { signal?: AbortSignal } = {},
  ): Promise<CodeSums> {
    checkOptions('accumulate', options, ['signal']);
    const { request, result } = this.#request(vectors, indices, false);
    await settle(() => native().sumByCode(request), options.signal);
    return result;
  }

  /** As `accumulate`, blocking: for workers and scripts. */
  accumulateSync(vectors: Float32Array, indices: Int32Array | readonly number[]): CodeSums {
    const { request, result } = this.#request(vectors, indices, true);
    native().sumByCode(request);
    return result;
  }

  /** Codes with a count below `threshold`, ascending. */
  deadCodes(threshold: number): Int32Array {
    if (typeof threshold !== 'number' || !(threshold >= 0))
      throw invalidArgument('threshold', 'a number of at least 0', threshold);
    const dead: number[] = [];
    this.counts.forEach((count, code) => {
      if (count < threshold) dead.push(code);
    });
    return Int32Array.from(dead);
  }

  /**
   * Puts vectors, drawn evenly by `seed`, in the place of dead codes. Code, count and sum change together: the count to
   * `threshold`, so that a revived code is not dead at once. Vectors are drawn at most once each while there are enough.
   * Processes that learn together give the same vectors and seed.
   *
   * @param vectors `[n, dim]`, at least one
   * @returns the codes that were dead, ascending
   */
  revive(vectors: Float32Array, options: { threshold: number; seed: number }): Int32Array {
    checkOptions('revive', options, ['threshold', 'seed']);
    const checked = checkRows('vectors', vectors, this.dim);
    const rows = checkInteger('the number of vectors', checked.length / this.dim, 1);
    checkFinite('vectors', checked, this.dim);
    const random = new Random(checkInteger('seed', options?.seed, 0));
    const dead = this.deadCodes(options.threshold);
    const drawn =
      dead.length <= rows ? random.sample(dead.length, rows) : Array.from(dead, () => random.integer(rows));
    dead.forEach((code, i) => {
      const at = code * this.dim;
      const row = checked.subarray(drawn[i] * this.dim, (drawn[i] + 1) * this.dim);
      this.codes.set(row, at);
      if (this.metric === 'cosine') this.#toUnit(code, row, 0);
      this.counts[code] = options.threshold;
      for (let e = at; e < at + this.dim; e++) this.sums[e] = this.codes[e] * options.threshold;
    });
    return dead;
  }

  /** @internal Sets a code to its sum over `count`; a direction only, for `cosine`. */
  protected setToAverage(code: number, count: number): void {
    const at = code * this.dim;
    if (this.metric === 'cosine') {
      this.#toUnit(code, this.sums, at);
    } else {
      for (let e = at; e < at + this.dim; e++) this.codes[e] = this.sums[e] / count;
    }
  }

  /** @internal */
  protected checkSums(batch: CodeSums): CodeSums {
    const wanted = { counts: this.size, sums: this.size * this.dim };
    for (const name of ['counts', 'sums'] as const) {
      const given: unknown = batch?.[name];
      if (!(given instanceof Float64Array) || given.length !== wanted[name])
        throw invalidArgument(name, `a Float64Array of ${wanted[name]} elements`, given);
      const wrong = given.findIndex((value) => !Number.isFinite(value) || (name === 'counts' && value < 0));
      if (wrong >= 0)
        throw invalidArgument(
          `${name}[${wrong}]`,
          name === 'counts' ? 'a number of at least 0' : 'a finite number',
          given[wrong],
        );
    }
    return batch;
  }

  /** Sets a code to the unit vector of a row; a zero row changes nothing, having no direction. */
  #toUnit(code: number, row: Float32Array | Float64Array, from: number): void {
    let square = 0;
    for (let e = 0; e < this.dim; e++) square += row[from + e] * row[from + e];
    const norm = Math.sqrt(square);
    if (!(norm > 0)) return;
    for (let e = 0; e < this.dim; e++) this.codes[code * this.dim + e] = row[from + e] / norm;
  }

  #request(vectors: unknown, indices: unknown, sync: boolean) {
    const checked = checkRows('vectors', vectors, this.dim);
    const rows = checked.length / this.dim;
    const checkedIndices = checkIndices('indices', indices);
    if (checkedIndices.length !== rows)
      throw invalidArgument('indices', `${rows} indices, one per vector,`, indices);
    const result = {
      counts: new Float64Array(this.size),
      sums: new Float64Array(this.size * this.dim),
    };
    const normalize = this.metric === 'cosine';
    return {
      request: { vectors: checked, indices: checkedIndices, dim: this.dim, normalize, ...result, sync },
      result,
    };
  }
}

function checkFinite(name: string, values: Float32Array, dim: number): void {
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong < 0) return;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected finite ${name} but row ${Math.floor(wrong / dim)} has ${values[wrong]}`,
  );
}

/** The native codebook behind Codebook and its relatives: one or more parts, one shared index. */
import { checkOptions, TokenFlowError } from '../errors.js';
import { type NativeCodebook, type NativeNearestRequest, native, settle } from '../native.js';
import { checkChoice, checkIndices, checkInteger, checkOut, type QueryFormat } from './arguments.js';

/**
 * What "nearest" means.
 * - `'l2'`: the smallest squared Euclidean distance.
 * - `'cosine'`: the smallest `1 - cos`. Codes and queries are compared as unit vectors; a zero vector has
 *   similarity 0 with everything.
 * - `'ip'`: the largest inner product.
 */
export type Metric = 'l2' | 'cosine' | 'ip';

/** Where lookups run. `'auto'` takes the best that is available. */
export type CodebookDevice = 'auto' | 'cpu';

/**
 * Whether lookups first discard most codes with 8-bit arithmetic. It never changes a result: what is discarded
 * provably could not win. `'auto'` screens once it pays for packing the screen (2048 queries, on codebooks that are
 * large enough), `'always'` from the first query on, `'off'` never.
 */
export type ScreenMode = 'auto' | 'always' | 'off';

/**
 * What NaN, infinity and values too large to square lead to. `'skip'`: such a code is never chosen, such a query has no
 * nearest code (index `-1`). `'throw'`: an error, for codes when the codebook is made, for queries when they are looked up.
 */
export type NonFiniteRule = 'skip' | 'throw';

/** What lookups on a codebook did so far. */
export interface LookupStats {
  /** The instruction set in force. */
  kernel: 'scalar' | 'avx2' | 'avx512';
  /** The screen of that instruction set, when it has one. */
  screen?: string;
  /** Queries looked up. */
  queries: number;
  /** Of these, answered by the screen. The others had all codes scored exactly. */
  screened: number;
  /** Share of the codes that were scored exactly, over all queries: 1 without a screen. */
  exactShare: number;
  /** Native memory of the codebook. */
  bytes: number;
}

export interface NearestOptions {
  /** How the queries are given. Default `'f32'`; 16-bit floats come as their bits in a Uint16Array. */
  format?: QueryFormat;
  /** Also return the gap between the best and the second best distance. */
  margin?: boolean;
  /** How many codes per query, nearest first: 1 to 64, and at most the number of codes. Default 1. */
  k?: number;
  /** Arrays to write into instead of new ones, of exactly the result's length. */
  out?: { indices?: Int32Array; distances?: Float32Array };
  /** Stops the lookup; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface NearestResult {
  /**
   * `[n, k]`, nearest first, equal ones by index. `-1` where there is none: for a query with NaN or infinity (or
   * so large that its score overflows), and beyond the last code that can be chosen. A code with NaN or infinity is
   * never chosen.
   */
  indices: Int32Array;
  /**
   * `[n, k]`, computed from the rows themselves rather than from the score that ordered them: the squared distance
   * (`l2`: never negative, 0 for an identical vector), `1 - cos` (`cosine`, likewise) or the inner product (`ip`:
   * larger is nearer). NaN where the index is `-1`. Rounding can leave neighbours within a few units in the last
   * place out of order.
   */
  distances: Float32Array;
  /**
   * When asked for: `[n]`, how much farther the second best code is than the best (for `ip`, how much smaller its
   * inner product). 0 for a tie, infinity where there is no second, NaN where there is
   * no nearest code.
   */
  margins?: Float32Array;
}

export interface QuantizeOptions {
  /** How the queries are given. Default `'f32'`. */
  format?: QueryFormat;
  /** Stops the call; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface QuantizeResult {
  /** `[n]`, the nearest code of every row, `-1` where there is none. */
  indices: Int32Array;
  /** `[n, dim]`, those codes as they are compared (see `lookup`); NaN where there is none. */
  codes: Float32Array;
  /** `[n]`, squared distance of each row, as it is compared, from its code; NaN where there is none. */
  errors: Float32Array;
  /** `[size]`, how many rows took each code: see `codeUsage`. */
  counts: Int32Array;
}

export interface HandlePart {
  vectors: Float32Array;
  dim: number;
  /** Compare this part as unit vectors. */
  normalize: boolean;
  /** Its vectors are unit vectors already, to be taken as they are. */
  unit: boolean;
}

export const METRICS = ['l2', 'cosine', 'ip'] as const;
const DEVICES = ['auto', 'cpu'] as const;
const MAX_K = 64;

export function checkFormat(format: unknown): QueryFormat {
  return checkChoice('format', format ?? 'f32', ['f32', 'f16', 'bf16'] as const);
}

export function checkScreen(screen: unknown): ScreenMode {
  return checkChoice('screen', screen ?? 'auto', ['auto', 'always', 'off'] as const);
}

export function checkNonFinite(rule: unknown): NonFiniteRule {
  return checkChoice('onNonFinite', rule ?? 'skip', ['skip', 'throw'] as const);
}

export function checkDevice(device: unknown): void {
  if (device === undefined) return;
  if (device === 'cuda') {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
      "Codebooks run on the CPU in this build; use device: 'auto' or 'cpu'",
    );
  }
  checkChoice('device', device, DEVICES);
}

export type Queries = Float32Array | Uint16Array;

/** What the parts of a codebook add to a call. */
export interface PartsRequest {
  weights?: Float32Array;
  partDistances?: boolean;
}

interface Prepared<Result> {
  request: NativeNearestRequest;
  finish(): Result;
}

/** How a codebook treats its codes and queries, whatever its parts. */
export interface HandleOptions {
  metric: Metric;
  screen: ScreenMode;
  onNonFinite: NonFiniteRule;
}

export class CodebookHandle {
  readonly size: number;
  readonly dim: number;
  readonly metric: Metric;
  readonly parts: readonly { dim: number; normalize: boolean }[];
  readonly nonFinite: number;
  readonly #onNonFinite: NonFiniteRule;
  #native: NativeCodebook | undefined;

  constructor(
    readonly name: string,
    parts: HandlePart[],
    { metric, screen, onNonFinite }: HandleOptions,
  ) {
    const sizes = parts.map((part) => part.vectors.length / part.dim);
    this.size = checkInteger('the number of codes', sizes[0], 1, 2 ** 24);
    this.metric = metric;
    this.parts = parts.map(({ dim, normalize }) => ({ dim, normalize: normalize || metric === 'cosine' }));
    this.dim = parts.reduce((sum, part) => sum + part.dim, 0);
    this.#onNonFinite = onNonFinite;
    this.#native = native().codebookCreate(parts, this.size, metric, screen);
    this.nonFinite = native().codebookInfo(this.#native).nonFinite;
    if (this.nonFinite > 0 && onNonFinite === 'throw') {
      this.dispose();
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected finite codes but ${this.nonFinite} of ${this.size} have NaN, infinity or values too large to square; ` +
          "mend them, or pass onNonFinite: 'skip' to have them never chosen",
      );
    }
  }

  /** The native handle. Throws when disposed. */
  get native(): NativeCodebook {
    if (this.#native !== undefined) return this.#native;
    throw new TokenFlowError('ERR_TOKENFLOW_DISPOSED', `This ${this.name} was disposed; make a new one`);
  }

  async nearest(queries: Queries, options: NearestOptions, parts: PartsRequest = {}) {
    const { request, finish } = this.#prepareNearest(queries, options, parts, false);
    await settle(() => native().codebookNearest(this.native, request), options.signal);
    return finish();
  }

  nearestSync(queries: Queries, options: NearestOptions, parts: PartsRequest = {}) {
    const { request, finish } = this.#prepareNearest(queries, options, parts, true);
    native().codebookNearest(this.native, request);
    return finish();
  }

  async quantize(
    queries: Queries,
    options: QuantizeOptions,
    weights?: Float32Array,
  ): Promise<QuantizeResult> {
    const { request, finish } = this.#prepareQuantize(queries, options, weights, false);
    await settle(() => native().codebookNearest(this.native, request), options.signal);
    return finish();
  }

  quantizeSync(queries: Queries, options: QuantizeOptions, weights?: Float32Array): QuantizeResult {
    const { request, finish } = this.#prepareQuantize(queries, options, weights, true);
    native().codebookNearest(this.native, request);
    return finish();
  }

  /** A job writes into arrays that nobody else holds; those of the caller are filled when it is done. */
  #prepareNearest(
    queries: Queries,
    options: NearestOptions,
    { weights, partDistances: withParts }: PartsRequest,
    sync: boolean,
  ): Prepared<NearestResult & { partDistances?: Float32Array[] }> {
    this.native;
    const k = options.k === undefined ? 1 : checkInteger('k', options.k, 1, Math.min(MAX_K, this.size));
    checkOptions('out', options.out, ['indices', 'distances']);
    const n = queries.length / this.dim;
    const outIndices = checkOut('out.indices', options.out?.indices, Int32Array, n * k);
    const outDistances = checkOut('out.distances', options.out?.distances, Float32Array, n * k);
    const ranks = options.margin ? Math.min(this.size, Math.max(2, k)) : k; // found; k of them are returned
    const indices = new Int32Array(n * ranks);
    const distances = new Float32Array(n * ranks);
    const partDistances = withParts ? new Float32Array(n * ranks * this.parts.length) : undefined;
    const format = options.format ?? 'f32';
    const request = { queries, format, k: ranks, weights, indices, distances, partDistances, sync };
    const finish = () => {
      this.#checkFound(indices, ranks);
      const result = {
        indices: firstRanks(indices, ranks, k),
        distances: firstRanks(distances, ranks, k),
        margins: options.margin ? marginsOf(distances, indices, ranks) : undefined,
        partDistances:
          partDistances &&
          this.parts.map((_, p) =>
            firstRanks(partDistances.subarray(p * n * ranks, (p + 1) * n * ranks), ranks, k),
          ),
      };
      checkOut('out.indices', outIndices, Int32Array, n * k)?.set(result.indices);
      checkOut('out.distances', outDistances, Float32Array, n * k)?.set(result.distances);
      return {
        indices: outIndices ?? result.indices,
        distances: outDistances ?? result.distances,
        ...(result.margins && { margins: result.margins }),
        ...(result.partDistances && { partDistances: result.partDistances }),
      };
    };
    return { request, finish };
  }

  #prepareQuantize(
    queries: Queries,
    options: QuantizeOptions,
    weights: Float32Array | undefined,
    sync: boolean,
  ): Prepared<QuantizeResult> {
    this.native;
    const n = queries.length / this.dim;
    const result = {
      indices: new Int32Array(n),
      codes: new Float32Array(queries.length),
      errors: new Float32Array(n),
      counts: new Int32Array(this.size),
    };
    return {
      request: { queries, format: options.format ?? 'f32', k: 1, weights, ...result, sync },
      finish: () => {
        this.#checkFound(result.indices, 1);
        return result;
      },
    };
  }

  /** Throws where a query found no code and the rule says so. */
  #checkFound(indices: Int32Array, ranks: number): void {
    if (this.#onNonFinite === 'skip') return;
    for (let at = 0; at < indices.length; at += ranks) {
      if (indices[at] >= 0) continue;
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected finite queries but row ${at / ranks} has NaN, infinity or values too large to square; mend it, or make ` +
          "the codebook with onNonFinite: 'skip' for an index of -1",
      );
    }
  }

  get stats(): LookupStats {
    const { screen, queries, screened, exactScores, bytes } = native().codebookInfo(this.native);
    const exact = exactScores + (queries - screened) * this.size;
    return {
      kernel: native().simdLevel(),
      screen,
      queries,
      screened,
      exactShare: queries === 0 ? 1 : Math.min(1, exact / (queries * this.size)),
      bytes,
    };
  }

  /** Rows `[n, dim]` of indices. */
  gather(indices: Int32Array | readonly number[], out?: Float32Array): Float32Array {
    const checked = checkIndices('indices', indices);
    const rows =
      checkOut('out', out, Float32Array, checked.length * this.dim) ??
      new Float32Array(checked.length * this.dim);
    if (rows.buffer instanceof SharedArrayBuffer) {
      rows.set(this.gather(checked));
    } else {
      native().codebookGather(this.native, checked, rows);
    }
    return rows;
  }

  /** Native memory; 0 once disposed. */
  get bytes(): number {
    return this.#native === undefined ? 0 : native().codebookInfo(this.#native).bytes;
  }

  dispose(): void {
    if (this.#native !== undefined) native().codebookRelease(this.#native);
    this.#native = undefined;
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }
}

/** The first `k` of every row's `ranks`. */
function firstRanks<T extends Int32Array | Float32Array>(values: T, ranks: number, k: number): T {
  if (k === ranks) return values;
  const kept = values.slice(0, (values.length / ranks) * k) as T;
  for (let i = 0; i < kept.length; i++) kept[i] = values[Math.floor(i / k) * ranks + (i % k)];
  return kept;
}

/** Gap between the first two of every row's `ranks`. Its sign is that of the metric, so it is dropped. */
function marginsOf(distances: Float32Array, indices: Int32Array, ranks: number): Float32Array {
  const margins = new Float32Array(distances.length / ranks);
  for (let i = 0; i < margins.length; i++) {
    const [best, second] = [i * ranks, i * ranks + 1];
    if (indices[best] < 0) margins[i] = Number.NaN;
    else if (ranks < 2 || indices[second] < 0) margins[i] = Infinity;
    else margins[i] = Math.abs(distances[second] - distances[best]);
  }
  return margins;
}

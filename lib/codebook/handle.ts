/** The native codebook behind Codebook and its relatives: one or more parts, one shared index. */
import type { Device } from '../backends.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeCodebook, type NativeNearestRequest, native } from '../native.js';
import {
  type CallOptions,
  checkChoice,
  checkIndices,
  checkInteger,
  checkOut,
  checkQueries,
  type QueryFormat,
} from './arguments.js';
import {
  checkBuffer,
  DeviceBuffer,
  filled,
  filledSync,
  nativeOf,
  type ResultPlace,
  type ResultPlaces,
  resultPlaces,
} from './device-buffer.js';

/**
 * What "nearest" means.
 * - `'l2'`: the smallest squared Euclidean distance.
 * - `'cosine'`: the smallest `1 - cos`. Codes and queries are compared as unit vectors; a zero vector has
 *   similarity 0 with everything.
 * - `'ip'`: the largest inner product.
 */
export type Metric = 'l2' | 'cosine' | 'ip';

/**
 * Where lookups run: `'cpu'`, `'cuda'` (the first card that can be used), `'cuda:1'`, or `'auto'`, which takes a card where
 * there is one and else, silently, the CPU. Default: `TOKENFLOW_DEVICE`, else `'cpu'`: a card pays for carrying queries and
 * results to and fro. Every device gives the same indices and distances, bit for bit.
 */
export type CodebookDevice = Device;

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
  /** The instruction set in force, or `'cuda'`. */
  kernel: 'scalar' | 'avx2' | 'avx512' | 'cuda';
  /** The screen of that instruction set or card, when it has one. */
  screen?: string;
  /** Queries looked up. */
  queries: number;
  /** Of these, answered by the screen. The others had all codes scored exactly. */
  screened: number;
  /** Share of the codes that were scored exactly, over all queries: 1 without a screen. */
  exactShare: number;
  /** Memory of the codebook where its lookups run. On a card the host keeps its copy besides. */
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
  /**
   * `'host'` (the default): results are arrays. `'device'`: they stay in the memory of the codebook's device, as
   * DeviceBuffers for further calls; dispose of each.
   */
  result?: ResultPlace;
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

/** As NearestResult, in the memory of the codebook's device. */
export interface DeviceNearestResult {
  /** `[n, k]` */
  indices: DeviceBuffer<'i32'>;
  /** `[n, k]` */
  distances: DeviceBuffer<'f32'>;
  /** When asked for: `[n]` */
  margins?: DeviceBuffer<'f32'>;
}

export interface QuantizeOptions {
  /** How the queries are given. Default `'f32'`. */
  format?: QueryFormat;
  /** Where the results go, as for `nearest`. */
  result?: ResultPlace;
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

/** As QuantizeResult, in the memory of the codebook's device. */
export interface DeviceQuantizeResult {
  /** `[n]` */
  indices: DeviceBuffer<'i32'>;
  /** `[n, dim]` */
  codes: DeviceBuffer<'f32'>;
  /** `[n]` */
  errors: DeviceBuffer<'f32'>;
  /** `[size]` */
  counts: DeviceBuffer<'i32'>;
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
const MAX_K = 64;

const FORMATS = ['f32', 'f16', 'bf16'] as const;

export function checkFormat(format: unknown): QueryFormat {
  return checkChoice('format', format ?? 'f32', FORMATS);
}

export function checkScreen(screen: unknown): ScreenMode {
  return checkChoice('screen', screen ?? 'auto', ['auto', 'always', 'off'] as const);
}

export function checkNonFinite(rule: unknown): NonFiniteRule {
  return checkChoice('onNonFinite', rule ?? 'skip', ['skip', 'throw'] as const);
}

/**
 * Vectors as a call takes them: in a Float32Array, as 16-bit floats in a Uint16Array (`format` says which), or in a
 * DeviceBuffer on the codebook's device.
 */
export type Queries = Float32Array | Uint16Array | DeviceBuffer<QueryFormat>;

/** What the parts of a codebook add to a call. */
export interface PartsRequest {
  weights?: Float32Array;
  partDistances?: boolean;
}

interface Prepared<Result> {
  request: NativeNearestRequest;
  finish(): Result;
  places: ResultPlaces;
}

/** What `nearest` fills. */
interface FoundArrays {
  indices: Int32Array | DeviceBuffer<'i32'>;
  distances: Float32Array | DeviceBuffer<'f32'>;
  margins?: Float32Array | DeviceBuffer<'f32'>;
  partDistances?: (Float32Array | DeviceBuffer<'f32'>)[];
}

/** How a codebook treats its codes and queries, whatever its parts. */
export interface HandleOptions {
  metric: Metric;
  screen: ScreenMode;
  onNonFinite: NonFiniteRule;
  /** As `resolveDevice` gives it. */
  device: string;
}

export class CodebookHandle {
  readonly size: number;
  readonly dim: number;
  readonly metric: Metric;
  readonly parts: readonly { dim: number; normalize: boolean }[];
  readonly nonFinite: number;
  readonly device: string;
  readonly #onNonFinite: NonFiniteRule;
  readonly #missing = new Float64Array(1); // of the one sync call there can be
  #native: NativeCodebook | undefined;

  constructor(
    readonly name: string,
    parts: HandlePart[],
    { metric, screen, onNonFinite, device }: HandleOptions,
  ) {
    const sizes = parts.map((part) => part.vectors.length / part.dim);
    this.size = checkInteger('the number of codes', sizes[0], 1, 2 ** 24);
    this.metric = metric;
    this.parts = parts.map(({ dim, normalize }) => ({ dim, normalize: normalize || metric === 'cosine' }));
    this.dim = parts.reduce((sum, part) => sum + part.dim, 0);
    this.device = device;
    this.#onNonFinite = onNonFinite;
    this.#native = native().codebookCreate(parts, this.size, metric, screen, device);
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

  /** Checks what a caller gives as queries; the format of a buffer is its own. */
  checkQueries(name: string, queries: unknown, asked: unknown): { queries: Queries; format: QueryFormat } {
    if (!(queries instanceof DeviceBuffer)) {
      const format = checkFormat(asked);
      return { queries: checkQueries(name, queries, this.dim, format), format };
    }
    const checked = checkBuffer(name, queries, this.device, FORMATS, this.dim);
    if (asked !== undefined && checkFormat(asked) !== checked.dtype)
      throw invalidArgument('format', `'${checked.dtype}', which the DeviceBuffer holds,`, asked);
    return { queries: checked, format: checked.dtype };
  }

  async nearest(queries: Queries, format: QueryFormat, options: NearestOptions, parts: PartsRequest = {}) {
    const prepared = this.#prepareNearest(queries, format, options, parts, false);
    return this.#run(prepared, options.signal);
  }

  nearestSync(queries: Queries, format: QueryFormat, options: NearestOptions, parts: PartsRequest = {}) {
    return this.#runSync(this.#prepareNearest(queries, format, options, parts, true));
  }

  async quantize(queries: Queries, format: QueryFormat, options: QuantizeOptions, weights?: Float32Array) {
    return this.#run(this.#prepareQuantize(queries, format, options, weights, false), options.signal);
  }

  quantizeSync(queries: Queries, format: QueryFormat, options: QuantizeOptions, weights?: Float32Array) {
    return this.#runSync(this.#prepareQuantize(queries, format, options, weights, true));
  }

  #run<T>({ request, finish, places }: Prepared<T>, signal?: AbortSignal): Promise<T> {
    return filled(() => native().codebookNearest(this.native, request), places, finish, signal);
  }

  #runSync<T>({ request, finish, places }: Prepared<T>): T {
    return filledSync(() => native().codebookNearest(this.native, request), places, finish);
  }

  /** A job writes into arrays that nobody else holds; those of the caller are filled when it is done. */
  #prepareNearest(
    queries: Queries,
    format: QueryFormat,
    options: NearestOptions,
    { weights, partDistances }: PartsRequest,
    sync: boolean,
  ): Prepared<NearestResult & { partDistances?: Float32Array[] }> {
    this.native;
    const k = options.k === undefined ? 1 : checkInteger('k', options.k, 1, Math.min(MAX_K, this.size));
    checkOptions('out', options.out, ['indices', 'distances']);
    const n = queries.length / this.dim;
    if (options.out !== undefined && options.result === 'device')
      throw invalidArgument('out', "nothing, as result is 'device',", options.out);
    const outIndices = checkOut('out.indices', options.out?.indices, Int32Array, n * k);
    const outDistances = checkOut('out.distances', options.out?.distances, Float32Array, n * k);
    const places = resultPlaces(this.device, options.result);
    // Plain literals, no spreading: a caller that streams looks one query up in ten microseconds.
    const result: FoundArrays = { indices: places.i32(n * k), distances: places.f32(n * k) };
    if (options.margin) result.margins = places.f32(n);
    if (partDistances) result.partDistances = this.parts.map(() => places.f32(n * k));
    const missing = sync ? this.#missing : new Float64Array(1);
    const request: NativeNearestRequest = {
      queries: nativeOf(queries),
      format,
      n,
      k,
      weights,
      missing,
      sync,
      indices: nativeOf(result.indices),
      distances: nativeOf(result.distances),
      margins: result.margins && nativeOf(result.margins),
      partDistances: result.partDistances?.map(nativeOf),
    };
    const finish = () => {
      this.#checkFound(missing[0]);
      checkOut('out.indices', outIndices, Int32Array, n * k)?.set(result.indices as Int32Array);
      checkOut('out.distances', outDistances, Float32Array, n * k)?.set(result.distances as Float32Array);
      if (outIndices) result.indices = outIndices;
      if (outDistances) result.distances = outDistances;
      return result as NearestResult & { partDistances?: Float32Array[] }; // or DeviceNearestResult: the overloads of callers say which
    };
    return { request, finish, places };
  }

  #prepareQuantize(
    queries: Queries,
    format: QueryFormat,
    options: QuantizeOptions,
    weights: Float32Array | undefined,
    sync: boolean,
  ): Prepared<QuantizeResult> {
    this.native;
    const n = queries.length / this.dim;
    const places = resultPlaces(this.device, options.result);
    const result = {
      indices: places.i32(n),
      codes: places.f32(queries.length),
      errors: places.f32(n),
      counts: places.i32(this.size),
    };
    const missing = sync ? this.#missing : new Float64Array(1);
    const request: NativeNearestRequest = {
      queries: nativeOf(queries),
      format,
      n,
      k: 1,
      weights,
      missing,
      sync,
      indices: nativeOf(result.indices),
      codes: nativeOf(result.codes),
      errors: nativeOf(result.errors),
      counts: nativeOf(result.counts),
    };
    const finish = () => {
      this.#checkFound(missing[0]);
      return result as QuantizeResult; // or DeviceQuantizeResult
    };
    return { request, finish, places };
  }

  /** Throws where a query found no code and the rule says so. */
  #checkFound(firstMissing: number): void {
    if (this.#onNonFinite === 'skip' || firstMissing < 0) return;
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected finite queries but row ${firstMissing} has NaN, infinity or values too large to square; mend it, or make ` +
        "the codebook with onNonFinite: 'skip' for an index of -1",
    );
  }

  get stats(): LookupStats {
    const { screen, queries, screened, exactScores, bytes } = native().codebookInfo(this.native);
    const exact = exactScores + (queries - screened) * this.size;
    return {
      kernel: this.device === 'cpu' ? native().simdLevel() : 'cuda',
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

  /** Rows `[n, dim]` of indices on the device, left there. */
  async gatherPlaced(indices: DeviceBuffer, options: CallOptions): Promise<DeviceBuffer<'f32'>> {
    checkOptions('lookup', options, ['signal']);
    const from = checkBuffer('indices', indices, this.device, ['i32'] as const);
    const handle = this.native;
    const places = resultPlaces(this.device, 'device');
    const rows = places.f32(from.length * this.dim) as DeviceBuffer<'f32'>;
    const request = { indices: from.native, n: from.length, rows: rows.native, sync: false };
    const start = () => native().codebookGatherPlaced(handle, request);
    return filled(start, places, () => rows, options.signal);
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

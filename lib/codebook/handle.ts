/** The native codebook behind Codebook and its relatives: one or more parts, one shared index. */
import { checkOptions, TokenFlowError } from '../errors.js';
import { type NativeCodebook, native, settle } from '../native.js';
import { checkChoice, checkIndices, checkInteger, checkOut } from './arguments.js';

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
}

export interface HandlePart {
  vectors: Float32Array;
  dim: number;
  normalize: boolean;
}

export const METRICS = ['l2', 'cosine', 'ip'] as const;
const DEVICES = ['auto', 'cpu'] as const;
const MAX_K = 64;

export function checkScreen(screen: unknown): ScreenMode {
  return checkChoice('screen', screen ?? 'auto', ['auto', 'always', 'off'] as const);
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

interface Prepared {
  request: Parameters<ReturnType<typeof native>['codebookNearest']>[1];
  finish(): NearestResult & { partDistances?: Float32Array };
}

export class CodebookHandle {
  readonly size: number;
  readonly dim: number;
  readonly parts: readonly number[];
  readonly nonFinite: number;
  #native: NativeCodebook | undefined;

  constructor(
    private readonly name: string,
    parts: HandlePart[],
    size: number,
    metric: Metric,
    screen: ScreenMode,
  ) {
    this.size = size;
    this.parts = parts.map((part) => part.dim);
    this.dim = this.parts.reduce((a, b) => a + b, 0);
    this.#native = native().codebookCreate(parts, size, metric, screen);
    this.nonFinite = native().codebookInfo(this.#native).nonFinite;
  }

  /** The native handle. Throws when disposed. */
  get native(): NativeCodebook {
    if (this.#native !== undefined) return this.#native;
    throw new TokenFlowError('ERR_TOKENFLOW_DISPOSED', `This ${this.name} was disposed; make a new one`);
  }

  async nearest(queries: Float32Array, options: NearestOptions, weights?: Float32Array, parts = false) {
    const { request, finish } = this.#prepare(queries, options, weights, parts, false);
    await settle(() => native().codebookNearest(this.native, request), options.signal);
    return finish();
  }

  nearestSync(queries: Float32Array, options: NearestOptions, weights?: Float32Array, parts = false) {
    const { request, finish } = this.#prepare(queries, options, weights, parts, true);
    native().codebookNearest(this.native, request);
    return finish();
  }

  /** A job writes into arrays that nobody else holds; those of the caller are filled when it is done. */
  #prepare(
    queries: Float32Array,
    options: NearestOptions,
    weights: Float32Array | undefined,
    parts: boolean,
    sync: boolean,
  ): Prepared {
    this.native;
    const k = options.k === undefined ? 1 : checkInteger('k', options.k, 1, Math.min(MAX_K, this.size));
    checkOptions('out', options.out, ['indices', 'distances']);
    const length = (queries.length / this.dim) * k;
    const outIndices = checkOut('out.indices', options.out?.indices, Int32Array, length);
    const outDistances = checkOut('out.distances', options.out?.distances, Float32Array, length);
    const indices = new Int32Array(length);
    const distances = new Float32Array(length);
    const partDistances = parts ? new Float32Array(length * this.parts.length) : undefined;
    return {
      request: { queries, k, weights, indices, distances, partDistances, sync },
      finish: () => {
        checkOut('out.indices', outIndices, Int32Array, length)?.set(indices);
        checkOut('out.distances', outDistances, Float32Array, length)?.set(distances);
        return { indices: outIndices ?? indices, distances: outDistances ?? distances, partDistances };
      },
    };
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

  dispose(): void {
    if (this.#native !== undefined) native().codebookRelease(this.#native);
    this.#native = undefined;
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }
}

import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { checkChoice, checkInteger, checkRows } from './arguments.js';
import {
  type CodebookDevice,
  CodebookHandle,
  checkDevice,
  checkScreen,
  type LookupStats,
  METRICS,
  type Metric,
  type NearestOptions,
  type NearestResult,
  type ScreenMode,
} from './handle.js';

export interface CodebookPartOptions {
  /** The part of every code, `[size, dim]`; copied. */
  vectors: Float32Array;
  dim: number;
  /** Compare this part as unit vectors (codes and queries alike). Implied by `cosine`. */
  normalize?: boolean;
}

export interface PartedCodebookOptions {
  /** Default `'l2'`. */
  metric?: Metric;
  device?: CodebookDevice;
  /** Default `'auto'`. */
  screen?: ScreenMode;
}

export interface PartedNearestOptions extends NearestOptions {
  /** One per part: how much its distance counts. Negative and zero are allowed. Default: 1 each. */
  weights?: readonly number[];
  /** Also return each part's own distance. */
  partDistances?: boolean;
}

export interface PartedNearestResult extends NearestResult {
  /** When asked for: per part `[n, k]`, unweighted. `distances` is their weighted sum. */
  partDistances?: Float32Array[];
}

const NEAREST_OPTIONS = ['k', 'out', 'signal', 'weights', 'partDistances'];

/**
 * A codebook whose codes have several parts under one index: a lookup finds the code with the smallest weighted
 * sum of the parts' distances, in one pass.
 */
export class PartedCodebook {
  /** Elements of each part. */
  readonly dims: readonly number[];
  /** Elements of a whole code. */
  readonly dim: number;
  readonly size: number;
  readonly metric: Metric;
  /** Codes with NaN or infinity in any part, which are never chosen. */
  readonly nonFinite: number;
  /** @internal */
  readonly handle: CodebookHandle;

  /** @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
  constructor(parts: readonly CodebookPartOptions[], options: PartedCodebookOptions = {}) {
    const name = new.target.name;
    checkOptions(name, options, ['metric', 'device', 'screen']);
    checkDevice(options.device);
    if (!Array.isArray(parts) || parts.length === 0)
      throw invalidArgument('parts', 'an array of { vectors, dim }', parts);
    this.metric = checkChoice('metric', options.metric ?? 'l2', METRICS);
    const checked = parts.map((part, p) => {
      checkOptions(`parts[${p}]`, part, ['vectors', 'dim', 'normalize']);
      const dim = checkInteger(`parts[${p}].dim`, part?.dim, 1, 4096);
      const vectors = checkRows(`parts[${p}].vectors`, part.vectors, dim);
      return { vectors, dim, normalize: part.normalize === true };
    });
    const sizes = checked.map((part) => part.vectors.length / part.dim);
    if (sizes.some((size) => size !== sizes[0])) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected as many codes in every part, since they share one index, but received ${sizes.join(', ')}`,
      );
    }
    this.size = checkInteger('the number of codes', sizes[0], 1, 2 ** 24);
    this.handle = new CodebookHandle(name, checked, this.size, this.metric, checkScreen(options.screen));
    this.dims = this.handle.parts;
    this.dim = this.handle.dim;
    this.nonFinite = this.handle.nonFinite;
  }

  /**
   * The nearest codes of every query.
   *
   * @param queries one array `[n, dims[p]]` per part, or one `[n, dim]` with the parts concatenated in each row
   */
  async nearest(
    queries: Float32Array | readonly Float32Array[],
    options: PartedNearestOptions = {},
  ): Promise<PartedNearestResult> {
    const { rows, weights, parts } = this.#check(queries, options);
    return this.#result(await this.handle.nearest(rows, options, weights, parts));
  }

  /** As `nearest`, blocking: for workers and scripts. */
  nearestSync(
    queries: Float32Array | readonly Float32Array[],
    options: Omit<PartedNearestOptions, 'signal'> = {},
  ): PartedNearestResult {
    const { rows, weights, parts } = this.#check(queries, options);
    return this.#result(this.handle.nearestSync(rows, options, weights, parts));
  }

  /**
   * The codes behind indices, `[n, dim]` with the parts concatenated, as they are compared: unit vectors where a
   * part is normalised.
   *
   * @throws TokenFlowError for an index out of range, `-1` included
   */
  lookup(indices: Int32Array | readonly number[], out?: Float32Array): Float32Array {
    return this.handle.gather(indices, out);
  }

  /** What lookups did so far, and how. */
  get stats(): LookupStats {
    return this.handle.stats;
  }

  /** Frees the native memory now rather than when collected. A lookup that is under way completes. */
  dispose(): void {
    this.handle.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(queries: unknown, options: PartedNearestOptions) {
    checkOptions('nearest', options, NEAREST_OPTIONS);
    return {
      rows: this.#rows(queries),
      weights: this.#weights(options.weights),
      parts: options.partDistances === true,
    };
  }

  #weights(weights: unknown): Float32Array | undefined {
    if (weights === undefined) return undefined;
    const list = Array.isArray(weights) || weights instanceof Float32Array ? Array.from(weights) : undefined;
    if (list?.length === this.dims.length && list.every((w) => Number.isFinite(w)))
      return Float32Array.from(list);
    throw invalidArgument('weights', `${this.dims.length} finite numbers, one per part,`, weights);
  }

  #rows(queries: unknown): Float32Array {
    if (!Array.isArray(queries)) return checkRows('queries', queries, this.dim);
    if (queries.length !== this.dims.length)
      throw invalidArgument('queries', `${this.dims.length} arrays, one per part,`, queries);
    const parts = queries.map((part, p) => checkRows(`queries[${p}]`, part, this.dims[p]));
    const counts = parts.map((part, p) => part.length / this.dims[p]);
    if (counts.some((count) => count !== counts[0])) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected as many queries in every part but received ${counts.join(', ')}`,
      );
    }
    const rows = new Float32Array(counts[0] * this.dim);
    let offset = 0;
    parts.forEach((part, p) => {
      const dim = this.dims[p];
      for (let i = 0, from = 0, to = offset; i < counts[0]; i++, to += this.dim) {
        for (let k = 0; k < dim; k++) rows[to + k] = part[from++];
      }
      offset += dim;
    });
    return rows;
  }

  #result(raw: NearestResult & { partDistances?: Float32Array }): PartedNearestResult {
    const { indices, distances, partDistances } = raw;
    if (partDistances === undefined) return { indices, distances };
    const length = indices.length;
    return {
      indices,
      distances,
      partDistances: this.dims.map((_, p) => partDistances.subarray(p * length, (p + 1) * length)),
    };
  }
}

/**
 * Two codebooks under one index, as the TokenFlow tokenizer has them: a semantic and a pixel part.
 *
 * ```ts
 * const dual = new DualCodebook(
 *   [{ vectors: semantic, dim: 32 }, { vectors: pixel, dim: 8 }],
 *   { metric: 'cosine' },
 * );
 * const { indices } = await dual.nearest([semanticQueries, pixelQueries], { weights: [1, 1] });
 * ```
 */
export class DualCodebook extends PartedCodebook {
  constructor(
    parts: readonly [CodebookPartOptions, CodebookPartOptions],
    options: PartedCodebookOptions = {},
  ) {
    if (!Array.isArray(parts) || parts.length !== 2)
      throw invalidArgument('parts', 'two parts, each { vectors, dim },', parts);
    super(parts, options);
  }
}

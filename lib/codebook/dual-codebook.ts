import { resolveDevice } from '../backends.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { checkChoice, checkInteger, checkQueries, checkRows, checkWeights } from './arguments.js';
import { CodebookBase } from './codebook-base.js';
import type { DeviceBuffer } from './device-buffer.js';
import {
  type CodebookDevice,
  CodebookHandle,
  checkFormat,
  checkNonFinite,
  checkScreen,
  type DeviceNearestResult,
  type DeviceQuantizeResult,
  METRICS,
  type Metric,
  type NearestOptions,
  type NearestResult,
  type NonFiniteRule,
  type PartsRequest,
  type QuantizeOptions,
  type QuantizeResult,
  type Queries,
  type ScreenMode,
} from './handle.js';

export interface CodebookPartOptions {
  /** The part of every code, `[size, dim]`; copied. */
  vectors: Float32Array;
  dim: number;
  /** Compare this part as unit vectors (codes and queries alike). Implied by `cosine`. */
  normalize?: boolean;
  /** Its vectors are unit vectors already: taken bit for bit. Implies `normalize`. See CodebookOptions. */
  unit?: boolean;
}

export interface PartedCodebookOptions {
  /** Default `'l2'`. */
  metric?: Metric;
  /** Default `'skip'`. */
  onNonFinite?: NonFiniteRule;
  /** Where lookups run. */
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

export interface PartedQuantizeOptions extends QuantizeOptions {
  /** One per part, as for `nearest`. */
  weights?: readonly number[];
}

export interface PartedNearestResult extends NearestResult {
  /** When asked for: per part `[n, k]`, unweighted. `distances` is their weighted sum. */
  partDistances?: Float32Array[];
}

/** As PartedNearestResult, in the memory of the codebook's device. */
export interface DevicePartedNearestResult extends DeviceNearestResult {
  /** When asked for: per part `[n, k]`. */
  partDistances?: DeviceBuffer<'f32'>[];
}

const NEAREST_OPTIONS = ['format', 'k', 'margin', 'out', 'partDistances', 'result', 'signal', 'weights'];
const QUANTIZE_OPTIONS = ['format', 'result', 'signal', 'weights'];

/**
 * A codebook whose codes have several parts under one index: a lookup finds the code with the smallest weighted
 * sum of the parts' distances, in one pass.
 */
export class PartedCodebook extends CodebookBase {
  /** Elements of each part. */
  readonly dims: readonly number[];

  /**
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   * @throws BackendUnavailableError for a device that was named and cannot be had
   */
  constructor(parts: readonly CodebookPartOptions[], options: PartedCodebookOptions = {}) {
    const name = new.target.name;
    checkOptions(name, options, ['metric', 'onNonFinite', 'device', 'screen']);
    if (!Array.isArray(parts) || parts.length === 0)
      throw invalidArgument('parts', 'an array of { vectors, dim }', parts);
    const metric = checkChoice('metric', options.metric ?? 'l2', METRICS);
    const checked = parts.map((part, p) => {
      checkOptions(`parts[${p}]`, part, ['vectors', 'dim', 'normalize', 'unit']);
      const dim = checkInteger(`parts[${p}].dim`, part?.dim, 1, 4096);
      const vectors = checkRows(`parts[${p}].vectors`, part.vectors, dim);
      const unit = part.unit === true;
      return { vectors, dim, normalize: part.normalize === true || unit, unit };
    });
    const sizes = checked.map((part) => part.vectors.length / part.dim);
    if (sizes.some((size) => size !== sizes[0])) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected as many codes in every part, since they share one index, but received ${sizes.join(', ')}`,
      );
    }
    const screen = checkScreen(options.screen);
    const onNonFinite = checkNonFinite(options.onNonFinite);
    const device = resolveDevice(options.device, 'cpu');
    super(new CodebookHandle(name, checked, { metric, screen, onNonFinite, device }));
    this.dims = this.handle.parts.map((part) => part.dim);
  }

  /**
   * The nearest codes of every query.
   *
   * @param queries one array `[n, dims[p]]` per part, or one `[n, dim]` with the parts concatenated in each row, which is
   *   how a DeviceBuffer holds them
   */
  nearest(
    queries: Queries | readonly Queries[],
    options: PartedNearestOptions & { result: 'device' },
  ): Promise<DevicePartedNearestResult>;
  nearest(
    queries: Queries | readonly Queries[],
    options?: PartedNearestOptions & { result?: 'host' },
  ): Promise<PartedNearestResult>;
  async nearest(
    given: Queries | readonly Queries[],
    options: PartedNearestOptions = {},
  ): Promise<PartedNearestResult | DevicePartedNearestResult> {
    const { queries, format } = this.#rows('nearest', given, options, NEAREST_OPTIONS);
    return this.handle.nearest(queries, format, options, this.#parts(options));
  }

  /** As `nearest`, blocking: for workers and scripts. */
  nearestSync(
    queries: Queries | readonly Queries[],
    options: Omit<PartedNearestOptions, 'signal'> & { result: 'device' },
  ): DevicePartedNearestResult;
  nearestSync(
    queries: Queries | readonly Queries[],
    options?: Omit<PartedNearestOptions, 'signal'> & { result?: 'host' },
  ): PartedNearestResult;
  nearestSync(given: Queries | readonly Queries[], options: Omit<PartedNearestOptions, 'signal'> = {}) {
    const { queries, format } = this.#rows('nearest', given, options, NEAREST_OPTIONS);
    return this.handle.nearestSync(queries, format, options, this.#parts(options)) as never;
  }

  /**
   * What a quantiser needs, in one call: indices, the codes themselves, each row's squared error (the parts' errors
   * unweighted) and the histogram of codes.
   *
   * @param rows as the queries of `nearest`
   */
  quantize(
    rows: Queries | readonly Queries[],
    options: PartedQuantizeOptions & { result: 'device' },
  ): Promise<DeviceQuantizeResult>;
  quantize(
    rows: Queries | readonly Queries[],
    options?: PartedQuantizeOptions & { result?: 'host' },
  ): Promise<QuantizeResult>;
  async quantize(
    rows: Queries | readonly Queries[],
    options: PartedQuantizeOptions = {},
  ): Promise<QuantizeResult | DeviceQuantizeResult> {
    const { queries, format } = this.#rows('quantize', rows, options, QUANTIZE_OPTIONS);
    return this.handle.quantize(queries, format, options, this.#weights(options.weights));
  }

  /** As `quantize`, blocking. */
  quantizeSync(
    rows: Queries | readonly Queries[],
    options: Omit<PartedQuantizeOptions, 'signal'> & { result: 'device' },
  ): DeviceQuantizeResult;
  quantizeSync(
    rows: Queries | readonly Queries[],
    options?: Omit<PartedQuantizeOptions, 'signal'> & { result?: 'host' },
  ): QuantizeResult;
  quantizeSync(rows: Queries | readonly Queries[], options: Omit<PartedQuantizeOptions, 'signal'> = {}) {
    const { queries, format } = this.#rows('quantize', rows, options, QUANTIZE_OPTIONS);
    return this.handle.quantizeSync(queries, format, options, this.#weights(options.weights)) as never;
  }

  #parts(options: PartedNearestOptions): PartsRequest {
    return { weights: this.#weights(options.weights), partDistances: options.partDistances === true };
  }

  #weights(weights: unknown): Float32Array | undefined {
    return checkWeights(weights, this.dims.length);
  }

  /** Checks queries, and puts the parts of each side by side. */
  #rows(where: string, queries: unknown, options: { format?: unknown }, known: string[]) {
    checkOptions(where, options, known);
    if (!Array.isArray(queries)) return this.handle.checkQueries('queries', queries, options.format);
    const format = checkFormat(options.format);
    if (queries.length !== this.dims.length)
      throw invalidArgument('queries', `${this.dims.length} arrays, one per part,`, queries);
    const parts = queries.map((part, p) => checkQueries(`queries[${p}]`, part, this.dims[p], format));
    const counts = parts.map((part, p) => part.length / this.dims[p]);
    if (counts.some((count) => count !== counts[0])) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected as many queries in every part but received ${counts.join(', ')}`,
      );
    }
    const rows = new (format === 'f32' ? Float32Array : Uint16Array)(counts[0] * this.dim);
    let offset = 0;
    parts.forEach((part, p) => {
      const dim = this.dims[p];
      for (let i = 0, from = 0, to = offset; i < counts[0]; i++, to += this.dim) {
        for (let k = 0; k < dim; k++) rows[to + k] = part[from++];
      }
      offset += dim;
    });
    return { queries: rows, format };
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

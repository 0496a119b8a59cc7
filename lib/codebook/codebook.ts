import { checkOptions, invalidArgument } from '../errors.js';
import { checkChoice, checkInteger, checkQueries, checkRows } from './arguments.js';
import {
  type CodebookDevice,
  CodebookHandle,
  checkDevice,
  checkFormat,
  checkScreen,
  type LookupStats,
  METRICS,
  type Metric,
  type NearestOptions,
  type NearestResult,
  type QuantizeOptions,
  type QuantizeResult,
  type Queries,
  type ScreenMode,
} from './handle.js';

export interface CodebookOptions {
  /** Elements of a code: 1 to 4096. */
  dim: number;
  /** Default `'l2'`. */
  metric?: Metric;
  /** Compare unit vectors under `l2` too (codes and queries alike). Implied by `cosine`. */
  normalize?: boolean;
  device?: CodebookDevice;
  /** Default `'auto'`. */
  screen?: ScreenMode;
}

const NEAREST_OPTIONS = ['format', 'k', 'margin', 'out', 'signal'];
const QUANTIZE_OPTIONS = ['format', 'signal'];

/**
 * A codebook to look vectors up in.
 *
 * The nearest code is exact and the same everywhere: the smallest (score, index), the score being one chain of
 * float32 fused multiply-adds (docs/architecture.md), so that instruction set, thread count and batch size never
 * change a result.
 *
 * ```ts
 * const codebook = new Codebook(vectors, { dim: 8 });
 * const { indices, distances } = await codebook.nearest(queries);
 * const rows = codebook.lookup(indices);
 * ```
 */
export class Codebook {
  /** Elements of a code. */
  readonly dim: number;
  /** Number of codes. */
  readonly size: number;
  readonly metric: Metric;
  /** Codes with NaN or infinity, which are never chosen. */
  readonly nonFinite: number;
  /** @internal */
  readonly handle: CodebookHandle;

  /**
   * @param vectors the codes, `[size, dim]`; copied
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(vectors: Float32Array, options: CodebookOptions) {
    checkOptions('Codebook', options, ['dim', 'metric', 'normalize', 'device', 'screen']);
    if (options === undefined)
      throw invalidArgument('the options of Codebook', 'an object with dim', options);
    checkDevice(options.device);
    this.dim = checkInteger('dim', options.dim, 1, 4096);
    this.metric = checkChoice('metric', options.metric ?? 'l2', METRICS);
    const checked = checkRows('vectors', vectors, this.dim);
    this.size = checkInteger('the number of codes', checked.length / this.dim, 1, 2 ** 24);
    const part = { vectors: checked, dim: this.dim, normalize: options.normalize === true };
    this.handle = new CodebookHandle('Codebook', [part], this.size, this.metric, checkScreen(options.screen));
    this.nonFinite = this.handle.nonFinite;
  }

  /**
   * The nearest codes of every query.
   *
   * @param queries `[n, dim]`; copied at the call, so the array may be reused at once
   */
  async nearest(queries: Queries, options: NearestOptions = {}): Promise<NearestResult> {
    return this.handle.nearest(this.#check('nearest', queries, options, NEAREST_OPTIONS), options);
  }

  /** As `nearest`, blocking: for workers and scripts. */
  nearestSync(queries: Queries, options: Omit<NearestOptions, 'signal'> = {}): NearestResult {
    return this.handle.nearestSync(this.#check('nearest', queries, options, NEAREST_OPTIONS), options);
  }

  /**
   * What a quantiser needs, in one call: indices, the codes themselves, each row's squared error and the histogram
   * of codes.
   *
   * @param rows `[n, dim]`
   */
  async quantize(rows: Queries, options: QuantizeOptions = {}): Promise<QuantizeResult> {
    return this.handle.quantize(this.#check('quantize', rows, options, QUANTIZE_OPTIONS), options);
  }

  /** As `quantize`, blocking. */
  quantizeSync(rows: Queries, options: Omit<QuantizeOptions, 'signal'> = {}): QuantizeResult {
    return this.handle.quantizeSync(this.#check('quantize', rows, options, QUANTIZE_OPTIONS), options);
  }

  /**
   * The codes behind indices, `[n, dim]`, as they are compared: unit vectors where the codebook normalises.
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

  #check(where: string, queries: unknown, options: { format?: unknown }, known: string[]): Queries {
    checkOptions(where, options, known);
    return checkQueries('queries', queries, this.dim, checkFormat(options.format));
  }
}

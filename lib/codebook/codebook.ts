import { checkOptions, invalidArgument } from '../errors.js';
import { checkChoice, checkInteger, checkQueries, checkRows } from './arguments.js';
import { CodebookBase } from './codebook-base.js';
import {
  type CodebookDevice,
  CodebookHandle,
  checkDevice,
  checkFormat,
  checkNonFinite,
  checkScreen,
  METRICS,
  type Metric,
  type NearestOptions,
  type NearestResult,
  type NonFiniteRule,
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
  /**
   * The codes are unit vectors already, as `lookup` of a codebook that normalises returns them: they are taken bit for
   * bit instead of being normalised again. Implies `normalize`.
   */
  unit?: boolean;
  /** Default `'skip'`. */
  onNonFinite?: NonFiniteRule;
  device?: CodebookDevice;
  /** Default `'auto'`. */
  screen?: ScreenMode;
}

const OPTIONS = ['dim', 'metric', 'normalize', 'unit', 'onNonFinite', 'device', 'screen'];
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
export class Codebook extends CodebookBase {
  /**
   * @param vectors the codes, `[size, dim]`; copied
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(vectors: Float32Array, options: CodebookOptions) {
    checkOptions('Codebook', options, OPTIONS);
    if (options === undefined)
      throw invalidArgument('the options of Codebook', 'an object with dim', options);
    checkDevice(options.device);
    const dim = checkInteger('dim', options.dim, 1, 4096);
    const metric = checkChoice('metric', options.metric ?? 'l2', METRICS);
    const unit = options.unit === true;
    const part = {
      vectors: checkRows('vectors', vectors, dim),
      dim,
      normalize: options.normalize === true || unit,
      unit,
    };
    const screen = checkScreen(options.screen);
    const onNonFinite = checkNonFinite(options.onNonFinite);
    super(new CodebookHandle('Codebook', [part], { metric, screen, onNonFinite }));
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

  #check(where: string, queries: unknown, options: { format?: unknown }, known: string[]): Queries {
    checkOptions(where, options, known);
    return checkQueries('queries', queries, this.dim, checkFormat(options.format));
  }
}

import { resolveDevice } from '../backends.js';
import { checkOptions, invalidArgument } from '../errors.js';
import { checkChoice, checkInteger, checkRows } from './arguments.js';
import { CodebookBase } from './codebook-base.js';
import {
  type CodebookDevice,
  CodebookHandle,
  checkNonFinite,
  checkScreen,
  type DeviceNearestResult,
  type DeviceQuantizeResult,
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
  /** Where lookups run. */
  device?: CodebookDevice;
  /** Default `'auto'`. */
  screen?: ScreenMode;
}

const OPTIONS = ['dim', 'metric', 'normalize', 'unit', 'onNonFinite', 'device', 'screen'];
const NEAREST_OPTIONS = ['format', 'k', 'margin', 'out', 'result', 'signal'];
const QUANTIZE_OPTIONS = ['format', 'result', 'signal'];

/**
 * A codebook to look vectors up in.
 *
 * The nearest code is exact and the same everywhere: the smallest (score, index), the score being one chain of
 * float32 fused multiply-adds (docs/architecture.md), so that device, instruction set, thread count and batch size never
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
   * @throws BackendUnavailableError for a device that was named and cannot be had
   */
  constructor(vectors: Float32Array, options: CodebookOptions) {
    checkOptions('Codebook', options, OPTIONS);
    if (options === undefined)
      throw invalidArgument('the options of Codebook', 'an object with dim', options);
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
    const device = resolveDevice(options.device, 'cpu');
    super(new CodebookHandle('Codebook', [part], { metric, screen, onNonFinite, device }));
  }

  /**
   * The nearest codes of every query.
   *
   * @param queries `[n, dim]`; copied at the call, so the array may be reused at once
   */
  nearest(queries: Queries, options: NearestOptions & { result: 'device' }): Promise<DeviceNearestResult>;
  nearest(queries: Queries, options?: NearestOptions & { result?: 'host' }): Promise<NearestResult>;
  async nearest(given: Queries, options: NearestOptions = {}): Promise<NearestResult | DeviceNearestResult> {
    const { queries, format } = this.#check('nearest', given, options, NEAREST_OPTIONS);
    return this.handle.nearest(queries, format, options);
  }

  /** As `nearest`, blocking: for workers and scripts. */
  nearestSync(
    queries: Queries,
    options: Omit<NearestOptions, 'signal'> & { result: 'device' },
  ): DeviceNearestResult;
  nearestSync(
    queries: Queries,
    options?: Omit<NearestOptions, 'signal'> & { result?: 'host' },
  ): NearestResult;
  nearestSync(given: Queries, options: Omit<NearestOptions, 'signal'> = {}) {
    const { queries, format } = this.#check('nearest', given, options, NEAREST_OPTIONS);
    return this.handle.nearestSync(queries, format, options) as never;
  }

  /**
   * What a quantiser needs, in one call: indices, the codes themselves, each row's squared error and the histogram
   * of codes.
   *
   * @param rows `[n, dim]`
   */
  quantize(rows: Queries, options: QuantizeOptions & { result: 'device' }): Promise<DeviceQuantizeResult>;
  quantize(rows: Queries, options?: QuantizeOptions & { result?: 'host' }): Promise<QuantizeResult>;
  async quantize(
    rows: Queries,
    options: QuantizeOptions = {},
  ): Promise<QuantizeResult | DeviceQuantizeResult> {
    const { queries, format } = this.#check('quantize', rows, options, QUANTIZE_OPTIONS);
    return this.handle.quantize(queries, format, options);
  }

  /** As `quantize`, blocking. */
  quantizeSync(
    rows: Queries,
    options: Omit<QuantizeOptions, 'signal'> & { result: 'device' },
  ): DeviceQuantizeResult;
  quantizeSync(
    rows: Queries,
    options?: Omit<QuantizeOptions, 'signal'> & { result?: 'host' },
  ): QuantizeResult;
  quantizeSync(rows: Queries, options: Omit<QuantizeOptions, 'signal'> = {}) {
    const { queries, format } = this.#check('quantize', rows, options, QUANTIZE_OPTIONS);
    return this.handle.quantizeSync(queries, format, options) as never;
  }

  #check(where: string, queries: unknown, options: { format?: unknown }, known: string[]) {
    checkOptions(where, options, known);
    return this.handle.checkQueries('queries', queries, options.format);
  }
}

import { checkOptions, invalidArgument } from '../errors.js';
import type { CallOptions } from './arguments.js';
import { AVERAGES_OPTIONS, CodeAverages, type CodeAveragesOptions, type CodeSums } from './code-averages.js';
import type { DeviceBuffer } from './device-buffer.js';

export interface EmaCodebookOptions extends CodeAveragesOptions {
  /** How much of the old averages an update keeps: 0 to below 1. Default 0.99. */
  decay?: number;
  /** Laplace smoothing of the counts, above 0. Default 1e-5. */
  epsilon?: number;
}

/**
 * Learning a codebook by exponential moving averages (van den Oord et al., VQ-VAE, arXiv:1711.00937, appendix A.1).
 * With the counts n and sums m of a batch:
 *
 *     N = decay N + (1 - decay) n        M = decay M + (1 - decay) m
 *     code j = M_j / ((N_j + epsilon) / (sum N + size epsilon) sum N)
 *
 * in double; for `cosine` the code is the direction of M_j. It starts with counts of 1 and the codes as sums.
 *
 * ```ts
 * const ema = new EmaCodebook(codes, { dim: 8 });
 * for (const vectors of batches) {
 *   const codebook = new Codebook(ema.codes, { dim: 8 });
 *   const { indices } = await codebook.nearest(vectors);
 *   await ema.update(vectors, indices); // alone; or: await ema.apply(allReduce(await ema.accumulate(vectors, indices)))
 *   await ema.revive(vectors, { threshold: 0.1, seed: step });
 * }
 * ```
 */
export class EmaCodebook extends CodeAverages {
  readonly decay: number;
  readonly epsilon: number;

  /**
   * @param codes `[size, dim]`, finite; copied
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(codes: Float32Array, options: EmaCodebookOptions) {
    checkOptions('EmaCodebook', options, [...AVERAGES_OPTIONS, 'decay', 'epsilon']);
    super('EmaCodebook', codes, options, 1);
    this.decay = options.decay ?? 0.99;
    if (typeof this.decay !== 'number' || !(this.decay >= 0 && this.decay < 1))
      throw invalidArgument('decay', 'a number from 0 to below 1', options.decay);
    this.epsilon = options.epsilon ?? 1e-5;
    if (typeof this.epsilon !== 'number' || !(this.epsilon > 0 && this.epsilon < Infinity))
      throw invalidArgument('epsilon', 'a number above 0', options.epsilon);
  }

  /** `accumulate` and `apply` in one. */
  async update(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options: CallOptions = {},
  ): Promise<void> {
    await this.exclusively(async () => {
      const batch = await this.accumulate(vectors, indices, options);
      await this.average(batch, this.#rule, options.signal);
    });
  }

  /** As `update`, blocking: for workers and scripts. */
  updateSync(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
  ): void {
    this.applySync(this.accumulateSync(vectors, indices));
  }

  /**
   * Averages a batch in and moves the codes.
   *
   * @param batch what `accumulate` gave, or the sum of several; copied at the call
   * @throws TokenFlowError when it is not finite or a count is negative, or another update is under way
   */
  async apply(batch: CodeSums, options: CallOptions = {}): Promise<void> {
    checkOptions('apply', options, ['signal']);
    await this.exclusively(() => this.average(batch, this.#rule, options.signal));
  }

  /** As `apply`, blocking: for workers and scripts. */
  applySync(batch: CodeSums): void {
    this.checkIdle();
    this.averageSync(batch, this.#rule);
  }

  get #rule() {
    return { rule: 'moving average' as const, decay: this.decay, epsilon: this.epsilon };
  }

  toJSON() {
    const { dim, size, metric, decay, epsilon } = this;
    return { type: 'EmaCodebook' as const, dim, size, metric, decay, epsilon };
  }
}

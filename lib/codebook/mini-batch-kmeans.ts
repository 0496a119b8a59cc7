import type { Device } from '../backends.js';
import { checkOptions, TokenFlowError } from '../errors.js';
import { type CallOptions, checkRows } from './arguments.js';
import { AVERAGES_OPTIONS, CodeAverages, type CodeAveragesOptions, type CodeSums } from './code-averages.js';
import { Codebook } from './codebook.js';

const RULE = { rule: 'running mean' } as const;

export interface MiniBatchStep {
  /** `[n]`: the code each vector chose, before it moved. */
  indices: Int32Array;
  /** The sum of their distances from it. */
  objective: number;
}

/**
 * Mini-batch k-means (Sculley, WWW 2010), for vectors that do not fit into memory or never end: every code is the mean
 * of all vectors that ever chose it, which is Sculley's learning rate of one over the count. The first codes have a
 * count of 0: they go with the first vectors that choose them.
 *
 * ```ts
 * const { codes } = await kMeans(sample, { dim: 8, size: 256, maxIterations: 0 }); // k-means++ seeds
 * const learner = new MiniBatchKMeans(codes, { dim: 8 });
 * for await (const batch of batches) await learner.update(batch);
 * ```
 */
export class MiniBatchKMeans extends CodeAverages {
  /**
   * @param codes `[size, dim]`, finite: the first codes; copied
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(codes: Float32Array, options: CodeAveragesOptions) {
    checkOptions('MiniBatchKMeans', options, AVERAGES_OPTIONS);
    super('MiniBatchKMeans', codes, options, 0);
  }

  /**
   * Assigns the vectors to their nearest codes and moves the codes.
   *
   * @param vectors `[n, dim]`; copied at the call
   * @throws TokenFlowError when a vector is not finite, or another update is under way; the codes are then as before
   */
  async update(vectors: Float32Array, options: CallOptions = {}): Promise<MiniBatchStep> {
    checkOptions('update', options, ['signal']);
    return this.exclusively(async () => {
      const batch = Float32Array.from(checkRows('vectors', vectors, this.dim)); // read twice, with a wait between
      const codebook = this.#codebook();
      try {
        const { indices, distances } = await codebook.nearest(batch, options);
        const sums = await this.accumulate(batch, checkFound(indices), options);
        await this.average(sums, RULE, options.signal);
        return { indices, objective: total(distances) };
      } finally {
        codebook.dispose();
      }
    });
  }

  /** As `update`, blocking: for workers and scripts. */
  updateSync(vectors: Float32Array): MiniBatchStep {
    this.checkIdle();
    const codebook = this.#codebook();
    try {
      const { indices, distances } = codebook.nearestSync(checkRows('vectors', vectors, this.dim));
      this.averageSync(this.accumulateSync(vectors, checkFound(indices)), RULE);
      return { indices, objective: total(distances) };
    } finally {
      codebook.dispose();
    }
  }

  /**
   * Adds a batch's counts and sums and moves the codes: for processes that learn together.
   *
   * @param batch what `accumulate` gave, or the sum of several; copied at the call
   * @throws TokenFlowError when it is not finite or a count is negative, or another update is under way
   */
  async apply(batch: CodeSums, options: CallOptions = {}): Promise<void> {
    checkOptions('apply', options, ['signal']);
    await this.exclusively(() => this.average(batch, RULE, options.signal));
  }

  /** As `apply`, blocking: for workers and scripts. */
  applySync(batch: CodeSums): void {
    this.checkIdle();
    this.averageSync(batch, RULE);
  }

  toJSON() {
    const { dim, size, metric } = this;
    return { type: 'MiniBatchKMeans' as const, dim, size, metric };
  }

  #codebook(): Codebook {
    return new Codebook(this.codes, { dim: this.dim, metric: this.metric, device: this.device as Device });
  }
}

function checkFound(indices: Int32Array): Int32Array {
  const wrong = indices.indexOf(-1);
  if (wrong < 0) return indices;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected finite vectors but row ${wrong} has NaN, infinity or values too large to square`,
  );
}

function total(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}

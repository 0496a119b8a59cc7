import { checkOptions, TokenFlowError } from '../errors.js';
import { checkRows } from './arguments.js';
import { AVERAGES_OPTIONS, CodeAverages, type CodeAveragesOptions, type CodeSums } from './code-averages.js';
import { Codebook } from './codebook.js';

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
  #busy = false;

  /**
   * @param codes `[size, dim]`, finite: the first codes; copied
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(codes: Float32Array, options: CodeAveragesOptions) {
    checkOptions('MiniBatchKMeans', options, AVERAGES_OPTIONS);
    super('MiniBatchKMeans', codes, options, 0);
  }

  /**
   * Assigns the vectors to their nearest codes and moves the codes. Updates follow each other: await one before the next.
   *
   * @param vectors `[n, dim]`; copied at the call
   * @throws TokenFlowError when a vector is not finite, or another update is under way; the codes are then as before
   */
  async update(vectors: Float32Array, options: { signal?: AbortSignal } = {}): Promise<MiniBatchStep> {
    checkOptions('update', options, ['signal']);
    this.#checkIdle();
    const batch = Float32Array.from(checkRows('vectors', vectors, this.dim)); // read twice, with a wait between
    this.#busy = true;
    const codebook = this.#codebook();
    try {
      const { indices, distances } = await codebook.nearest(batch, options);
      this.apply(await this.accumulate(batch, checkFound(indices), options));
      return { indices, objective: sum(distances) };
    } finally {
      codebook.dispose();
      this.#busy = false;
    }
  }

  /** As `update`, blocking: for workers and scripts. */
  updateSync(vectors: Float32Array): MiniBatchStep {
    this.#checkIdle();
    const codebook = this.#codebook();
    try {
      const { indices, distances } = codebook.nearestSync(checkRows('vectors', vectors, this.dim));
      this.apply(this.accumulateSync(vectors, checkFound(indices)));
      return { indices, objective: sum(distances) };
    } finally {
      codebook.dispose();
    }
  }

  /** Adds a batch's counts and sums and moves the codes: for processes that learn together. */
  apply(batch: CodeSums): void {
    this.checkSums(batch);
    for (let i = 0; i < this.sums.length; i++) this.sums[i] += batch.sums[i];
    for (let code = 0; code < this.size; code++) {
      if (batch.counts[code] === 0) continue;
      this.counts[code] += batch.counts[code];
      this.setToAverage(code, this.counts[code]);
    }
  }

  toJSON() {
    const { dim, size, metric } = this;
    return { type: 'MiniBatchKMeans' as const, dim, size, metric };
  }

  #codebook(): Codebook {
    return new Codebook(this.codes, { dim: this.dim, metric: this.metric });
  }

  #checkIdle(): void {
    if (this.#busy) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        'Expected one update at a time but another is under way; await it first',
      );
    }
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

function sum(values: Float32Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

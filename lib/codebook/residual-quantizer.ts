import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeResidual, native, settle } from '../native.js';
import { checkIndices, checkInteger, checkRows } from './arguments.js';
import { Codebook } from './codebook.js';

export interface ResidualEncodeOptions {
  /**
   * How many partial sums are kept per vector: 1 (the default) is greedy, more costs that many times as much and
   * usually leaves less error. 1 to 64.
   */
  beam?: number;
  /** Stops the work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface ResidualEncoded {
  /** `[n, stages]`: one index per stage. */
  indices: Int32Array;
  /** `[n, dim]`: the sum of the codes, as `decode` gives it. */
  quantized: Float32Array;
  /** `[n]`: the squared distance between each vector and its `quantized`. */
  errors: Float32Array;
}

/**
 * The residual quantiser (RVQ): every stage quantises what the stages before it left over, and the sum of the codes
 * is the reconstruction.
 *
 * `encode` is greedy, or keeps a beam of partial sums (Babenko and Lempitsky, CVPR 2014; Liu et al.,
 * arXiv:1509.05195). The same vector gives the same indices in any batch and on any number of threads.
 *
 * ```ts
 * const quantizer = new ResidualQuantizer([coarse, fine, finer]);
 * const { indices, quantized } = await quantizer.encode(vectors, { beam: 4 });
 * const sketch = await quantizer.decode(firstTwo, { stages: 2 });
 * ```
 *
 * Holds on to its codebooks, which must not be disposed of before it is.
 */
export class ResidualQuantizer {
  readonly codebooks: readonly Codebook[];
  /** Elements of a vector. */
  readonly dim: number;
  /** Number of codebooks. */
  readonly stages: number;
  #native: NativeResidual | undefined;

  /**
   * @param codebooks one per stage, coarse to fine, of one `dim`; the same one may serve several stages. Metric `l2` or
   *   `cosine` (which subtracts unit codes)
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(codebooks: readonly Codebook[]) {
    if (!Array.isArray(codebooks) || codebooks.length === 0)
      throw invalidArgument('codebooks', 'an array of Codebook, one per stage,', codebooks);
    codebooks.forEach((codebook, stage) => {
      if (!(codebook instanceof Codebook))
        throw invalidArgument(`codebooks[${stage}]`, 'a Codebook', codebook);
      if (codebook.metric === 'ip') {
        throw new TokenFlowError(
          'ERR_TOKENFLOW_INVALID_ARGUMENT',
          `Expected metric 'l2' or 'cosine' for codebooks[${stage}] but received 'ip': the largest inner product leaves ` +
            'no small residual',
        );
      }
    });
    this.codebooks = Object.freeze([...codebooks]);
    this.dim = codebooks[0].dim;
    this.stages = codebooks.length;
    this.#native = native().residualCreate(codebooks.map((codebook) => codebook.handle.native));
  }

  /**
   * @param vectors `[n, dim]`; copied at the call
   * @throws TokenFlowError when a vector is not finite
   */
  async encode(vectors: Float32Array, options: ResidualEncodeOptions = {}): Promise<ResidualEncoded> {
    const { request, result } = this.#encodeRequest(vectors, options, false);
    await settle(() => native().residualEncode(this.#handle, request), options.signal);
    return result;
  }

  /** As `encode`, blocking: for workers and scripts. */
  encodeSync(vectors: Float32Array, options: Omit<ResidualEncodeOptions, 'signal'> = {}): ResidualEncoded {
    const { request, result } = this.#encodeRequest(vectors, options, true);
    native().residualEncode(this.#handle, request);
    return result;
  }

  /**
   * The sum of the codes, `[n, dim]`.
   *
   * @param indices `[n, stages]`, with `stages` as in the options: a prefix of the stages is a valid, coarser sum
   * @throws TokenFlowError for an index out of range, `-1` included
   */
  async decode(
    indices: Int32Array | readonly number[],
    options: { stages?: number; signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    checkOptions('decode', options, ['stages', 'signal']);
    const request = this.#decodeRequest(indices, options.stages, false);
    await settle(() => native().residualDecode(this.#handle, request), options.signal);
    return request.quantized;
  }

  /** As `decode`, blocking: for workers and scripts. */
  decodeSync(indices: Int32Array | readonly number[], options: { stages?: number } = {}): Float32Array {
    checkOptions('decode', options, ['stages']);
    const request = this.#decodeRequest(indices, options.stages, true);
    native().residualDecode(this.#handle, request);
    return request.quantized;
  }

  toJSON(): { type: 'ResidualQuantizer'; dim: number; stages: { size: number; metric: string }[] } {
    const stages = this.codebooks.map(({ size, metric }) => ({ size, metric }));
    return { type: 'ResidualQuantizer', dim: this.dim, stages };
  }

  /** Lets go of the codebooks, which are not disposed of. Work that is under way completes. */
  dispose(): void {
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  get #handle(): NativeResidual {
    if (this.#native === undefined)
      throw new TokenFlowError(
        'ERR_TOKENFLOW_DISPOSED',
        'This ResidualQuantizer was disposed; make a new one',
      );
    for (const codebook of this.codebooks) codebook.handle.native; // throws when disposed
    return this.#native;
  }

  #encodeRequest(vectors: unknown, options: ResidualEncodeOptions, sync: boolean) {
    this.#handle;
    checkOptions('encode', options, ['beam', 'signal']);
    const beam = options.beam === undefined ? 1 : checkInteger('beam', options.beam, 1, 64);
    const checked = checkRows('vectors', vectors, this.dim);
    const n = checked.length / this.dim;
    const result = {
      indices: new Int32Array(n * this.stages),
      quantized: new Float32Array(checked.length),
      errors: new Float32Array(n),
    };
    return { request: { vectors: checked, beam, ...result, sync }, result };
  }

  #decodeRequest(indices: unknown, count: number | undefined, sync: boolean) {
    this.#handle;
    const stages = count === undefined ? this.stages : checkInteger('stages', count, 1, this.stages);
    const checked = checkIndices('indices', indices);
    if (checked.length % stages !== 0) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected a multiple of ${stages} elements (one index per stage) for indices but received ${checked.length}`,
      );
    }
    const quantized = new Float32Array((checked.length / stages) * this.dim);
    return { indices: checked, stages, quantized, sync };
  }
}

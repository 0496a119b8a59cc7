import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeResidual, native } from '../native.js';
import { type CallOptions, checkIndices, checkInteger, checkRows } from './arguments.js';
import { CodeQuantizer, type QuantizerCall } from './code-quantizer.js';
import { Codebook } from './codebook.js';
import { checkBuffer, DeviceBuffer, nativeOf, type ResultPlace, resultPlaces } from './device-buffer.js';

export interface ResidualEncodeOptions {
  /**
   * How many partial sums are kept per vector: 1 (the default) is greedy, more costs that many times as much and
   * usually leaves less error. 1 to 64; on a card, 1.
   */
  beam?: number;
  /** Where the results go. Default `'host'`. */
  result?: ResultPlace;
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

/** As ResidualEncoded, in the memory of the codebooks' device. */
export interface DeviceResidualEncoded {
  /** `[n, stages]` */
  indices: DeviceBuffer<'i32'>;
  /** `[n, dim]` */
  quantized: DeviceBuffer<'f32'>;
  /** `[n]` */
  errors: DeviceBuffer<'f32'>;
}

export interface ResidualDecodeOptions extends CallOptions {
  /** How many stages the indices are of: a prefix of the stages gives a valid, coarser sum. Default: all. */
  stages?: number;
  /** Where the sum goes. Default `'host'`. */
  result?: ResultPlace;
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
 * It runs where its codebooks do. Holds on to them; they must not be disposed of before it is.
 */
export class ResidualQuantizer extends CodeQuantizer<
  NativeResidual,
  ResidualEncoded,
  DeviceResidualEncoded,
  ResidualEncodeOptions,
  ResidualDecodeOptions
> {
  /** Elements of a vector. */
  readonly dim: number;
  /** Number of codebooks. */
  readonly stages: number;

  /**
   * @param codebooks one per stage, coarse to fine, of one `dim` and on one device; the same one may serve several stages. Metric `l2` or
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
    super(codebooks, (handles) => native().residualCreate(handles));
    this.dim = codebooks[0].dim;
    this.stages = codebooks.length;
  }

  toJSON(): { type: 'ResidualQuantizer'; dim: number; stages: { size: number; metric: string }[] } {
    const stages = this.codebooks.map(({ size, metric }) => ({ size, metric }));
    return { type: 'ResidualQuantizer', dim: this.dim, stages };
  }

  /** @internal */
  protected encodeCall(vectors: unknown, options: ResidualEncodeOptions, sync: boolean): QuantizerCall {
    const handle = this.native;
    checkOptions('encode', options, ['beam', 'result', 'signal']);
    const beam = options.beam === undefined ? 1 : checkInteger('beam', options.beam, 1, 64);
    if (beam > 1 && this.device !== 'cpu')
      throw invalidArgument('beam', `1, as codebooks on ${this.device} are searched greedily,`, beam);
    const checked =
      vectors instanceof DeviceBuffer
        ? checkBuffer('vectors', vectors, this.device, ['f32'] as const, this.dim)
        : checkRows('vectors', vectors, this.dim);
    const n = checked.length / this.dim;
    const places = resultPlaces(this.device, options.result);
    const result = {
      indices: places.i32(n * this.stages),
      quantized: places.f32(checked.length),
      errors: places.f32(n),
    };
    const request = {
      ...{ vectors: nativeOf(checked), n, beam, sync },
      indices: nativeOf(result.indices),
      quantized: nativeOf(result.quantized),
      errors: nativeOf(result.errors),
    };
    const start = () => native().residualEncode(handle, request);
    return { start, places, finish: () => result };
  }

  /** @internal */
  protected decodeCall(indices: unknown, options: ResidualDecodeOptions, sync: boolean): QuantizerCall {
    const handle = this.native;
    checkOptions('decode', options, ['stages', 'result', 'signal']);
    const stages =
      options.stages === undefined ? this.stages : checkInteger('stages', options.stages, 1, this.stages);
    const checked =
      indices instanceof DeviceBuffer
        ? checkBuffer('indices', indices, this.device, ['i32'] as const, stages)
        : checkIndices('indices', indices);
    if (checked.length % stages !== 0) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected a multiple of ${stages} elements (one index per stage) for indices but received ${checked.length}`,
      );
    }
    const n = checked.length / stages;
    const places = resultPlaces(this.device, options.result);
    const quantized = places.f32(n * this.dim);
    const request = { indices: nativeOf(checked), n, stages, quantized: nativeOf(quantized), sync };
    const start = () => native().residualDecode(handle, request);
    return { start, places, finish: () => quantized };
  }
}

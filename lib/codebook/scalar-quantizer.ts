/** What the quantisers without a stored codebook share: rows to whole numbers and back (native/codebook/scalar_quantizer.h). */
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeScalar, native, settle } from '../native.js';
import { type CallOptions, checkIndices, checkRows } from './arguments.js';

/**
 * Indices of a codebook that is not stored: an Int32Array where it has at most 2^31 codes, else a Float64Array of whole
 * numbers, exact up to 2^53.
 */
export type ScalarIndices = Int32Array | Float64Array;

export interface ScalarEncoded {
  /** `[n]` */
  indices: ScalarIndices;
  /** `[n, dim]`: the codes, as `decode` gives them, bit for bit. */
  quantized: Float32Array;
}

/** Base of FiniteScalarQuantizer, LookupFreeQuantizer and BinarySphericalQuantizer. */
export abstract class ScalarQuantizer {
  /** Elements of a vector. */
  readonly dim: number;
  /** Number of codes: the product of the elements' levels, at most 2^53. */
  readonly size: number;
  #native: NativeScalar | undefined;

  /** @internal */
  protected constructor(
    rule: 'tanh' | 'clamp' | 'symmetric' | 'sign',
    levels: readonly number[],
    scale: number,
  ) {
    this.dim = levels.length;
    this.size = levels.reduce((product, count) => product * count, 1);
    this.#native = native().scalarCreate(rule, Int32Array.from(levels), scale);
  }

  /**
   * @param vectors `[n, dim]`; copied at the call
   * @throws TokenFlowError when a vector is not finite
   */
  async encode(vectors: Float32Array, options: CallOptions = {}): Promise<ScalarEncoded> {
    checkOptions('encode', options, ['signal']);
    const { request, result } = this.#encodeRequest(vectors, false);
    await settle(() => native().scalarEncode(this.#handle, request), options.signal);
    return result;
  }

  /** As `encode`, blocking: for workers and scripts. */
  encodeSync(vectors: Float32Array): ScalarEncoded {
    const { request, result } = this.#encodeRequest(vectors, true);
    native().scalarEncode(this.#handle, request);
    return result;
  }

  /**
   * The codes behind indices, `[n, dim]`.
   *
   * @param indices whole numbers from 0 to `size - 1`
   * @throws TokenFlowError for any other, `-1` included
   */
  async decode(indices: ScalarIndices | readonly number[], options: CallOptions = {}): Promise<Float32Array> {
    checkOptions('decode', options, ['signal']);
    const request = this.#decodeRequest(indices, false);
    await settle(() => native().scalarDecode(this.#handle, request), options.signal);
    return request.quantized;
  }

  /** As `decode`, blocking: for workers and scripts. */
  decodeSync(indices: ScalarIndices | readonly number[]): Float32Array {
    const request = this.#decodeRequest(indices, true);
    native().scalarDecode(this.#handle, request);
    return request.quantized;
  }

  /** Frees the native memory now rather than when collected. Work that is under way completes. */
  dispose(): void {
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  get #handle(): NativeScalar {
    if (this.#native !== undefined) return this.#native;
    throw new TokenFlowError(
      'ERR_TOKENFLOW_DISPOSED',
      `This ${this.constructor.name} was disposed; make a new one`,
    );
  }

  #encodeRequest(vectors: unknown, sync: boolean) {
    this.#handle;
    const checked = checkRows('vectors', vectors, this.dim);
    const n = checked.length / this.dim;
    const result = {
      indices: this.size <= 2 ** 31 ? new Int32Array(n) : new Float64Array(n),
      quantized: new Float32Array(checked.length),
    };
    return { request: { vectors: checked, ...result, sync }, result };
  }

  #decodeRequest(indices: unknown, sync: boolean) {
    this.#handle;
    const checked = checkWide(indices);
    return { indices: checked, quantized: new Float32Array(checked.length * this.dim), sync };
  }
}

/** Indices of either width; what they are is checked by native code. */
function checkWide(indices: unknown): ScalarIndices {
  if (indices instanceof Int32Array) return checkIndices('indices', indices);
  if (indices instanceof Float64Array) return Float64Array.from(indices);
  if (Array.isArray(indices)) {
    const wrong = indices.findIndex((index) => !Number.isSafeInteger(index));
    if (wrong < 0) return Float64Array.from(indices);
    throw invalidArgument(`indices[${wrong}]`, 'a whole number', indices[wrong]);
  }
  throw invalidArgument('indices', 'an Int32Array or a Float64Array', indices);
}

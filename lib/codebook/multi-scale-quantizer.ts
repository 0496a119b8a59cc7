import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeMultiScale, native, settle } from '../native.js';
import { checkFloats, checkIndices, checkInteger } from './arguments.js';
import { Codebook } from './codebook.js';
import { PartedCodebook } from './dual-codebook.js';

export interface MultiScaleQuantizerOptions {
  /** Sides of the scales' grids, ascending; the last is the grid of the features. */
  scales: readonly number[];
  /** One per part of the codebook; default 1 each. */
  weights?: readonly number[];
}

export interface MultiScaleEncoded {
  /** `[batch, tokens]`: scale by scale, coarse to fine, row-major inside a scale. */
  indices: Int32Array;
  /** `[batch, grid, grid, dim]`: the sum over all scales, each brought up to the grid. */
  quantized: Float32Array;
}

/**
 * The multi-scale residual quantiser of TokenFlow and VAR (without phi convolutions): every scale quantises what
 * the coarser ones left over. Area down (adaptive mean), bicubic up (a = -0.75, half-pixel centres).
 *
 * Holds on to the codebook, which must not be disposed of before it is.
 */
export class MultiScaleQuantizer {
  readonly codebook: Codebook | PartedCodebook;
  readonly scales: readonly number[];
  /** Side of the features' grid: the last scale. */
  readonly grid: number;
  /** Tokens per image: the sum of the scales' squares. */
  readonly tokens: number;
  readonly #native: NativeMultiScale;

  /** @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
  constructor(codebook: Codebook | PartedCodebook, options: MultiScaleQuantizerOptions) {
    checkOptions('MultiScaleQuantizer', options, ['scales', 'weights']);
    if (!(codebook instanceof Codebook || codebook instanceof PartedCodebook))
      throw invalidArgument('codebook', 'a Codebook or a DualCodebook', codebook);
    const scales = options?.scales;
    if (!Array.isArray(scales) || scales.length === 0)
      throw invalidArgument('scales', 'an array of grid sides', scales);
    this.scales = Object.freeze(
      scales.map((scale, i) => checkInteger(`scales[${i}]`, scale, (scales[i - 1] ?? 0) + 1, 4096)),
    );
    this.codebook = codebook;
    this.grid = scales[scales.length - 1];
    this.tokens = this.tokensOf(scales.length);
    const weights = options.weights === undefined ? undefined : Float32Array.from(options.weights);
    this.#native = native().multiScaleCreate(codebook.handle.native, Int32Array.from(scales), weights);
  }

  /** Tokens of the first `scales` scales of one image. */
  tokensOf(scales: number): number {
    return this.scales.slice(0, scales).reduce((sum, scale) => sum + scale * scale, 0);
  }

  /**
   * @param features `[batch, grid, grid, dim]`
   * @throws TokenFlowError when a feature is not finite
   */
  async encode(features: Float32Array, options: { signal?: AbortSignal } = {}): Promise<MultiScaleEncoded> {
    checkOptions('encode', options, ['signal']);
    const { request, result } = this.#encodeRequest(features, false);
    await settle(() => native().multiScaleEncode(this.#native, request), options.signal);
    return result;
  }

  encodeSync(features: Float32Array): MultiScaleEncoded {
    const { request, result } = this.#encodeRequest(features, true);
    native().multiScaleEncode(this.#native, request);
    return result;
  }

  /**
   * The sum over the first scales, `[batch, grid, grid, dim]`. A prefix of the scales is a valid, coarser image.
   *
   * @param indices `[batch, tokensOf(scales)]`
   */
  async decode(
    indices: Int32Array,
    options: { scales?: number; signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    checkOptions('decode', options, ['scales', 'signal']);
    const request = this.#decodeRequest(indices, options.scales, false);
    await settle(() => native().multiScaleDecode(this.#native, request), options.signal);
    return request.sum;
  }

  decodeSync(indices: Int32Array, options: { scales?: number } = {}): Float32Array {
    checkOptions('decode', options, ['scales']);
    const request = this.#decodeRequest(indices, options.scales, true);
    native().multiScaleDecode(this.#native, request);
    return request.sum;
  }

  #encodeRequest(features: unknown, sync: boolean) {
    this.codebook.handle.native; // throws when disposed
    const checked = checkFloats('features', features);
    const image = this.grid * this.grid * this.codebook.dim;
    if (checked.length % image !== 0) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected features of shape [batch, ${this.grid}, ${this.grid}, ${this.codebook.dim}], a multiple of ${image} ` +
          `elements, but received ${checked.length}`,
      );
    }
    const batch = checked.length / image;
    const result = {
      indices: new Int32Array(batch * this.tokens),
      quantized: new Float32Array(checked.length),
    };
    const request = { features: checked, batch, indices: result.indices, sum: result.quantized, sync };
    return { request, result };
  }

  #decodeRequest(indices: unknown, scales: number | undefined, sync: boolean) {
    this.codebook.handle.native; // throws when disposed
    const count =
      scales === undefined ? this.scales.length : checkInteger('scales', scales, 1, this.scales.length);
    const checked = checkIndices('indices', indices);
    const length = this.tokensOf(count);
    if (checked.length % length !== 0) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected a multiple of ${length} tokens (${count} scales) for indices but received ${checked.length}`,
      );
    }
    const batch = checked.length / length;
    const sum = new Float32Array(batch * this.grid * this.grid * this.codebook.dim);
    return { indices: checked, batch, scales: count, sum, sync };
  }
}

import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeMultiScale, native, settle } from '../native.js';
import { type CallOptions, checkFloats, checkIndices, checkInteger, checkWeights } from './arguments.js';
import { Codebook } from './codebook.js';
import { PartedCodebook } from './dual-codebook.js';

export interface MultiScaleQuantizerOptions {
  /** Sides of the scales' grids, ascending; the last is the grid of the features. */
  scales: readonly number[];
  /** One per part of the codebook; default 1 each. */
  weights?: readonly number[];
  /** Convolutions behind the upsampling, as VAR has them. Default: none, as TokenFlow. */
  phi?: PhiOptions;
}

/**
 * The residual convolutions ("phi") of VAR (Tian et al., arXiv:2404.02905): a scale adds
 * `(1 - ratio) h + ratio (conv3x3(h) + bias)` where it would add its upsampled codes `h`, the last scale included.
 *
 * Any number of them is shared out among the scales: a scale at position `i / (scales - 1)` takes the one whose tick is
 * nearest, ticks being even from 0 to 1 (four: 1/12 to 11/12; else 1/2K to 1 - 1/2K). One is VAR's shared phi, four its
 * default, as many as scales its non-shared.
 */
export interface PhiOptions {
  /** `quantize.quant_resi.qresi_ls.N.weight` and `.bias` of a checkpoint, in this order. */
  kernels: readonly PhiKernel[];
  /** Share of the convolution, 0 to 1: VAR's `quant_resi`. Default 0.5. */
  ratio?: number;
}

export interface PhiKernel {
  /** `[dim, dim, 3, 3]`: out, in, row, column. */
  weight: Float32Array;
  /** `[dim]`; default zeros. */
  bias?: Float32Array;
}

export interface MultiScaleEncoded {
  /** `[batch, tokens]`: scale by scale, coarse to fine, row-major inside a scale. */
  indices: Int32Array;
  /** `[batch, grid, grid, dim]`: the sum over all scales, each brought up to the grid. */
  quantized: Float32Array;
}

/**
 * The multi-scale residual quantiser of TokenFlow and VAR: every scale quantises what the coarser ones left over. Area
 * down (adaptive mean), bicubic up (a = -0.75, half-pixel centres), then VAR's phi convolution where there is one. The same
 * image gives the same tokens in any batch, on any number of threads and at every instruction-set level.
 *
 * ```ts
 * const quantizer = new MultiScaleQuantizer(codebook, { scales: [1, 2, 4, 8] });
 * const { indices, quantized } = await quantizer.encode(features); // [batch, 8, 8, dim]
 * const coarse = await quantizer.decode(firstTokens, { scales: 2 });
 * ```
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
  /** Number of phi convolutions and their share; undefined without. */
  readonly phi: { kernels: number; ratio: number } | undefined;
  #native: NativeMultiScale | undefined;

  /** @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
  constructor(codebook: Codebook | PartedCodebook, options: MultiScaleQuantizerOptions) {
    checkOptions('MultiScaleQuantizer', options, ['scales', 'weights', 'phi']);
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
    const weights = checkWeights(options.weights, codebook.handle.parts.length);
    const phi = checkPhi(options.phi, codebook.dim);
    this.phi = phi && Object.freeze({ kernels: phi.kernels.length, ratio: phi.ratio });
    this.#native = native().multiScaleCreate(codebook.handle.native, Int32Array.from(scales), weights, phi);
  }

  /** Tokens of the first `scales` scales of one image. */
  tokensOf(scales: number): number {
    return this.scales.slice(0, scales).reduce((sum, scale) => sum + scale * scale, 0);
  }

  /**
   * @param features `[batch, grid, grid, dim]`
   * @throws TokenFlowError when a feature is not finite
   */
  async encode(features: Float32Array, options: CallOptions = {}): Promise<MultiScaleEncoded> {
    checkOptions('encode', options, ['signal']);
    const { request, result } = this.#encodeRequest(features, false);
    await settle(() => native().multiScaleEncode(this.#handle, request), options.signal);
    return result;
  }

  /** As `encode`, blocking: for workers and scripts. */
  encodeSync(features: Float32Array): MultiScaleEncoded {
    const { request, result } = this.#encodeRequest(features, true);
    native().multiScaleEncode(this.#handle, request);
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
    await settle(() => native().multiScaleDecode(this.#handle, request), options.signal);
    return request.sum;
  }

  /** As `decode`, blocking: for workers and scripts. */
  decodeSync(indices: Int32Array, options: { scales?: number } = {}): Float32Array {
    checkOptions('decode', options, ['scales']);
    const request = this.#decodeRequest(indices, options.scales, true);
    native().multiScaleDecode(this.#handle, request);
    return request.sum;
  }

  toJSON(): {
    type: 'MultiScaleQuantizer';
    dim: number;
    size: number;
    scales: number[];
    tokens: number;
    phi?: { kernels: number; ratio: number };
  } {
    const { codebook, scales, tokens, phi } = this;
    const { dim, size } = codebook;
    return { type: 'MultiScaleQuantizer', dim, size, scales: [...scales], tokens, ...(phi && { phi }) };
  }

  /** Lets go of the codebook, which is not disposed of. Work that is under way completes. */
  dispose(): void {
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  get #handle(): NativeMultiScale {
    if (this.#native === undefined)
      throw new TokenFlowError(
        'ERR_TOKENFLOW_DISPOSED',
        'This MultiScaleQuantizer was disposed; make a new one',
      );
    this.codebook.handle.native; // throws when disposed
    return this.#native;
  }

  #encodeRequest(features: unknown, sync: boolean) {
    this.#handle;
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
    this.#handle;
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

function checkPhi(phi: PhiOptions | undefined, dim: number) {
  if (phi === undefined) return undefined;
  checkOptions('phi', phi, ['kernels', 'ratio']);
  if (!Array.isArray(phi.kernels) || phi.kernels.length === 0)
    throw invalidArgument('phi.kernels', 'an array of { weight, bias }', phi.kernels);
  const kernels = phi.kernels.map((kernel, i) => {
    const name = `phi.kernels[${i}]`;
    checkOptions(name, kernel, ['weight', 'bias']);
    const weight = checkFinite(`${name}.weight`, kernel?.weight, dim * dim * 9, `[${dim}, ${dim}, 3, 3]`);
    const bias =
      kernel.bias === undefined ? undefined : checkFinite(`${name}.bias`, kernel.bias, dim, `[${dim}]`);
    return { weight, bias };
  });
  const ratio = phi.ratio ?? 0.5;
  if (typeof ratio !== 'number' || !(ratio >= 0 && ratio <= 1))
    throw invalidArgument('phi.ratio', 'a number from 0 to 1', phi.ratio);
  return { kernels, ratio };
}

function checkFinite(name: string, value: unknown, length: number, shape: string): Float32Array {
  const floats = checkFloats(name, value);
  if (floats.length !== length)
    throw invalidArgument(name, `a Float32Array of shape ${shape}, ${length} elements,`, value);
  if (!floats.every(Number.isFinite)) throw invalidArgument(name, 'finite values', 'NaN or infinity');
  return floats;
}

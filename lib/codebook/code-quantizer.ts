import { TokenFlowError } from '../errors.js';
import type { NativeJob } from '../native.js';
import type { CallOptions } from './arguments.js';
import type { Codebook } from './codebook.js';
import { commonDevice, type DeviceBuffer, filled, filledSync, type ResultPlaces } from './device-buffer.js';

/** One call, checked and ready: what starts it, where its results go, and what it gives. */
export interface QuantizerCall {
  start: () => NativeJob<void>;
  places: ResultPlaces;
  finish: () => unknown;
}

type CodebookNative = Codebook['handle']['native'];
/** Options of a call whose results stay on the device. */
export type OnDevice<Options> = Options & { result: 'device' };
/** Options of a call whose results come to the host. */
export type OnHost<Options> = Options & { result?: 'host' };

/**
 * What ResidualQuantizer and ProductQuantizer share: several codebooks on one device, and the calls there, whose results
 * go to the host or stay on the device.
 */
export abstract class CodeQuantizer<
  Native,
  Encoded,
  DeviceEncoded,
  EncodeOptions extends CallOptions,
  DecodeOptions extends CallOptions,
> {
  readonly codebooks: readonly Codebook[];
  /** Where it encodes and decodes: the device of its codebooks. */
  readonly device: string;
  #native: Native | undefined;

  /** @internal */
  protected constructor(codebooks: readonly Codebook[], create: (handles: CodebookNative[]) => Native) {
    this.codebooks = Object.freeze([...codebooks]);
    this.device = commonDevice(codebooks);
    this.#native = create(codebooks.map((codebook) => codebook.handle.native));
  }

  /**
   * @param vectors `[n, dim]`; copied at the call, or a DeviceBuffer on this device
   * @throws TokenFlowError when a vector is not finite
   */
  encode(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    options: OnDevice<EncodeOptions>,
  ): Promise<DeviceEncoded>;
  encode(vectors: Float32Array | DeviceBuffer<'f32'>, options?: OnHost<EncodeOptions>): Promise<Encoded>;
  async encode(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    options: CallOptions = {},
  ): Promise<Encoded | DeviceEncoded> {
    const { start, places, finish } = this.encodeCall(vectors, options as EncodeOptions, false);
    return filled(start, places, finish, options.signal) as Promise<Encoded | DeviceEncoded>;
  }

  /** As `encode`, blocking: for workers and scripts. */
  encodeSync(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    options: Omit<OnDevice<EncodeOptions>, 'signal'>,
  ): DeviceEncoded;
  encodeSync(
    vectors: Float32Array | DeviceBuffer<'f32'>,
    options?: Omit<OnHost<EncodeOptions>, 'signal'>,
  ): Encoded;
  encodeSync(vectors: Float32Array | DeviceBuffer<'f32'>, options: object = {}): Encoded & DeviceEncoded {
    const { start, places, finish } = this.encodeCall(vectors, options as EncodeOptions, true);
    return filledSync(start, places, finish) as never;
  }

  /**
   * The quantised vectors behind indices, `[n, dim]`.
   *
   * @param indices `[n, codebooks]`: what `encode` gave
   * @throws TokenFlowError for an index out of range, `-1` included
   */
  decode(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options: OnDevice<DecodeOptions>,
  ): Promise<DeviceBuffer<'f32'>>;
  decode(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options?: OnHost<DecodeOptions>,
  ): Promise<Float32Array>;
  async decode(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options: CallOptions = {},
  ): Promise<Float32Array | DeviceBuffer<'f32'>> {
    const { start, places, finish } = this.decodeCall(indices, options as DecodeOptions, false);
    return filled(start, places, finish, options.signal) as Promise<Float32Array | DeviceBuffer<'f32'>>;
  }

  /** As `decode`, blocking: for workers and scripts. */
  decodeSync(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options: Omit<OnDevice<DecodeOptions>, 'signal'>,
  ): DeviceBuffer<'f32'>;
  decodeSync(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options?: Omit<OnHost<DecodeOptions>, 'signal'>,
  ): Float32Array;
  decodeSync(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    options: object = {},
  ): Float32Array & DeviceBuffer<'f32'> {
    const { start, places, finish } = this.decodeCall(indices, options as DecodeOptions, true);
    return filledSync(start, places, finish) as never;
  }

  /** Lets go of the codebooks, which are not disposed of. Work that is under way completes. */
  dispose(): void {
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  protected abstract encodeCall(vectors: unknown, options: EncodeOptions, sync: boolean): QuantizerCall;

  /** @internal */
  protected abstract decodeCall(indices: unknown, options: DecodeOptions, sync: boolean): QuantizerCall;

  /** @internal */
  protected get native(): Native {
    if (this.#native === undefined) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_DISPOSED',
        `This ${this.constructor.name} was disposed; make a new one`,
      );
    }
    for (const codebook of this.codebooks) codebook.handle.native; // throws when disposed
    return this.#native;
  }
}

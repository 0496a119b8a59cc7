import { type Device, resolveDevice } from '../backends.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeDeviceBuffer, type NativeJob, native, settle } from '../native.js';
import { type CallOptions, checkAttached, checkChoice } from './arguments.js';

/** What a DeviceBuffer holds: 32-bit floats or integers, or 16-bit floats (as their bits in a Uint16Array on the host). */
export type DeviceDtype = 'f32' | 'i32' | 'f16' | 'bf16';

/** The array of the host that holds the same. */
export interface DeviceArrays {
  f32: Float32Array;
  i32: Int32Array;
  f16: Uint16Array;
  bf16: Uint16Array;
}

const ARRAYS = { f32: Float32Array, i32: Int32Array, f16: Uint16Array, bf16: Uint16Array } as const;

export interface DeviceBufferOptions extends CallOptions {
  /** Where the memory is. Default: `TOKENFLOW_DEVICE`, else `'cpu'`; give the `device` of the codebook that will read it. */
  device?: Device;
}

/**
 * An array in the memory of a device, so that calls can be chained without copying between them: given to a codebook as
 * queries or indices, or had from one by `result: 'device'`. On the CPU it is plain memory, so the same code runs
 * everywhere.
 *
 * ```ts
 * const codebook = new Codebook(codes, { dim: 8, device: 'auto' });
 * const queries = await DeviceBuffer.from(vectors, { device: codebook.device });
 * const { indices, distances } = await codebook.nearest(queries, { result: 'device' });
 * const rows = await codebook.lookup(indices); // another DeviceBuffer
 * const values = await rows.read(); // Float32Array
 * for (const buffer of [queries, indices, distances, rows]) buffer.dispose();
 * ```
 *
 * Calls on a device follow each other in the order in which they were made. Memory is freed by `dispose`, when the buffer is
 * collected, and when its worker ends; the collector does not know how much a device has left, so dispose of what you make.
 */
export class DeviceBuffer<D extends DeviceDtype = DeviceDtype> {
  /** `'cpu'`, `'cuda:0'`, … */
  readonly device: string;
  readonly dtype: D;
  /** Elements. */
  readonly length: number;
  readonly byteLength: number;
  #native: NativeDeviceBuffer | undefined;

  private constructor(device: string, dtype: D, length: number) {
    this.device = device;
    this.dtype = dtype;
    this.length = length;
    this.byteLength = length * ARRAYS[dtype].BYTES_PER_ELEMENT;
    this.#native = native().deviceBufferCreate(device, this.byteLength);
  }

  /** @internal What a call will fill; it gets its memory then. */
  static unfilled<D extends DeviceDtype>(device: string, dtype: D, length: number): DeviceBuffer<D> {
    return new DeviceBuffer(device, dtype, length);
  }

  /**
   * Copies an array to a device.
   *
   * @param array copied at the call, so it may be reused at once; a Uint16Array holds 16-bit floats, which `dtype` names
   * @throws TokenFlowError ERR_TOKENFLOW_BACKEND_UNAVAILABLE, ERR_TOKENFLOW_OUT_OF_MEMORY, ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  static from(
    array: Float32Array,
    options?: DeviceBufferOptions & { dtype?: 'f32' },
  ): Promise<DeviceBuffer<'f32'>>;
  static from(
    array: Int32Array,
    options?: DeviceBufferOptions & { dtype?: 'i32' },
  ): Promise<DeviceBuffer<'i32'>>;
  static from<D extends 'f16' | 'bf16'>(
    array: Uint16Array,
    options: DeviceBufferOptions & { dtype: D },
  ): Promise<DeviceBuffer<D>>;
  static async from(
    array: DeviceArrays[DeviceDtype],
    options: DeviceBufferOptions & { dtype?: DeviceDtype } = {},
  ): Promise<DeviceBuffer> {
    const buffer = DeviceBuffer.#for(array, options);
    try {
      await buffer.write(array as never, { signal: options.signal });
    } catch (error) {
      buffer.dispose();
      throw error;
    }
    return buffer;
  }

  /** As `from`, blocking: for workers and scripts. */
  static fromSync(
    array: Float32Array,
    options?: DeviceBufferOptions & { dtype?: 'f32' },
  ): DeviceBuffer<'f32'>;
  static fromSync(array: Int32Array, options?: DeviceBufferOptions & { dtype?: 'i32' }): DeviceBuffer<'i32'>;
  static fromSync<D extends 'f16' | 'bf16'>(
    array: Uint16Array,
    options: DeviceBufferOptions & { dtype: D },
  ): DeviceBuffer<D>;
  static fromSync(
    array: DeviceArrays[DeviceDtype],
    options: DeviceBufferOptions & { dtype?: DeviceDtype } = {},
  ): DeviceBuffer {
    const buffer = DeviceBuffer.#for(array, options);
    try {
      buffer.writeSync(array as never);
    } catch (error) {
      buffer.dispose();
      throw error;
    }
    return buffer;
  }

  static #for(array: unknown, options: DeviceBufferOptions & { dtype?: DeviceDtype }): DeviceBuffer {
    checkOptions('DeviceBuffer', options, ['device', 'dtype', 'signal']);
    const natural = array instanceof Float32Array ? 'f32' : array instanceof Int32Array ? 'i32' : undefined;
    if (natural === undefined && !(array instanceof Uint16Array))
      throw invalidArgument('array', 'a Float32Array, an Int32Array or a Uint16Array', array);
    const possible = natural === undefined ? (['f16', 'bf16'] as const) : ([natural] as const);
    const dtype = checkChoice<DeviceDtype>('dtype', options?.dtype ?? natural, possible);
    const { length } = array as DeviceArrays[DeviceDtype];
    return new DeviceBuffer(resolveDevice(options?.device, 'cpu'), dtype, length);
  }

  /** Copies the contents to the host. */
  async read(options: CallOptions = {}): Promise<DeviceArrays[D]> {
    checkOptions('read', options, ['signal']);
    const data = this.#array();
    const handle = this.native;
    await settle(() => native().deviceBufferRead(handle, { data, sync: false }), options.signal);
    return data;
  }

  /** As `read`, blocking: for workers and scripts. */
  readSync(): DeviceArrays[D] {
    const data = this.#array();
    native().deviceBufferRead(this.native, { data, sync: true });
    return data;
  }

  /**
   * Replaces the contents.
   *
   * @param array `length` elements; copied at the call
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT for another type or length, ERR_TOKENFLOW_DISPOSED
   */
  async write(array: DeviceArrays[D], options: CallOptions = {}): Promise<void> {
    checkOptions('write', options, ['signal']);
    const data = this.#check(array);
    const handle = this.native;
    await settle(() => native().deviceBufferWrite(handle, { data, sync: false }), options.signal);
  }

  /** As `write`, blocking: for workers and scripts. */
  writeSync(array: DeviceArrays[D]): void {
    native().deviceBufferWrite(this.native, { data: this.#check(array), sync: true });
  }

  /** @internal The native handle. Throws when disposed. */
  get native(): NativeDeviceBuffer {
    if (this.#native !== undefined) return this.#native;
    throw new TokenFlowError('ERR_TOKENFLOW_DISPOSED', 'This DeviceBuffer was disposed; make a new one');
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#native === undefined;
  }

  toJSON(): { type: 'DeviceBuffer'; device: string; dtype: D; length: number; byteLength: number } {
    const { device, dtype, length, byteLength } = this;
    return { type: 'DeviceBuffer', device, dtype, length, byteLength };
  }

  /** Frees the memory now rather than when collected. Calls that are under way complete. */
  dispose(): void {
    if (this.#native !== undefined) native().deviceBufferRelease(this.#native);
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #array(): DeviceArrays[D] {
    return new ARRAYS[this.dtype](this.length) as DeviceArrays[D];
  }

  #check(array: unknown): DeviceArrays[D] {
    const type = ARRAYS[this.dtype];
    if (!(array instanceof type))
      throw invalidArgument('array', `a ${type.name}, as the buffer holds ${this.dtype},`, array);
    checkAttached('array', array);
    if (array.length !== this.length)
      throw invalidArgument('array', `a ${type.name} of ${this.length} elements`, array);
    // Others may write to shared memory meanwhile.
    return (array.buffer instanceof SharedArrayBuffer ? new type(array) : array) as DeviceArrays[D];
  }
}

/** The device of codebooks that are used together. */
export function commonDevice(codebooks: readonly { device: string }[]): string {
  const { device } = codebooks[0];
  const other = codebooks.findIndex((codebook) => codebook.device !== device);
  if (other < 0) return device;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected codebooks on one device but codebooks[0] is on ${device} and codebooks[${other}] on ` +
      `${codebooks[other].device}; make them with the same device`,
  );
}

/** A live buffer of one of these dtypes, on the device that a call runs on, in whole rows of `dim`. */
export function checkBuffer<D extends DeviceDtype>(
  name: string,
  buffer: DeviceBuffer,
  device: string,
  dtypes: readonly D[],
  dim = 1,
): DeviceBuffer<D> {
  buffer.native; // throws when disposed
  const fail = (expected: string, received: string) =>
    new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected ${expected} for ${name} but received ${received}`,
    );
  if (buffer.device !== device)
    throw fail(
      `a DeviceBuffer on ${device}, where this call runs,`,
      `one on ${buffer.device}; make it there`,
    );
  if (!dtypes.includes(buffer.dtype as D))
    throw fail(`a DeviceBuffer of ${dtypes.join(' or ')}`, `one of ${buffer.dtype}`);
  if (buffer.length % dim !== 0)
    throw fail(`a multiple of ${dim} elements (rows of ${dim})`, `a DeviceBuffer of ${buffer.length}`);
  return buffer as DeviceBuffer<D>;
}

/** As native code takes an array or a buffer. */
export function nativeOf<T extends object>(value: T): T extends DeviceBuffer ? NativeDeviceBuffer : T {
  return (value instanceof DeviceBuffer ? value.native : value) as never;
}

/** Where results go: into arrays, or into DeviceBuffers on the device of the call. */
export type ResultPlace = 'host' | 'device';

/** Makes the arrays of a result on either side, and gives up those on a device after a failure. */
export interface ResultPlaces {
  f32(length: number): Float32Array | DeviceBuffer<'f32'>;
  i32(length: number): Int32Array | DeviceBuffer<'i32'>;
  drop(): void;
}

export function resultPlaces(device: string, result: unknown): ResultPlaces {
  if (checkChoice('result', result ?? 'host', ['host', 'device'] as const) === 'host') {
    return {
      f32: (length) => new Float32Array(length),
      i32: (length) => new Int32Array(length),
      drop: () => {},
    };
  }
  const made: DeviceBuffer[] = [];
  const make = <D extends DeviceDtype>(dtype: D, length: number) => {
    const buffer = DeviceBuffer.unfilled(device, dtype, length);
    made.push(buffer as DeviceBuffer);
    return buffer;
  };
  return {
    f32: (length) => make('f32', length),
    i32: (length) => make('i32', length),
    drop: () => {
      for (const buffer of made) buffer.dispose();
    },
  };
}

/** Runs a job; after a failure the results that were to be on the device are given up. */
export async function filled<T>(
  start: () => NativeJob<void>,
  places: ResultPlaces,
  finish: () => T,
  signal?: AbortSignal,
): Promise<T> {
  try {
    await settle(start, signal);
    return finish();
  } catch (error) {
    places.drop();
    throw error;
  }
}

/** As `filled`, for a job that is done when it returns. */
export function filledSync<T>(start: () => NativeJob<void>, places: ResultPlaces, finish: () => T): T {
  try {
    start();
    return finish();
  } catch (error) {
    places.drop();
    throw error;
  }
}

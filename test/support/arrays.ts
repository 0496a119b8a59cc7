import { type NpyArray, readNpy } from '../../lib/checkpoint/npy.js';

/** A float32 array of a golden case. */
export function floats(file: string): { data: Float32Array; shape: number[] } {
  const { data, shape } = readNpy(file) as NpyArray & { data: Float32Array };
  if (!(data instanceof Float32Array)) throw new Error(`${file} is not float32`);
  return { data, shape };
}

/** The numbers of a golden case's array of either floating type. */
export function numbers(file: string): Float32Array | Float64Array {
  const { data } = readNpy(file);
  if (!(data instanceof Float32Array || data instanceof Float64Array))
    throw new Error(`${file} is not floating`);
  return data;
}

/** An int32 array of a golden case. */
export function integers(file: string): { data: Int32Array; shape: number[] } {
  const { data, shape } = readNpy(file) as NpyArray & { data: Int32Array };
  if (!(data instanceof Int32Array)) throw new Error(`${file} is not int32`);
  return { data, shape };
}

/** ||actual - expected|| / ||expected||, in L2; NaN anywhere gives NaN. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} elements against ${expected.length}`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return Math.sqrt(difference / norm);
}

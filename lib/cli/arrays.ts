import { readFileSync } from 'node:fs';
import { decodeNpy, encodeNpy, type NpyArray, readNpy, writeNpy } from '../checkpoint/npy.js';
import { TokenFlowError } from '../errors.js';
import { channelsFirst } from '../tokenizer/layout.js';

const FORMAT = 'ERR_TOKENFLOW_FORMAT';

/** Reads an array from a file, or from stdin for `-`. */
export function readArray(file: string): NpyArray {
  return file === '-' ? decodeNpy(readFileSync(0), 'stdin') : readNpy(file);
}

/** Writes an array to a file, or to stdout for `-`. */
export async function writeArray(file: string, array: NpyArray): Promise<void> {
  if (file !== '-') {
    writeNpy(file, array);
    return;
  }
  const bytes = encodeNpy(array);
  await new Promise<void>((resolve, reject) =>
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve())),
  );
}

/** A prepared image batch: float32 [B,3,size,size]. */
export function readImageTensor(file: string, size: number): Float32Array {
  const { data, shape } = readArray(file);
  const fits =
    data instanceof Float32Array &&
    shape.length === 4 &&
    shape[1] === 3 &&
    shape[2] === size &&
    shape[3] === size;
  if (fits && shape[0] > 0) return data;
  throw new TokenFlowError(
    FORMAT,
    `${file}: expected float32 [B, 3, ${size}, ${size}], the images of this model, but received ${data.constructor.name} [${shape.join(', ')}]`,
  );
}

/** Tokens of any integer type: [B,T], or [T] for one image. */
export function readTokens(file: string): { tokens: Int32Array; shape: number[] } {
  const { data, shape } = readArray(file);
  const floating = data instanceof Float32Array || data instanceof Float64Array;
  if (floating || shape.length < 1 || shape.length > 2 || data.length === 0) {
    throw new TokenFlowError(
      FORMAT,
      `${file}: expected tokens, integers of shape [B, T] or [T], but received ${data.constructor.name} [${shape.join(', ')}]`,
    );
  }
  const tokens = Int32Array.from(data as ArrayLike<number | bigint>, (token) => {
    const value = Number(token);
    if (value >= 0 && value <= 0x7fffffff) return value;
    throw new TokenFlowError(FORMAT, `${file}: expected tokens but received the number ${token}`);
  });
  return { tokens, shape: shape.length === 2 ? shape : [1, shape[0]] };
}

/** Features [B, g*g, D] as the array [B, D, g, g] that PyTorch has. */
export function featureMap(features: Float32Array, [batch, positions, width]: readonly number[]): NpyArray {
  const grid = Math.sqrt(positions);
  return { data: channelsFirst(features, batch, width), shape: [batch, width, grid, grid] };
}

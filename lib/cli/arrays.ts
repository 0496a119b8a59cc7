import { readFileSync, statSync } from 'node:fs';
import { decodeNpy, encodeNpy, type NpyArray, readNpy, writeNpy } from '../checkpoint/npy.js';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { channelsFirst } from '../tokenizer/layout.js';
import { readStdin, writeStdout } from './streams.js';

const FORMAT = 'ERR_TOKENFLOW_FORMAT';

/** Reads an array from a file or a pipe, or from stdin for `-`. */
export async function readArray(file: string): Promise<NpyArray> {
  if (file === '-') return decodeNpy(await readStdin(), 'stdin');
  const piped = readPipe(file);
  return piped ? decodeNpy(piped, file) : readNpy(file);
}

/** The content of a pipe, what a shell makes of `<(command)`; undefined for anything that is no pipe. */
function readPipe(file: string): Uint8Array | undefined {
  try {
    return statSync(file).isFIFO() ? readFileSync(file) : undefined;
  } catch (cause) {
    throw systemError('read', file, cause);
  }
}

/** Writes an array to a file, or to stdout for `-`. */
export async function writeArray(file: string, array: NpyArray): Promise<void> {
  if (file === '-') await writeStdout(encodeNpy(array));
  else writeNpy(file, array);
}

/** A prepared image batch: float32 [B,3,size,size]. */
export async function readImageTensor(file: string, size: number): Promise<Float32Array> {
  const { data, shape } = await readArray(file);
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
export async function readTokens(file: string): Promise<{ tokens: Int32Array; shape: number[] }> {
  const { data, shape } = await readArray(file);
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

import { writeFile } from 'node:fs/promises';
import { invalidArgument } from '../errors.js';
import { systemError } from '../system-error.js';
import { loadSharp } from './sharp.js';

/**
 * RGB pixels as the bytes of a PNG file.
 *
 * @param data `[height][width][3]`
 * @throws TokenFlowError `ERR_TOKENFLOW_IMAGE` when sharp is missing.
 */
export async function toPng(data: Uint8Array, width: number, height: number): Promise<Uint8Array> {
  if (!(data instanceof Uint8Array) || data.length !== width * height * 3)
    throw invalidArgument('data', `a Uint8Array of ${width} x ${height} x 3 samples`, data);
  return loadSharp()(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

/** Writes RGB pixels `[height][width][3]` as a PNG file. */
export async function writePng(
  file: string,
  image: { data: Uint8Array; width: number; height: number },
): Promise<void> {
  const png = await toPng(image.data, image.width, image.height);
  try {
    await writeFile(file, png);
  } catch (cause) {
    throw systemError('write', file, cause);
  }
}

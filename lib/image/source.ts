import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, invalidArgument, TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';

/** Pixels in memory: 8 bits per sample, interleaved, row by row from the top left. */
export interface RawImage {
  /** `height * width * channels` samples; canvas `ImageData` fits too. */
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
  /** 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; read off the length of `data` when left out. */
  channels?: 1 | 2 | 3 | 4;
}

/** A path, a `file:` URL, the bytes of an image file, or raw pixels. */
export type ImageSource = string | URL | Uint8Array | ArrayBuffer | RawImage;

/** How the samples of a decoded image are to be read. */
export type PixelLayout = 'grey' | 'grey-alpha' | 'rgb' | 'rgba' | 'cmyk';

/** Decoded pixels that nobody else holds, `[height][width][channels of layout]`. */
export interface Pixels {
  data: Uint8Array;
  width: number;
  height: number;
  layout: PixelLayout;
}

/** The longest side that is taken, in pixels: that of a JPEG. */
export const MAX_SIDE = 65535;

const LAYOUTS: Record<number, PixelLayout> = { 1: 'grey', 2: 'grey-alpha', 3: 'rgb', 4: 'rgba' };

/** The layout of `channels` interleaved samples, if there is one. */
export function layoutOf(channels: number): PixelLayout | undefined {
  return LAYOUTS[channels];
}

export function isRawImage(source: unknown): source is RawImage {
  return typeof source === 'object' && source !== null && 'data' in source && 'width' in source;
}

const names = new WeakMap<object, string>();

/** Gives bytes or pixels the name by which error messages call them. */
export function named<T extends object>(source: T, name: string): T {
  names.set(source, name);
  return source;
}

/** How a source is called in an error message. */
export function nameOf(source: ImageSource, index?: number): string {
  const given = typeof source === 'object' ? names.get(source) : undefined;
  if (given !== undefined) return given;
  if (typeof source === 'string') return `'${source}'`;
  if (source instanceof URL) return `'${source.href}'`;
  const kind = isRawImage(source) ? 'raw pixels' : describe(source);
  return index === undefined ? `the image (${kind})` : `image ${index} (${kind})`;
}

/** Refuses an image whose decoded size is out of bounds, before memory is spent on it. */
export function checkDimensions(width: number, height: number, maxPixels: number, name: string): void {
  if (width * height > maxPixels) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IMAGE',
      `Expected at most ${maxPixels} pixels but ${name} has ${width} x ${height} = ${width * height}; ` +
        'raise maxPixels (--max-pixels) if you trust where it comes from',
    );
  }
  if (Math.max(width, height) > MAX_SIDE) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IMAGE',
      `Expected sides of at most ${MAX_SIDE} pixels but ${name} has ${width} x ${height}; cut it into pieces first`,
    );
  }
}

/** Checks raw pixels and copies them, so that what the caller does next cannot change the result. */
export function copyRawImage(image: RawImage, maxPixels: number, name: string): Pixels {
  const { data, width, height } = image;
  for (const [key, side] of Object.entries({ width, height })) {
    if (!Number.isInteger(side) || side < 1)
      throw invalidArgument(`${key} of ${name}`, 'a positive integer', side);
  }
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray))
    throw invalidArgument(`data of ${name}`, 'a Uint8Array of 8-bit samples', data);
  checkDimensions(width, height, maxPixels, name);
  const channels = image.channels ?? data.length / (width * height);
  const layout = layoutOf(channels);
  if (!layout || data.length !== width * height * channels) {
    const wanted = layout ? `${channels}` : '1, 2, 3 or 4';
    throw invalidArgument(
      `data of ${name}`,
      `${wanted} samples for each of ${width} x ${height} pixels`,
      data,
    );
  }
  return { data: new Uint8Array(data), width, height, layout };
}

/** Reads an image file from the disk. */
export async function readImageFile(
  source: string | URL,
  name: string,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  if (typeof source === 'string' ? /^(https?|data|blob):/i.test(source) : source.protocol !== 'file:') {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected a path or a file: URL but received ${name}; fetch it and pass its bytes`,
    );
  }
  const file = typeof source === 'string' ? source : fileURLToPath(source);
  try {
    // Read here rather than by sharp, which keeps files open and may answer from its cache when one has changed.
    return await readFile(file, { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    throw systemError('read', file, cause);
  }
}

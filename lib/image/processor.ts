import { availableParallelism } from 'node:os';
import { checkOptions, invalidArgument } from '../errors.js';
import { native } from '../native.js';
import { DEFAULT_MAX_PIXELS, decode } from './decode.js';
import {
  copyRawImage,
  type ImageSource,
  isRawImage,
  nameOf,
  type Pixels,
  type RawImage,
  readImageFile,
} from './source.js';

/**
 * How a picture becomes a square of `size`:
 * - `crop`: the official evaluation. Halved with a BOX filter while the shorter side is at least twice `size`,
 *   resized with antialiased BICUBIC so that the shorter side is `size`, cropped at the centre.
 * - `squash`: BICUBIC to `size` x `size`, the aspect lost. What the understanding path reads.
 * - `pad`: centred in a square of grey (127), then as `squash`. What the instruction tuning read.
 */
export type Fit = 'crop' | 'squash' | 'pad';

export interface ImageProcessorOptions {
  /** Side of the result in pixels, 1 to 4096. */
  size: number;
  /** Default `crop`. */
  fit?: Fit;
  /** The most pixels an image may have, read off its header before anything is decoded. Default 178 956 970. */
  maxPixels?: number;
  /** Images of a batch that are decoded at once. Default: the processors, at most 4 (libuv's pool). */
  concurrency?: number;
}

/** RGB pixels, `[height][width][3]`. */
export interface PreparedImage {
  data: Uint8Array;
  width: number;
  height: number;
}

/** A prepared image and the size it had, upright, in pixels. */
export interface PreparedSource extends PreparedImage {
  original: { width: number; height: number };
}

/** RGB pixels of several images, `[count][height][width][3]`. */
export interface PreparedBatch extends PreparedImage {
  count: number;
}

const FITS: readonly Fit[] = ['crop', 'squash', 'pad'];
const MAX_SIZE = 4096;

/**
 * Turns image files and raw pixels into the RGB squares that a model reads, with the very pixels that Pillow gives
 * in the official evaluation. Decoding and resizing run off the JavaScript thread; one processor serves any number
 * of calls at once.
 *
 * Files are decoded by sharp (JPEG, PNG, WebP, GIF, TIFF, AVIF): EXIF orientation applied, alpha over white, CMYK
 * and 16 bits brought to 8-bit RGB, the first frame of an animation. As in the official evaluation, embedded colour
 * profiles are not applied.
 */
export class ImageProcessor {
  readonly size: number;
  readonly fit: Fit;
  readonly maxPixels: number;
  readonly concurrency: number;

  constructor(options: ImageProcessorOptions) {
    if (options === undefined) throw invalidArgument('the options of ImageProcessor', 'an object', options);
    checkOptions('ImageProcessor', options, ['size', 'fit', 'maxPixels', 'concurrency']);
    const {
      size,
      fit = 'crop',
      maxPixels = DEFAULT_MAX_PIXELS,
      concurrency = Math.min(4, availableParallelism()),
    } = options;
    if (!Number.isInteger(size) || size < 1 || size > MAX_SIZE)
      throw invalidArgument('size', `an integer from 1 to ${MAX_SIZE}`, size);
    if (!FITS.includes(fit)) throw invalidArgument('fit', FITS.map((f) => `'${f}'`).join(', '), fit);
    if (!Number.isSafeInteger(maxPixels) || maxPixels < 1)
      throw invalidArgument('maxPixels', 'a positive integer', maxPixels);
    if (!Number.isInteger(concurrency) || concurrency < 1)
      throw invalidArgument('concurrency', 'a positive integer', concurrency);
    this.size = size;
    this.fit = fit;
    this.maxPixels = maxPixels;
    this.concurrency = concurrency;
  }

  /**
   * One image; `name` is how messages call it.
   *
   * @throws TokenFlowError `ERR_TOKENFLOW_IO` when a file cannot be read, `ERR_TOKENFLOW_IMAGE` when it cannot be
   * decoded or is too large (or sharp is missing), `ERR_TOKENFLOW_INVALID_ARGUMENT` for anything else that is no
   * image; the signal's reason when aborted.
   */
  async prepare(
    source: ImageSource,
    options: { signal?: AbortSignal; name?: string } = {},
  ): Promise<PreparedSource> {
    checkOptions('prepare', options, ['signal', 'name']);
    const { signal, name = nameOf(source) } = options;
    return this.#prepare(this.#open(source, name, signal), signal);
  }

  /** Several images, decoded a few at a time, in the order given. The first failure fails the batch. */
  async prepareBatch(
    sources: readonly ImageSource[],
    options: { signal?: AbortSignal } = {},
  ): Promise<PreparedBatch> {
    if (!Array.isArray(sources)) throw invalidArgument('sources', 'an array of images', sources);
    checkOptions('prepareBatch', options, ['signal']);
    const { signal } = options;
    const { size } = this;
    const opened = sources.map((source, i) => this.#open(source, nameOf(source, i), signal));
    const data = new Uint8Array(sources.length * size * size * 3);
    let next = 0;
    const work = async () => {
      while (next < opened.length) {
        const i = next++;
        try {
          const square = (await this.#prepare(opened[i], signal)).data;
          data.set(square, i * size * size * 3);
          native().release(square);
        } catch (error) {
          next = opened.length;
          throw error;
        }
      }
    };
    await Promise.all(Array.from({ length: this.concurrency }, work));
    return { data, width: size, height: size, count: sources.length };
  }

  /** Raw pixels, on the calling thread: for worker threads. */
  prepareSync(image: RawImage): PreparedSource {
    if (!isRawImage(image))
      throw invalidArgument(
        'image',
        'raw pixels { data, width, height } (files are decoded only by prepare)',
        image,
      );
    const { data, width, height, layout } = copyRawImage(image, this.maxPixels, nameOf(image));
    const picture = native().prepareImageSync(data, width, height, layout, this.fit, this.size);
    return this.#result(picture, { width, height });
  }

  /** Checks the source and takes its own copy now; what it returns does the reading and decoding. */
  #open(source: ImageSource, name: string, signal?: AbortSignal): () => Promise<Pixels> {
    if (isRawImage(source)) {
      const pixels = copyRawImage(source, this.maxPixels, name);
      return async () => pixels;
    }
    if (source instanceof Uint8Array || source instanceof ArrayBuffer) {
      const bytes = new Uint8Array(source instanceof ArrayBuffer ? source.slice(0) : source);
      return () => this.#decode(bytes, name, signal);
    }
    if (typeof source === 'string' || source instanceof URL) {
      return async () => this.#decode(await readImageFile(source, name, signal), name, signal);
    }
    throw invalidArgument(
      'an image',
      'a path, a file: URL, the bytes of a file or { data, width, height }',
      source,
    );
  }

  /** Decodes bytes that nobody else holds. */
  async #decode(bytes: Uint8Array, name: string, signal?: AbortSignal): Promise<Pixels> {
    const pixels = await decode(bytes, name, this.maxPixels, signal);
    native().release(bytes);
    return pixels;
  }

  async #prepare(open: () => Promise<Pixels>, signal?: AbortSignal): Promise<PreparedSource> {
    signal?.throwIfAborted();
    const { data, width, height, layout } = await open();
    const picture = await native().prepareImage(data, width, height, layout, this.fit, this.size);
    signal?.throwIfAborted();
    return this.#result(picture, { width, height });
  }

  #result(data: Uint8Array, original: PreparedSource['original']): PreparedSource {
    return { data, width: this.size, height: this.size, original };
  }
}

import type { Sharp } from 'sharp';
import { TokenFlowError } from '../errors.js';
import { fileType, neverCmyk } from './file-type.js';
import { loadSharp } from './sharp.js';
import { checkDimensions, layoutOf, type PixelLayout, type Pixels } from './source.js';

/** The most pixels an image may have unless the caller raises it: where Pillow, too, refuses to decode. */
export const DEFAULT_MAX_PIXELS = 178_956_970;

/**
 * Decodes the bytes of an image file to 8-bit samples, the first frame only, turned upright by its EXIF tag.
 *
 * Pixels equal Pillow's: embedded colour profiles are not applied, 16-bit samples keep their high byte, CMYK
 * stays CMYK. Alpha is kept; whoever resizes lays it over white.
 *
 * @param name how the image is called in messages
 * @throws TokenFlowError `ERR_TOKENFLOW_IMAGE`: empty, unknown, damaged or truncated, or larger than allowed.
 */
export async function decode(
  bytes: Uint8Array,
  name: string,
  maxPixels: number,
  signal?: AbortSignal,
): Promise<Pixels> {
  if (bytes.length === 0)
    throw new TokenFlowError('ERR_TOKENFLOW_IMAGE', `Cannot decode ${name}: it has no bytes`);
  const sharp = loadSharp();
  const plain = neverCmyk(bytes) ? await decodePlain(bytes, maxPixels) : undefined;
  signal?.throwIfAborted();
  if (plain) {
    checkDimensions(plain.width, plain.height, maxPixels, name);
    return plain;
  }
  const metadata = await explained(sharp(bytes, { limitInputPixels: false }).metadata(), name, bytes);
  signal?.throwIfAborted();
  if (metadata.format === 'svg' || metadata.format === 'pdf') {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IMAGE',
      `Cannot decode ${name}: ${metadata.format.toUpperCase()} is drawn, not stored as pixels; render it to PNG first`,
    );
  }
  checkDimensions(metadata.width, metadata.height, maxPixels, name);

  const cmyk = metadata.space === 'cmyk' && metadata.channels === 4 && metadata.depth === 'uchar';
  const image = sharp(bytes, { ...AS_STORED, limitInputPixels: maxPixels });
  const { data, info } = await explained(
    toRaw(image, cmyk).toBuffer({ resolveWithObject: true }),
    name,
    bytes,
  );
  signal?.throwIfAborted();
  const layout: PixelLayout | undefined = cmyk ? 'cmyk' : layoutOf(info.channels);
  if (!layout || data.length !== info.width * info.height * (layout === 'cmyk' ? 4 : info.channels)) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IMAGE',
      `Cannot decode ${name}: expected grey, RGB or CMYK but it has ${info.channels} channels (${metadata.space}, ${metadata.depth})`,
    );
  }
  return { data, width: info.width, height: info.height, layout };
}

/**
 * Most files by far can be decoded without a look at their header first. Undefined for one that cannot: what is wrong with
 * it is found, and told, the thorough way.
 */
async function decodePlain(bytes: Uint8Array, maxPixels: number): Promise<Pixels | undefined> {
  const image = loadSharp()(bytes, { ...AS_STORED, limitInputPixels: maxPixels });
  try {
    const { data, info } = await toRaw(image, false).toBuffer({ resolveWithObject: true });
    const layout = layoutOf(info.channels);
    return layout && { data, width: info.width, height: info.height, layout };
  } catch {
    return undefined;
  }
}

const READABLE = 'JPEG, PNG, WebP, GIF, TIFF and AVIF';

const AS_STORED = { ignoreIcc: true, failOn: 'error' } as const;

function toRaw(image: Sharp, cmyk: boolean): Sharp {
  const upright = image.autoOrient();
  const coloured = cmyk
    ? upright.pipelineColourspace('cmyk').toColourspace('cmyk') // converted as Pillow does, not by a press profile
    : upright.toColourspace('srgb');
  return coloured.raw({ depth: 'uchar' });
}

async function explained<T>(work: Promise<T>, name: string, bytes: Uint8Array): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const reason = (cause as Error).message.trim().split('\n').at(-1)?.replace(/:$/, '') ?? '';
    const type = fileType(bytes);
    const unknown = /unsupported image format/.test(reason);
    let what = `the file is damaged or cut off (${reason})`;
    if (type) what = `it is ${type}; ${READABLE} can be read`;
    else if (unknown) {
      what = `it is in no format that can be read (${READABLE}); its first bytes are ${firstBytes(bytes)}`;
    }
    throw new TokenFlowError('ERR_TOKENFLOW_IMAGE', `Cannot decode ${name}: ${what}`, { cause });
  }
}

function firstBytes(bytes: Uint8Array): string {
  const head = Buffer.from(bytes.subarray(0, 12));
  const printable = head.every((byte) => (byte >= 0x20 && byte < 0x7f) || byte === 0x0a || byte === 0x0d);
  return printable
    ? JSON.stringify(head.toString('latin1'))
    : head.toString('hex').replace(/..(?=.)/g, '$& ');
}

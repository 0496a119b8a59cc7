/** What files are, told by their first bytes. */

const hasAt = (bytes: Uint8Array, at: number, text: string): boolean =>
  [...text].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));

/** Magic numbers: `[offset, bytes as latin1, what it is]`. */
const MAGIC: readonly (readonly [number, string, string])[] = [
  [0, 'BM', 'a BMP image'],
  [0, '\0\0\x01\0', 'a Windows icon (ICO)'],
  [0, '8BPS', 'a Photoshop document (PSD)'],
  [0, '\0\0\0\x0cJXL ', 'a JPEG XL image'],
  [0, '\xff\x0a', 'a JPEG XL image'],
  [0, '\0\0\0\x0cjP  ', 'a JPEG 2000 image'],
  [0, '\xff\x4f\xff\x51', 'a JPEG 2000 image'],
  [0, 'v/1\x01', 'an OpenEXR image'],
  [0, '#?RADIANCE', 'a Radiance HDR image'],
  [0, 'SIMPLE  =', 'a FITS image'],
  [0, 'DDS ', 'a DDS texture'],
  [0, 'qoif', 'a QOI image'],
  [0, 'farbfeld', 'a farbfeld image'],
  [0, 'FUJIFILMCCD-RAW', 'a camera raw file'],
  [0, '%PDF', 'a PDF document'],
  [0, '%!PS', 'a PostScript document'],
  [0, 'PK\x03\x04', 'a zip archive'],
  [0, '\x1f\x8b', 'gzip data'],
  [0, '\x28\xb5\x2f\xfd', 'zstd data'],
  [0, '7z\xbc\xaf\x27\x1c', 'a 7z archive'],
  [257, 'ustar', 'a tar archive'],
  [0, '\x93NUMPY', 'a NumPy array; pass it with --tensor, or its data as { data, width, height }'],
  [0, '\x1aE\xdf\xa3', 'a Matroska or WebM film'],
  [0, 'OggS', 'an Ogg stream'],
  [0, 'version https://git-lfs', 'a Git LFS pointer: the image was not fetched; run git lfs pull'],
];

/** `ftyp` brands of ISO media files. AVIF is read; the rest is not. */
const BRANDS: readonly (readonly [RegExp, string])[] = [
  [/^(heic|heix|hevc|hevx|heim|heis|mif1|msf1)$/, 'a HEIC image'],
  [/^crx /, 'a camera raw file'],
  [/^(?!avi[fs])/, 'a film (MP4 or QuickTime)'],
];

/** What the bytes are, `a BMP image` for instance; undefined when nothing is known of them. */
export function fileType(bytes: Uint8Array): string | undefined {
  const known = MAGIC.find(([at, magic]) => hasAt(bytes, at, magic));
  if (known) return known[2];
  const head = Buffer.from(bytes.subarray(0, 512)).toString('latin1');
  if (/^P[1-7]\s/.test(head)) return 'a PNM image (PBM, PGM, PPM)';
  if (head.slice(4, 8) === 'ftyp') return BRANDS.find(([brand]) => brand.test(head.slice(8, 12)))?.[1];
  if (/^\s*<(!doctype html|html)/i.test(head)) return 'a web page: the download went wrong';
  return undefined;
}

/** Whether an image is of a kind whose pixels are never CMYK: PNG, GIF, WebP, or a JPEG of one or three components. */
export function neverCmyk(bytes: Uint8Array): boolean {
  if (hasAt(bytes, 0, '\x89PNG') || hasAt(bytes, 0, 'GIF8')) return true;
  if (hasAt(bytes, 0, 'RIFF') && hasAt(bytes, 8, 'WEBP')) return true;
  if (!hasAt(bytes, 0, '\xff\xd8')) return false;
  // Segments, each a marker and a length, up to the frame header (SOF0 to SOF15), which holds the number of components.
  for (
    let at = 2;
    at + 9 < bytes.length && bytes[at] === 0xff;
    at += 2 + bytes[at + 2] * 256 + bytes[at + 3]
  ) {
    const marker = bytes[at + 1];
    const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (frame) return bytes[at + 9] !== 4;
  }
  return false;
}

import { invalidArgument } from '../errors.js';
import { type ImageSource, isRawImage, type RawImage } from '../image/source.js';
import type { ImageBatch, ImageInput } from './types.js';

/** The images of an input, each by itself. */
export function imageList(images: ImageInput): ImageSource[] {
  const list = (Array.isArray(images) ? images : [images]) as readonly (ImageSource | ImageBatch)[];
  const single = list.flatMap((image) => {
    if (!isRawImage(image) || !('count' in image)) return [image as ImageSource];
    const { data, width, height, count } = image as ImageBatch;
    const bytes = width * height * 3;
    if (!(data instanceof Uint8Array) || data.length !== count * bytes) {
      throw invalidArgument(
        'an image batch',
        `a Uint8Array of ${count} x ${height} x ${width} x 3 samples`,
        data,
      );
    }
    return Array.from({ length: count }, (_, i): RawImage => {
      return { data: data.subarray(i * bytes, (i + 1) * bytes), width, height, channels: 3 };
    });
  });
  if (single.length === 0) throw invalidArgument('images', 'at least one image', images);
  return single;
}

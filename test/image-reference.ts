/**
 * Image preparation by its definition, to compare with: whole pictures, plain loops, nothing skipped. The
 * resampling is Pillow's (coefficients in double, rounded to 22 bits, x before y).
 */
import type { Fit } from '../lib/image/processor.js';
import type { RawImage } from '../lib/image/source.js';

interface Rgb {
  data: Uint8Array;
  width: number;
  height: number;
}

const FILTERS = {
  box: { support: 0.5, weight: (x: number) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bicubic: {
    support: 2,
    weight: (signed: number) => {
      const x = Math.abs(signed);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    },
  },
};

function resizeColumns({ data, width, height }: Rgb, out: number, filter: keyof typeof FILTERS): Rgb {
  const { support: base, weight } = FILTERS[filter];
  const scale = width / out;
  const spread = Math.max(scale, 1);
  const support = base * spread;
  const result = new Uint8Array(out * height * 3);
  for (let x = 0; x < out; x++) {
    const center = (x + 0.5) * scale;
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), width);
    const raw = Array.from({ length: end - begin }, (_, t) =>
      weight((t + begin - center + 0.5) * (1 / spread)),
    );
    const total = raw.reduce((sum, w) => sum + w, 0);
    const weights = raw.map((w) => Math.trunc((w / total) * 2 ** 22 + (w < 0 ? -0.5 : 0.5)));
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** 21;
        for (let t = begin; t < end; t++) sum += data[(y * width + t) * 3 + c] * weights[t - begin];
        result[(y * out + x) * 3 + c] = Math.min(Math.max(Math.floor(sum / 2 ** 22), 0), 255);
      }
    }
  }
  return { data: result, width: out, height };
}

function transpose({ data, width, height }: Rgb): Rgb {
  const result = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) result[(x * height + y) * 3 + c] = data[(y * width + x) * 3 + c];
    }
  }
  return { data: result, width: height, height: width };
}

function resize(image: Rgb, width: number, height: number, filter: keyof typeof FILTERS): Rgb {
  return transpose(resizeColumns(transpose(resizeColumns(image, width, filter)), height, filter));
}

/** A `width` x `height` part of the picture from (left, top); grey where it lies outside. */
function window({ data, width, height }: Rgb, left: number, top: number, columns: number, rows: number): Rgb {
  const result = new Uint8Array(columns * rows * 3).fill(127);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const [fromX, fromY] = [x + left, y + top];
      if (fromX < 0 || fromX >= width || fromY < 0 || fromY >= height) continue;
      for (let c = 0; c < 3; c++) result[(y * columns + x) * 3 + c] = data[(fromY * width + fromX) * 3 + c];
    }
  }
  return { data: result, width: columns, height: rows };
}

function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

function toRgb({ data, width, height, channels = 3 }: RawImage): Rgb {
  const result = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const alpha = channels % 2 === 0 ? data[i * channels + channels - 1] : 255;
    for (let c = 0; c < 3; c++) {
      const value = data[i * channels + (channels > 2 ? c : 0)];
      result[i * 3 + c] = Math.round((value * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return { data: result, width, height };
}

export function prepareReference(raw: RawImage, fit: Fit, size: number): Uint8Array {
  let image = toRgb(raw);
  if (fit === 'squash') return resize(image, size, size, 'bicubic').data;
  if (fit === 'pad') {
    const side = Math.max(image.width, image.height);
    const left = Math.floor((side - image.width) / 2);
    const top = Math.floor((side - image.height) / 2);
    return resize(window(image, -left, -top, side, side), size, size, 'bicubic').data;
  }
  while (Math.min(image.width, image.height) >= 2 * size)
    image = resize(image, Math.floor(image.width / 2), Math.floor(image.height / 2), 'box');
  const scale = size / Math.min(image.width, image.height);
  image = resize(
    image,
    roundHalfToEven(image.width * scale),
    roundHalfToEven(image.height * scale),
    'bicubic',
  );
  const left = Math.floor((image.width - size) / 2);
  const top = Math.floor((image.height - size) / 2);
  return window(image, left, top, size, size).data;
}

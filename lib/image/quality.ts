import { invalidArgument } from '../errors.js';

/** Pixels to compare: 8-bit samples, `[height][width][channels]`. */
export interface ComparedImage {
  data: Uint8Array;
  width: number;
  height: number;
  /** Default 3. */
  channels?: number;
}

const WINDOW = 7;

/** Peak signal-to-noise ratio in dB over all samples, peak 255; `Infinity` for equal images. */
export function psnr(a: ComparedImage, b: ComparedImage): number {
  checkPair(a, b);
  let sum = 0;
  for (let i = 0; i < a.data.length; i++) sum += (a.data[i] - b.data[i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / a.data.length));
}

/**
 * Mean structural similarity (Wang et al. 2004), 1 for equal images: uniform 7x7 windows that lie wholly inside,
 * sample covariance, K1 = 0.01, K2 = 0.03, range 255, mean over channels. These are scikit-image's defaults.
 *
 * @throws TokenFlowError when a side is shorter than 7 pixels.
 */
export function ssim(a: ComparedImage, b: ComparedImage): number {
  const channels = checkPair(a, b);
  const { width, height } = a;
  if (width < WINDOW || height < WINDOW)
    throw invalidArgument('images', `sides of at least ${WINDOW} pixels`, `${width} x ${height}`);
  let total = 0;
  for (let c = 0; c < channels; c++) total += channelSsim(a.data, b.data, width, height, channels, c);
  return total / channels;
}

function channelSsim(
  a: Uint8Array,
  b: Uint8Array,
  width: number,
  height: number,
  channels: number,
  channel: number,
): number {
  const area = WINDOW * WINDOW;
  const c1 = (0.01 * 255) ** 2;
  const c2 = (0.03 * 255) ** 2;
  const stride = width * channels;
  // Sums over the WINDOW rows above and including the current one, for every column: of a, b, aa, bb and ab. All
  // are integers below 2^53, so sliding them along loses nothing.
  const columns = Array.from({ length: 5 }, () => new Float64Array(width));
  const slide = (row: number, sign: 1 | -1) => {
    for (let x = 0, i = row * stride + channel; x < width; x++, i += channels) {
      const [p, q] = [a[i], b[i]];
      columns[0][x] += sign * p;
      columns[1][x] += sign * q;
      columns[2][x] += sign * p * p;
      columns[3][x] += sign * q * q;
      columns[4][x] += sign * p * q;
    }
  };
  let total = 0;
  for (let y = 0; y < height; y++) {
    slide(y, 1);
    if (y >= WINDOW) slide(y - WINDOW, -1);
    if (y < WINDOW - 1) continue;
    const sums = [0, 0, 0, 0, 0];
    for (let x = 0; x < width; x++) {
      for (let s = 0; s < 5; s++) sums[s] += columns[s][x] - (x >= WINDOW ? columns[s][x - WINDOW] : 0);
      if (x < WINDOW - 1) continue;
      const [sumA, sumB, sumAA, sumBB, sumAB] = sums;
      const meanA = sumA / area;
      const meanB = sumB / area;
      const varianceA = (sumAA - sumA * meanA) / (area - 1);
      const varianceB = (sumBB - sumB * meanB) / (area - 1);
      const covariance = (sumAB - sumA * meanB) / (area - 1);
      total +=
        ((2 * meanA * meanB + c1) * (2 * covariance + c2)) /
        ((meanA ** 2 + meanB ** 2 + c1) * (varianceA + varianceB + c2));
    }
  }
  return total / ((width - WINDOW + 1) * (height - WINDOW + 1));
}

/** Returns the channels that both images have. */
function checkPair(a: ComparedImage, b: ComparedImage): number {
  const channels = a.channels ?? 3;
  if (a.width !== b.width || a.height !== b.height || channels !== (b.channels ?? 3)) {
    throw invalidArgument(
      'the second image',
      `${a.width} x ${a.height} x ${channels} like the first`,
      `${b.width} x ${b.height} x ${b.channels ?? 3}`,
    );
  }
  for (const [name, image] of Object.entries({ 'the first image': a, 'the second image': b })) {
    const { data } = image;
    if (!(data instanceof Uint8Array) || data.length === 0 || data.length !== a.width * a.height * channels)
      throw invalidArgument(
        `data of ${name}`,
        `a Uint8Array of ${a.width} x ${a.height} x ${channels} samples`,
        data,
      );
  }
  return channels;
}

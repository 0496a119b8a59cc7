/** Conversions between the channel-first order of PyTorch and the channel-last order used inside. */
import type { ImageBatch, ImageTensor } from './types.js';

/** [B,C,N] -> [B,N,C], N being the positions of a map. */
export function channelsLast(data: Float32Array, batch: number, channels: number): Float32Array {
  const positions = data.length / (batch * channels);
  const result = new Float32Array(data.length);
  for (let b = 0; b < batch; b++) {
    const image = b * channels * positions;
    for (let c = 0; c < channels; c++) {
      const plane = image + c * positions;
      for (let n = 0; n < positions; n++) result[image + n * channels + c] = data[plane + n];
    }
  }
  return result;
}

/** [B,N,C] -> [B,C,N]. */
export function channelsFirst(data: Float32Array, batch: number, channels: number): Float32Array {
  const positions = data.length / (batch * channels);
  const result = new Float32Array(data.length);
  for (let b = 0; b < batch; b++) {
    const image = b * channels * positions;
    for (let c = 0; c < channels; c++) {
      const plane = image + c * positions;
      for (let n = 0; n < positions; n++) result[plane + n] = data[image + n * channels + c];
    }
  }
  return result;
}

/**
 * What `decode` gives for the tokens that `decodeTensor` gave `tensor` for, without running the decoder again: [-1, 1] to
 * 0..255, cut off beyond, to the nearest byte; 0 for what is not a number.
 */
export function imageBatch({ data, shape: [count, channels, height, width] }: ImageTensor): ImageBatch {
  const bytes = Uint8ClampedArray.from(
    channelsLast(data, count, channels),
    (value) => Math.floor(Math.fround(Math.fround(127.5 * value) + 128)), // in fp32, as the decoder's last step does
  );
  return { data: new Uint8Array(bytes.buffer), width, height, count };
}

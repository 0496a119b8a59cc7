/** Conversions between the channel-first order of PyTorch and the channel-last order used inside. */

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

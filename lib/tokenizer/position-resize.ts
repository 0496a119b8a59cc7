/** Weight of the four neighbours at a fraction t past the second: cubic convolution with a = -0.75. */
function cubicWeights(t: number): [number, number, number, number] {
  const a = -0.75;
  const near = (x: number) => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x: number) => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return [far(t + 1), near(t), near(1 - t), far(2 - t)];
}

/**
 * Resizes a learned position table from a `from`x`from` to a `to`x`to` grid as the official model does at another image
 * size: bicubic with the scale factor (to + 0.1) / from, so that source = (i + 0.5) * from / (to + 0.1) - 0.5, borders
 * clamped. (That is not the same as resizing to `to`; the 0.1 was there against rounding in the output size.)
 *
 * @param table [leading + from * from, channels]; the leading rows (a class token's) are kept as they are
 * @returns [leading + to * to, channels]
 */
export function resizePositionTable(
  table: Float32Array,
  { leading, from, to, channels }: { leading: number; from: number; to: number; channels: number },
): Float32Array {
  const result = new Float32Array((leading + to * to) * channels);
  result.set(table.subarray(0, leading * channels));
  const taps = Array.from({ length: to }, (_, i) => {
    const source = ((i + 0.5) * from) / (to + 0.1) - 0.5;
    const first = Math.floor(source);
    return {
      rows: [-1, 0, 1, 2].map((k) => Math.min(Math.max(first + k, 0), from - 1)),
      weights: cubicWeights(source - first),
    };
  });
  for (let y = 0; y < to; y++) {
    for (let x = 0; x < to; x++) {
      const target = (leading + y * to + x) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let j = 0; j < 4; j++) {
          let row = 0;
          for (let i = 0; i < 4; i++) {
            const source = (leading + taps[y].rows[j] * from + taps[x].rows[i]) * channels + c;
            row += taps[x].weights[i] * table[source];
          }
          sum += taps[y].weights[j] * row;
        }
        result[target + c] = sum;
      }
    }
  }
  return result;
}

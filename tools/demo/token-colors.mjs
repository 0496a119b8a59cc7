/**
 * Colours for tokens: what a code adds to the colour of the place it stands for.
 *
 * The pixel halves of the codes at a place are summed over the scales, and the decoder makes a patch of the sum. The
 * mean colour of a patch is close to a linear function of that sum, so it is fitted by least squares, and a single
 * code is shown as the function's value for it alone, stretched until the range of colours is filled.
 */

/** Solves `a x = b` for symmetric positive definite `a` `[n][n]` and several right-hand sides `b` `[n][m]`, in place. */
function solve(a, b) {
  const n = a.length;
  for (let i = 0; i < n; i++) {
    for (let r = 0; r < n; r++) {
      if (r === i) continue;
      const factor = a[r][i] / a[i][i];
      for (let c = i; c < n; c++) a[r][c] -= factor * a[i][c];
      for (let c = 0; c < b[r].length; c++) b[r][c] -= factor * b[i][c];
    }
  }
  return b.map((row, i) => row.map((value) => value / a[i][i]));
}

/** Mean RGB of each cell of a `grid` x `grid` division: `[grid * grid][3]`. */
function cellColors({ data, width, height }, grid) {
  const colors = Array.from({ length: grid * grid }, () => [0, 0, 0]);
  const [cellWidth, cellHeight] = [width / grid, height / grid];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const color = colors[Math.floor(y / cellHeight) * grid + Math.floor(x / cellWidth)];
      for (let c = 0; c < 3; c++) color[c] += data[3 * (y * width + x) + c] / (cellWidth * cellHeight);
    }
  }
  return colors;
}

/**
 * @param codes the codebook's pixel half, unit vectors, `[K][dim]`
 * @param samples features `[grid * grid][width]`, of which the last `dim` are the pixel half, and the picture decoded
 * from them, for several pictures
 * @param tokens all tokens that are going to be shown
 * @returns a function from tokens to their colours, `[tokens][3]`
 */
export function tokenColors(codes, dim, samples, grid, tokens) {
  // Least squares of the cells' colours on the summed codes and a constant, with a trace of ridge.
  const n = dim + 1;
  const a = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => (i === j ? 1e-3 : 0)));
  const b = Array.from({ length: n }, () => [0, 0, 0]);
  for (const { features, picture } of samples) {
    const width = features.length / (grid * grid);
    cellColors(picture, grid).forEach((color, cell) => {
      const x = [...features.subarray((cell + 1) * width - dim, (cell + 1) * width), 1];
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) a[i][j] += x[i] * x[j];
        for (let c = 0; c < 3; c++) b[i][c] += x[i] * color[c];
      }
    });
  }
  const weights = solve(a, b);

  const shift = (token, c) => {
    let sum = 0;
    for (let i = 0; i < dim; i++) sum += weights[i][c] * codes[token * dim + i];
    return sum;
  };
  const middle = weights[dim];
  const shifts = Array.from(tokens, (token) => Math.max(...[0, 1, 2].map((c) => Math.abs(shift(token, c)))));
  const gain = 127 / shifts.sort((p, q) => p - q)[Math.floor(0.98 * (shifts.length - 1))];

  return (shown) => {
    const colors = new Uint8ClampedArray(shown.length * 3);
    shown.forEach((token, i) => {
      for (let c = 0; c < 3; c++) colors[3 * i + c] = middle[c] + gain * shift(token, c);
    });
    return new Uint8Array(colors.buffer);
  };
}

/** Every op of lib/graph/ops.ts as naive loops in float64: what native programs are compared with. */
import type { Activation, Graph, Op, WeightRef } from '../lib/graph/ops.js';

type Weights = ReadonlyMap<string, Float32Array>;
type Values = ArrayLike<number>;

const elements = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const last = (shape: readonly number[]) => shape[shape.length - 1];
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** Series near 0, continued fraction of erfc (Lentz) further out. */
export function erf(x: number): number {
  if (Math.abs(x) < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  const t = Math.abs(x);
  let fraction = t;
  for (let n = 60; n > 0; n--) fraction = t + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-t * t) / Math.sqrt(Math.PI) / fraction);
}

export const ACTIVATIONS: Record<Activation, (x: number) => number> = {
  none: (x) => x,
  tanh: Math.tanh,
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  swish: (x) => x * sigmoid(x),
};

function cubic(distance: number): number {
  const a = -0.75;
  const x = Math.abs(distance);
  if (x <= 1) return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1;
  return x < 2 ? a * (x ** 3 - 5 * x ** 2 + 8 * x - 4) : 0;
}

function bicubic(
  x: Values,
  [batch, height, width, channels]: readonly number[],
  to: readonly [number, number],
) {
  const y = new Float64Array(batch * to[0] * to[1] * channels);
  const clamp = (i: number, size: number) => Math.min(Math.max(i, 0), size - 1);
  let at = 0;
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < to[0]; i++) {
      const v = ((i + 0.5) * height) / to[0] - 0.5;
      for (let j = 0; j < to[1]; j++) {
        const h = ((j + 0.5) * width) / to[1] - 0.5;
        for (let c = 0; c < channels; c++) {
          for (let p = Math.floor(v) - 1; p <= Math.floor(v) + 2; p++) {
            for (let q = Math.floor(h) - 1; q <= Math.floor(h) + 2; q++) {
              const from = (b * height + clamp(p, height)) * width + clamp(q, width);
              y[at] += x[from * channels + c] * cubic(v - p) * cubic(h - q);
            }
          }
          at++;
        }
      }
    }
  }
  return y;
}

function areaPool(x: Values, [batch, grid, , channels]: readonly number[], size: number) {
  const y = new Float64Array(batch * size * size * channels);
  const begin = (i: number) => Math.floor((i * grid) / size);
  const end = (i: number) => Math.ceil(((i + 1) * grid) / size);
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        const area = (end(i) - begin(i)) * (end(j) - begin(j));
        for (let p = begin(i); p < end(i); p++) {
          for (let q = begin(j); q < end(j); q++) {
            for (let c = 0; c < channels; c++) {
              y[((b * size + i) * size + j) * channels + c] +=
                x[((b * grid + p) * grid + q) * channels + c] / area;
            }
          }
        }
      }
    }
  }
  return y;
}

/** The rows of all codebooks side by side, each part of unit length. */
function codes(weights: Weights, names: readonly string[], width: number): Float64Array[] {
  const tables = names.map((name) => weights.get(name)!);
  const count = tables.reduce((sum, table) => sum + table.length, 0) / width;
  return Array.from({ length: count }, (_, i) => {
    const row = tables.flatMap((table) => {
      const part = [...table.subarray((i * table.length) / count, ((i + 1) * table.length) / count)];
      const norm = Math.hypot(...part);
      return part.map((v) => v / norm);
    });
    return Float64Array.from(row);
  });
}

function unitParts(row: Float64Array, widths: readonly number[]): Float64Array {
  const unit = row.slice();
  let at = 0;
  for (const width of widths) {
    const norm = Math.hypot(...row.subarray(at, at + width));
    for (let i = 0; i < width; i++) unit[at + i] /= norm;
    at += width;
  }
  return unit;
}

export function runReference(graph: Graph, weights: Weights, inputs: Record<string, Values>): Values[] {
  const values: Values[] = [];
  const shape = (id: number) => graph.values[id].shape;
  for (const [name, id] of Object.entries(graph.inputs)) values[id] = inputs[name];
  const weight = (name: string) => {
    const found = weights.get(name);
    if (!found) throw new Error(`no weight '${name}'`);
    return found;
  };
  const joined = (ref: WeightRef | undefined, count: number): Values => {
    if (ref === undefined) return new Float64Array(count);
    const names = typeof ref === 'string' ? [ref] : ref;
    return names.flatMap((name) =>
      name === null ? new Array<number>(count / names.length).fill(0) : [...weight(name)],
    );
  };
  const finish = (
    y: Float64Array,
    bias: Values,
    { activation = 'none', residual }: { activation?: Activation; residual?: number },
  ) =>
    y.map(
      (v, i) =>
        ACTIVATIONS[activation](v + bias[i % bias.length]) +
        (residual === undefined ? 0 : values[residual][i]),
    );

  const run = (op: Op): void => {
    switch (op.op) {
      case 'pixels_to_float':
        values[op.y] = Float64Array.from(values[op.x], (v) => (v / 255 - 0.5) / 0.5);
        return;
      case 'float_to_pixels':
        values[op.y] = Float64Array.from(values[op.x], (v) =>
          Math.trunc(Math.min(Math.max(Math.fround(Math.fround(127.5 * v) + 128), 0), 255)),
        );
        return;
      case 'scale_input': {
        const channels = last(shape(op.x));
        values[op.y] = Float64Array.from(values[op.x], (v, i) => {
          const unit = Math.min(Math.max((v + 1) * 127.5, 0), 255) / 255;
          return (unit - weight(op.shift)[i % channels]) / weight(op.scale)[i % channels];
        });
        return;
      }
      case 'conv2d': {
        const [batch, height, width, cin] = shape(op.x);
        const [, outHeight, outWidth, cout] = shape(op.y);
        const { kernel, stride, padding, upsample = 1 } = op;
        const w = weight(op.weight);
        const x = values[op.x];
        const y = new Float64Array(elements(shape(op.y)));
        let at = 0;
        for (let b = 0; b < batch; b++) {
          for (let i = 0; i < outHeight; i++) {
            for (let j = 0; j < outWidth; j++) {
              for (let o = 0; o < cout; o++, at++) {
                for (let p = 0; p < kernel; p++) {
                  for (let q = 0; q < kernel; q++) {
                    const v = i * stride + p - padding[0];
                    const h = j * stride + q - padding[1];
                    if (v < 0 || h < 0 || v >= height * upsample || h >= width * upsample) continue;
                    const pixel = (b * height + Math.floor(v / upsample)) * width + Math.floor(h / upsample);
                    for (let c = 0; c < cin; c++) {
                      y[at] += x[pixel * cin + c] * w[((o * cin + c) * kernel + p) * kernel + q];
                    }
                  }
                }
              }
            }
          }
        }
        values[op.y] = finish(y, joined(op.bias, cout), op);
        return;
      }
      case 'linear': {
        const cin = last(shape(op.x));
        const cout = last(shape(op.y));
        const w = joined(op.weight, cin * cout);
        const x = values[op.x];
        const y = new Float64Array(elements(shape(op.y))).map((_, i) => {
          const row = Math.floor(i / cout) * cin;
          let sum = 0;
          for (let c = 0; c < cin; c++) sum += x[row + c] * w[(i % cout) * cin + c];
          return sum;
        });
        values[op.y] = finish(y, joined(op.bias, cout), op);
        return;
      }
      case 'group_norm': {
        const channels = last(shape(op.x));
        const batch = shape(op.x)[0];
        const map = elements(shape(op.x)) / batch;
        const group = (i: number) =>
          Math.floor(i / map) * op.groups + Math.floor(((i % channels) * op.groups) / channels);
        const x = Float64Array.from(values[op.x]);
        const count = map / op.groups;
        const mean = new Float64Array(batch * op.groups);
        const variance = new Float64Array(batch * op.groups);
        x.forEach((v, i) => {
          mean[group(i)] += v / count;
        });
        x.forEach((v, i) => {
          variance[group(i)] += (v - mean[group(i)]) ** 2 / count;
        });
        values[op.y] = x.map((v, i) => {
          const g = group(i);
          const unit = (v - mean[g]) / Math.sqrt(variance[g] + op.epsilon);
          const y = unit * weight(op.weight)[i % channels] + weight(op.bias)[i % channels];
          return op.swish ? y * sigmoid(y) : y;
        });
        return;
      }
      case 'layer_norm': {
        const channels = last(shape(op.x));
        const y = Float64Array.from(values[op.x]);
        for (let at = 0; at < y.length; at += channels) {
          const row = y.subarray(at, at + channels);
          const mean = row.reduce((a, b) => a + b, 0) / channels;
          const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / channels;
          row.forEach((v, c) => {
            row[c] =
              ((v - mean) / Math.sqrt(variance + op.epsilon)) * weight(op.weight)[c] + weight(op.bias)[c];
          });
        }
        values[op.y] = y;
        return;
      }
      case 'attention': {
        const [batch, length, channels] = shape(op.y);
        const width = channels / op.heads;
        const x = values[op.x];
        const y = new Float64Array(elements(shape(op.y)));
        for (let b = 0; b < batch; b++) {
          const row = (i: number, part: number, head: number) =>
            ((b * length + i) * 3 + part) * channels + head * width;
          for (let head = 0; head < op.heads; head++) {
            for (let i = 0; i < length; i++) {
              const scores = Array.from({ length }, (_, j) => {
                let dot = 0;
                for (let c = 0; c < width; c++) dot += x[row(i, 0, head) + c] * x[row(j, 1, head) + c];
                return dot * op.scale;
              });
              const top = Math.max(...scores);
              const shares = scores.map((score) => Math.exp(score - top));
              const total = shares.reduce((a, v) => a + v, 0);
              for (let c = 0; c < width; c++) {
                y[(b * length + i) * channels + head * width + c] =
                  shares.reduce((sum, share, j) => sum + share * x[row(j, 2, head) + c], 0) / total;
              }
            }
          }
        }
        values[op.y] = y;
        return;
      }
      case 'prepend_token': {
        const [batch, length, channels] = shape(op.x);
        const x = Float64Array.from(values[op.x]);
        const y = new Float64Array(elements(shape(op.y)));
        for (let b = 0; b < batch; b++) {
          y.set(weight(op.token), b * (length + 1) * channels);
          y.set(
            x.subarray(b * length * channels, (b + 1) * length * channels),
            (b * (length + 1) + 1) * channels,
          );
        }
        values[op.y] = y;
        return;
      }
      case 'add_table': {
        const table = weight(op.table);
        values[op.y] = Float64Array.from(values[op.x], (v, i) => v + table[i % table.length]);
        return;
      }
      case 'slice_tokens': {
        const [, length, channels] = shape(op.x);
        values[op.y] = Float64Array.from({ length: elements(shape(op.y)) }, (_, i) => {
          const b = Math.floor(i / (op.count * channels));
          return values[op.x][(b * length + op.start) * channels + (i % (op.count * channels))];
        });
        return;
      }
      case 'slice_channels': {
        const channels = last(shape(op.x));
        values[op.y] = Float64Array.from(
          { length: elements(shape(op.y)) },
          (_, i) => values[op.x][Math.floor(i / op.count) * channels + op.start + (i % op.count)],
        );
        return;
      }
      case 'concat_channels': {
        const rows = elements(shape(op.y)) / last(shape(op.y));
        const parts = op.xs.map((x) => Float64Array.from(values[x]));
        const joinedRows = Array.from({ length: rows }, (_, row) =>
          op.xs.flatMap((x, i) => {
            const channels = last(shape(x));
            return [...parts[i].subarray(row * channels, (row + 1) * channels)];
          }),
        );
        values[op.y] = Float64Array.from(joinedRows.flat());
        return;
      }
      case 'reshape':
        values[op.y] = values[op.x];
        return;
      case 'resize_bicubic':
        values[op.y] = bicubic(values[op.x], shape(op.x), [op.height, op.width]);
        return;
      case 'multiscale_encode': {
        const [batch, grid, , width] = shape(op.x);
        const book = codes(weights, op.codebooks, width);
        const widths = op.codebooks.map((name) => weight(name).length / book.length);
        const residual = Float64Array.from(values[op.x]);
        const sum = new Float64Array(residual.length);
        const total = op.scales.reduce((a, s) => a + s * s, 0);
        const tokens = new Int32Array(batch * total);
        let before = 0;
        for (const scale of op.scales) {
          const pooled = areaPool(residual, shape(op.x), scale);
          for (let i = 0; i < batch * scale * scale; i++) {
            const unit = unitParts(pooled.subarray(i * width, (i + 1) * width), widths);
            let best = -1;
            let score = -Infinity;
            book.forEach((code, n) => {
              const dot = code.reduce((a, v, c) => a + v * unit[c], 0);
              if (dot > score) [best, score] = [n, dot];
            });
            const image = Math.floor(i / (scale * scale));
            tokens[image * total + before + (i % (scale * scale))] = best;
            pooled.set(book[best], i * width);
          }
          bicubic(pooled, [batch, scale, scale, width], [grid, grid]).forEach((v, i) => {
            sum[i] += v;
            residual[i] -= v;
          });
          before += scale * scale;
        }
        values[op.tokens] = tokens;
        values[op.sum] = sum;
        return;
      }
      case 'multiscale_decode': {
        const [batch, , , width] = shape(op.y);
        const book = codes(weights, op.codebooks, width);
        const y = new Float64Array(elements(shape(op.y)));
        const total = shape(op.tokens)[1];
        let before = 0;
        for (const scale of op.scales) {
          const map = new Float64Array(batch * scale * scale * width);
          for (let i = 0; i < batch * scale * scale; i++) {
            const image = Math.floor(i / (scale * scale));
            map.set(book[values[op.tokens][image * total + before + (i % (scale * scale))]], i * width);
          }
          bicubic(map, [batch, scale, scale, width], [op.grid, op.grid]).forEach((v, i) => {
            y[i] += v;
          });
          before += scale * scale;
        }
        values[op.y] = y;
      }
    }
  };
  for (const op of graph.ops) run(op);
  return values;
}

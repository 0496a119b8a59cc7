import { TokenFlowError } from '../errors.js';
import type { Activation, DType, Graph, GraphValue, Op, ValueId, WeightRef, WeightShapes } from './ops.js';

/** A value of a graph under construction: a handle with its static shape, batch first. */
export interface Value {
  readonly id: ValueId;
  readonly shape: readonly number[];
  readonly dtype: DType;
}

export interface BuiltGraph {
  readonly graph: Graph;
  /** Every weight the graph names, in the checkpoint's layout. */
  readonly weights: WeightShapes;
}

export type Padding = number | readonly [top: number, left: number, bottom: number, right: number];

export interface Conv2dOptions {
  /** Output channels. */
  out: number;
  kernel: number;
  stride?: number;
  padding?: Padding;
  /** 2 repeats every pixel to 2x2 before the convolution. */
  upsample?: 1 | 2;
  bias?: boolean;
  activation?: Activation;
  residual?: Value;
}

export interface LinearOptions {
  /** One weight of `out` rows, or several that each give an equal share of them. */
  weight: string | readonly string[];
  /** As `weight`; null in a list stands for a share of zeros. */
  bias?: WeightRef;
  out: number;
  /** The checkpoint keeps the weight as a 1x1 convolution, `[out, in, 1, 1]`. */
  pointwise?: boolean;
  activation?: Activation;
  residual?: Value;
}

function wrong(where: string, expected: string, received: string): TokenFlowError {
  return new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Graph: expected ${expected} for ${where} but received ${received}`,
  );
}

const show = (shape: readonly number[]): string => `[${shape.join(', ')}]`;
const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/**
 * Writes a graph op by op, infers every shape, checks every operand, and records each weight with the shape it must
 * have. So the graph itself is the list of what a checkpoint has to hold.
 */
export class GraphBuilder {
  /** Images per run: the first axis of every value. */
  readonly batch: number;
  readonly #values: GraphValue[] = [];
  readonly #ops: Op[] = [];
  readonly #inputs: Record<string, ValueId> = {};
  readonly #outputs: Record<string, ValueId> = {};
  readonly #weights = new Map<string, readonly number[]>();

  constructor(batch: number) {
    if (!Number.isInteger(batch) || batch < 1) throw wrong('the batch', 'an integer over 0', String(batch));
    this.batch = batch;
  }

  /** A value the caller hands over at each run; `shape` without the batch. */
  input(name: string, shape: readonly number[], dtype: DType = 'f32'): Value {
    if (name in this.#inputs) throw wrong('inputs', 'distinct names', `'${name}' twice`);
    const value = this.#value([this.batch, ...shape], dtype);
    this.#inputs[name] = value.id;
    return value;
  }

  /** A value the caller receives after each run. */
  output(name: string, value: Value): void {
    this.#own('output', value);
    if (name in this.#outputs) throw wrong('outputs', 'distinct names', `'${name}' twice`);
    this.#outputs[name] = value.id;
  }

  build(): BuiltGraph {
    if (Object.keys(this.#outputs).length === 0) throw wrong('outputs', 'at least one', 'none');
    return {
      graph: { values: this.#values, ops: this.#ops, inputs: this.#inputs, outputs: this.#outputs },
      weights: this.#weights,
    };
  }

  /** u8 [B,H,W,3] in 0..255 -> f32 in [-1, 1]. */
  pixelsToFloat(x: Value): Value {
    this.#expect('pixelsToFloat', x, 4, 'u8');
    const y = this.#value(x.shape, 'f32');
    this.#ops.push({ op: 'pixels_to_float', x: x.id, y: y.id });
    return y;
  }

  /** f32 [B,H,W,3] about [-1, 1] -> u8: trunc(clamp(127.5 x + 128, 0, 255)). */
  floatToPixels(x: Value): Value {
    this.#expect('floatToPixels', x, 4);
    const y = this.#value(x.shape, 'u8');
    this.#ops.push({ op: 'float_to_pixels', x: x.id, y: y.id });
    return y;
  }

  /** [-1, 1] -> [0, 1], clamped, then (x - shift) / scale per channel; both named under `prefix`, shape [1,3,1,1]. */
  scaleInput(x: Value, prefix: string): Value {
    this.#expect('scaleInput', x, 4);
    const shift = this.#weight(`${prefix}.shift`, [1, x.shape[3], 1, 1]);
    const scale = this.#weight(`${prefix}.scale`, [1, x.shape[3], 1, 1]);
    const y = this.#value(x.shape, 'f32');
    this.#ops.push({ op: 'scale_input', x: x.id, y: y.id, shift, scale });
    return y;
  }

  /** [B,H,W,Cin] -> [B,Ho,Wo,out] with the weights `prefix`.weight and, unless `bias` is false, `prefix`.bias. */
  conv2d(x: Value, prefix: string, options: Conv2dOptions): Value {
    this.#expect(prefix, x, 4);
    const { out, kernel, stride = 1, upsample = 1, bias = true, activation, residual } = options;
    const given = options.padding ?? 0;
    const padding = typeof given === 'number' ? ([given, given, given, given] as const) : given;
    const [batch, height, width, channels] = x.shape;
    const extent = (size: number, before: number, after: number) =>
      Math.floor((size * upsample + before + after - kernel) / stride) + 1;
    const shape = [batch, extent(height, padding[0], padding[2]), extent(width, padding[1], padding[3]), out];
    if (shape[1] < 1 || shape[2] < 1) {
      throw wrong(prefix, `a map of at least ${kernel}x${kernel}`, show(x.shape));
    }
    this.#sameShape(prefix, residual, shape);
    const y = this.#value(shape, 'f32');
    this.#ops.push({
      op: 'conv2d',
      x: x.id,
      y: y.id,
      weight: this.#weight(`${prefix}.weight`, [out, channels, kernel, kernel]),
      ...(bias ? { bias: this.#weight(`${prefix}.bias`, [out]) } : {}),
      kernel,
      stride,
      padding,
      upsample,
      activation: activation ?? 'none',
      ...(residual ? { residual: residual.id } : {}),
    });
    return y;
  }

  /** [..., Cin] -> [..., out]. */
  linear(x: Value, options: LinearOptions): Value {
    const { weight, bias, out, pointwise = false, activation, residual } = options;
    const where = typeof weight === 'string' ? weight : weight.join(' + ');
    this.#expect(where, x, undefined);
    const channels = x.shape[x.shape.length - 1];
    const tail = pointwise ? [channels, 1, 1] : [channels];
    const shape = [...x.shape.slice(0, -1), out];
    this.#sameShape(where, residual, shape);
    const y = this.#value(shape, 'f32');
    this.#ops.push({
      op: 'linear',
      x: x.id,
      y: y.id,
      weight: this.#parts(weight, out, tail),
      ...(bias === undefined ? {} : { bias: this.#parts(bias, out, []) }),
      activation: activation ?? 'none',
      ...(residual ? { residual: residual.id } : {}),
    });
    return y;
  }

  /** Over [B,H,W,C] or [B,L,C], statistics per image and group; then x sigmoid(x) if `swish`. */
  groupNorm(
    x: Value,
    prefix: string,
    { groups, epsilon, swish }: { groups: number; epsilon: number; swish: boolean },
  ): Value {
    this.#expect(prefix, x, undefined);
    const channels = x.shape[x.shape.length - 1];
    if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
      throw wrong(prefix, `a number of groups that divides ${channels} channels`, String(groups));
    }
    const y = this.#value(x.shape, 'f32');
    const weight = this.#weight(`${prefix}.weight`, [channels]);
    const bias = this.#weight(`${prefix}.bias`, [channels]);
    this.#ops.push({ op: 'group_norm', x: x.id, y: y.id, weight, bias, groups, epsilon, swish });
    return y;
  }

  /** Over the last axis. */
  layerNorm(x: Value, prefix: string, epsilon: number): Value {
    this.#expect(prefix, x, undefined);
    const channels = x.shape[x.shape.length - 1];
    const y = this.#value(x.shape, 'f32');
    const weight = this.#weight(`${prefix}.weight`, [channels]);
    const bias = this.#weight(`${prefix}.bias`, [channels]);
    this.#ops.push({ op: 'layer_norm', x: x.id, y: y.id, weight, bias, epsilon });
    return y;
  }

  /** qkv [B,L,3C] -> [B,L,C]; the scale is 1 / sqrt(C / heads). */
  attention(qkv: Value, heads: number): Value {
    this.#expect('attention', qkv, 3);
    const channels = qkv.shape[2] / 3;
    if (!Number.isInteger(channels) || !Number.isInteger(heads) || heads < 1 || channels % heads !== 0) {
      throw wrong('attention', `q, k and v of a width that ${heads} heads divide`, show(qkv.shape));
    }
    const y = this.#value([qkv.shape[0], qkv.shape[1], channels], 'f32');
    this.#ops.push({ op: 'attention', x: qkv.id, y: y.id, heads, scale: 1 / Math.sqrt(channels / heads) });
    return y;
  }

  /** [B,L,C] -> [B,L+1,C], the learned token first. `shape` is the checkpoint's for it. */
  prependToken(x: Value, token: string, shape: readonly number[]): Value {
    this.#expect(token, x, 3);
    if (elements(shape) !== x.shape[2]) throw wrong(token, `${x.shape[2]} elements`, show(shape));
    const y = this.#value([x.shape[0], x.shape[1] + 1, x.shape[2]], 'f32');
    this.#ops.push({ op: 'prepend_token', x: x.id, y: y.id, token: this.#weight(token, shape) });
    return y;
  }

  /** x [B,L,C] plus the same [L,C] table for every image. `shape` is the checkpoint's for it. */
  addTable(x: Value, table: string, shape: readonly number[] = x.shape.slice(1)): Value {
    this.#expect(table, x, 3);
    if (elements(shape) !== x.shape[1] * x.shape[2]) {
      throw wrong(table, `a table of ${show(x.shape.slice(1))}`, show(shape));
    }
    const y = this.#value(x.shape, 'f32');
    this.#ops.push({ op: 'add_table', x: x.id, y: y.id, table: this.#weight(table, shape) });
    return y;
  }

  /** [B,L,C] -> [B,count,C]. */
  sliceTokens(x: Value, start: number, count = x.shape[1] - start): Value {
    this.#expect('sliceTokens', x, 3);
    this.#range('sliceTokens', x.shape[1], start, count);
    const y = this.#value([x.shape[0], count, x.shape[2]], 'f32');
    this.#ops.push({ op: 'slice_tokens', x: x.id, y: y.id, start, count });
    return y;
  }

  /** [..., C] -> [..., count]. */
  sliceChannels(x: Value, start: number, count: number): Value {
    this.#expect('sliceChannels', x, undefined);
    this.#range('sliceChannels', x.shape[x.shape.length - 1], start, count);
    const y = this.#value([...x.shape.slice(0, -1), count], 'f32');
    this.#ops.push({ op: 'slice_channels', x: x.id, y: y.id, start, count });
    return y;
  }

  /** Joins values that agree in every axis but the last. */
  concatChannels(xs: readonly Value[]): Value {
    if (xs.length === 0) throw wrong('concatChannels', 'at least one value', 'none');
    const lead = xs[0].shape.slice(0, -1);
    let channels = 0;
    for (const x of xs) {
      this.#expect('concatChannels', x, undefined);
      if (show(x.shape.slice(0, -1)) !== show(lead)) {
        throw wrong('concatChannels', `[${lead.join(', ')}, C]`, show(x.shape));
      }
      channels += x.shape[x.shape.length - 1];
    }
    const y = this.#value([...lead, channels], 'f32');
    this.#ops.push({ op: 'concat_channels', xs: xs.map((x) => x.id), y: y.id });
    return y;
  }

  /** The same elements under another shape, given without the batch. */
  reshape(x: Value, shape: readonly number[]): Value {
    this.#own('reshape', x);
    const full = [this.batch, ...shape];
    if (elements(full) !== elements(x.shape)) {
      throw wrong('reshape', `the ${elements(x.shape)} elements of ${show(x.shape)}`, show(full));
    }
    const y = this.#value(full, x.dtype);
    this.#ops.push({ op: 'reshape', x: x.id, y: y.id });
    return y;
  }

  /** [B,H,W,C] -> [B,size,size,C], PyTorch's bicubic. */
  resizeBicubic(x: Value, size: number): Value {
    this.#expect('resizeBicubic', x, 4);
    const y = this.#value([x.shape[0], size, size, x.shape[3]], 'f32');
    this.#ops.push({ op: 'resize_bicubic', x: x.id, y: y.id, height: size, width: size });
    return y;
  }

  /** Multi-scale residual quantisation of h [B,g,g,D]; codebooks by name with their [K,d], the d adding up to D. */
  multiscaleEncode(
    x: Value,
    codebooks: WeightShapes,
    scales: readonly number[],
  ): { tokens: Value; sum: Value } {
    this.#expect('multiscaleEncode', x, 4);
    this.#codebooks('multiscaleEncode', codebooks, x.shape[3]);
    const grid = scales[scales.length - 1];
    if (x.shape[1] !== grid || x.shape[2] !== grid) {
      throw wrong('multiscaleEncode', `a ${grid}x${grid} map, the last scale`, show(x.shape));
    }
    const tokens = this.#value([x.shape[0], scales.reduce((sum, s) => sum + s * s, 0)], 'i32');
    const sum = this.#value(x.shape, 'f32');
    this.#ops.push({
      op: 'multiscale_encode',
      x: x.id,
      tokens: tokens.id,
      sum: sum.id,
      codebooks: [...codebooks.keys()],
      scales,
    });
    return { tokens, sum };
  }

  /** tokens i32 [B,T] of the scales given -> sum [B,grid,grid,D]. */
  multiscaleDecode(tokens: Value, codebooks: WeightShapes, scales: readonly number[], grid: number): Value {
    this.#expect('multiscaleDecode', tokens, 2, 'i32');
    const count = scales.reduce((sum, s) => sum + s * s, 0);
    if (tokens.shape[1] !== count) {
      throw wrong('multiscaleDecode', `${count} tokens for scales ${scales.join(', ')}`, show(tokens.shape));
    }
    const width = [...codebooks.values()].reduce((sum, shape) => sum + shape[1], 0);
    this.#codebooks('multiscaleDecode', codebooks, width);
    const y = this.#value([tokens.shape[0], grid, grid, width], 'f32');
    this.#ops.push({
      op: 'multiscale_decode',
      tokens: tokens.id,
      y: y.id,
      codebooks: [...codebooks.keys()],
      scales,
      grid,
    });
    return y;
  }

  #value(shape: readonly number[], dtype: DType): Value {
    if (!shape.every((n) => Number.isInteger(n) && n > 0)) {
      throw wrong('a shape', 'whole numbers over 0', show(shape));
    }
    this.#values.push({ shape, dtype });
    return { id: this.#values.length - 1, shape, dtype };
  }

  #own(where: string, value: Value): void {
    if (this.#values[value.id]?.shape !== value.shape) {
      throw wrong(where, 'a value of this graph', `one of another, ${show(value.shape)}`);
    }
  }

  #expect(where: string, value: Value, rank: number | undefined, dtype: DType = 'f32'): void {
    this.#own(where, value);
    const right =
      value.dtype === dtype && (rank === undefined ? value.shape.length > 1 : value.shape.length === rank);
    if (!right) {
      const wanted = rank === undefined ? dtype : `${dtype} of ${rank} axes`;
      throw wrong(where, wanted, `${value.dtype} ${show(value.shape)}`);
    }
  }

  #sameShape(where: string, value: Value | undefined, shape: readonly number[]): void {
    if (!value) return;
    this.#expect(where, value, undefined);
    if (show(value.shape) !== show(shape)) {
      throw wrong(`the residual of ${where}`, show(shape), show(value.shape));
    }
  }

  #range(where: string, size: number, start: number, count: number): void {
    if (
      !(
        Number.isInteger(start) &&
        Number.isInteger(count) &&
        start >= 0 &&
        count > 0 &&
        start + count <= size
      )
    ) {
      throw wrong(where, `a range within ${size}`, `${start}..${start + count}`);
    }
  }

  #codebooks(where: string, codebooks: WeightShapes, width: number): void {
    const shapes = [...codebooks.values()];
    if (shapes.reduce((sum, shape) => sum + shape[1], 0) !== width) {
      throw wrong(where, `codebooks that are ${width} wide together`, shapes.map(show).join(' and '));
    }
    if (shapes.some((shape) => shape[0] !== shapes[0][0])) {
      throw wrong(where, 'codebooks of one size', shapes.map(show).join(' and '));
    }
    for (const [name, shape] of codebooks) this.#weight(name, shape);
  }

  #parts<T extends WeightRef>(reference: T, out: number, tail: readonly number[]): T {
    if (typeof reference === 'string') {
      this.#weight(reference, [out, ...tail]);
      return reference;
    }
    const share = out / reference.length;
    if (!Number.isInteger(share))
      throw wrong(reference.join(' + '), `equal shares of ${out} rows`, `${reference.length} parts`);
    for (const name of reference) if (name !== null) this.#weight(name, [share, ...tail]);
    return reference;
  }

  #weight(name: string, shape: readonly number[]): string {
    const known = this.#weights.get(name);
    if (known && show(known) !== show(shape)) throw wrong(name, `${show(known)} as before`, show(shape));
    this.#weights.set(name, shape);
    return name;
  }
}

/**
 * The op vocabulary: what `GraphBuilder` writes and every backend runs.
 *
 * A graph is a plain list. Values are numbered; each has a static shape with the batch first. All maps are NHWC, so a
 * token list `[B, L, C]` is the same memory as a grid `[B, H, W, C]` and `reshape` moves nothing. Weights are named as
 * in the checkpoint and keep PyTorch's layout there (`[out, in]`, `[out, in, kh, kw]`); a backend packs them once.
 * Arithmetic is fp32 unless the program's precision says bf16, and then only inside conv2d, linear and attention.
 * An image's result never depends on the batch it is in, nor on the number of threads.
 */

export type DType = 'f32' | 'u8' | 'i32';

/** Index into `Graph.values`. */
export type ValueId = number;

export interface GraphValue {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/**
 * Applied to `x W + b` before the residual is added.
 * quick_gelu: x sigmoid(1.702 x). gelu: x Phi(x), exact erf. gelu_tanh: the tanh form. swish: x sigmoid(x).
 */
export type Activation = 'none' | 'tanh' | 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'swish';

/** A checkpoint tensor by name, or several of one size concatenated along their first axis; null stands for zeros (a bias only). */
export type WeightRef = string | readonly (string | null)[];

export type Op =
  /** u8 [B,H,W,3] -> f32 [B,H,W,3]: (x/255 - 0.5)/0.5, as ToTensor and Normalize(.5,.5) give it. */
  | { op: 'pixels_to_float'; x: ValueId; y: ValueId }
  /** f32 [B,H,W,3] -> u8 [B,H,W,3]: trunc(clamp(127.5 x + 128, 0, 255)), the official output rule. */
  | { op: 'float_to_pixels'; x: ValueId; y: ValueId }
  /** y = (clamp((x + 1) * 127.5, 0, 255) / 255 - shift) / scale; shift and scale of 3 elements. */
  | { op: 'scale_input'; x: ValueId; y: ValueId; shift: string; scale: string }
  /**
   * x [B,H,W,Cin] -> y [B,Ho,Wo,Cout]; weight [Cout,Cin,kernel,kernel]. padding is [top, left, bottom, right], zeros.
   * upsample 2 repeats every pixel to 2x2 before the convolution (H and W are then the doubled sizes for padding).
   */
  | {
      op: 'conv2d';
      x: ValueId;
      y: ValueId;
      weight: string;
      bias?: string;
      kernel: number;
      stride: number;
      padding: readonly [number, number, number, number];
      upsample?: 1 | 2;
      activation?: Activation;
      residual?: ValueId;
    }
  /** x [..., Cin] -> y [..., Cout] = activation(x W^T + b) + residual; weight [Cout, Cin] (a 1x1 kernel counts). */
  | {
      op: 'linear';
      x: ValueId;
      y: ValueId;
      weight: WeightRef;
      bias?: WeightRef;
      activation?: Activation;
      residual?: ValueId;
    }
  /** Over [B,H,W,C] or [B,L,C]: statistics per image and group of C/groups channels, biased variance; then swish if asked. */
  | {
      op: 'group_norm';
      x: ValueId;
      y: ValueId;
      weight: string;
      bias: string;
      groups: number;
      epsilon: number;
      swish: boolean;
    }
  /** Over the last axis, biased variance. */
  | { op: 'layer_norm'; x: ValueId; y: ValueId; weight: string; bias: string; epsilon: number }
  /**
   * qkv [B,L,3C] holds q, k, v side by side, each heads x C/heads. y [B,L,C] = softmax_j(scale q_i . k_j) v_j per head.
   */
  | { op: 'attention'; x: ValueId; y: ValueId; heads: number; scale: number }
  /** [B,L,C] -> [B,L+1,C]: the learned token (any shape of C elements) goes first. */
  | { op: 'prepend_token'; x: ValueId; y: ValueId; token: string }
  /** y = x + table, the same [L,C] table (leading ones allowed) for every image. */
  | { op: 'add_table'; x: ValueId; y: ValueId; table: string }
  /** [B,L,C] -> [B,count,C] from `start` on. */
  | { op: 'slice_tokens'; x: ValueId; y: ValueId; start: number; count: number }
  /** [..., C] -> [..., count] from channel `start` on. */
  | { op: 'slice_channels'; x: ValueId; y: ValueId; start: number; count: number }
  /** Concatenates along the last axis. */
  | { op: 'concat_channels'; xs: readonly ValueId[]; y: ValueId }
  /** The same elements under another shape. */
  | { op: 'reshape'; x: ValueId; y: ValueId }
  /** [B,H,W,C] -> [B,height,width,C]: a = -0.75, half-pixel centres, border clamped, no antialias (PyTorch bicubic). */
  | { op: 'resize_bicubic'; x: ValueId; y: ValueId; height: number; width: number }
  /**
   * The multi-scale residual quantiser, `encode`: h f32 [B,g,g,D] -> tokens i32 [B,T], sum f32 [B,g,g,D].
   * codebooks [K,d_p] are normalised per row; the one K and the widths, which add up to D, are the weights' own. The
   * last scale is g.
   */
  | {
      op: 'multiscale_encode';
      x: ValueId;
      tokens: ValueId;
      sum: ValueId;
      codebooks: readonly string[];
      scales: readonly number[];
    }
  /** `decode_code`: tokens i32 [B,T] of a prefix of the scales -> sum f32 [B,g,g,D], g the last scale of the schedule. */
  | {
      op: 'multiscale_decode';
      tokens: ValueId;
      y: ValueId;
      codebooks: readonly string[];
      scales: readonly number[];
      grid: number;
    };

export interface Graph {
  readonly values: readonly GraphValue[];
  readonly ops: readonly Op[];
  readonly inputs: Readonly<Record<string, ValueId>>;
  readonly outputs: Readonly<Record<string, ValueId>>;
}

/** Element counts and shapes of every weight a graph names, for checking a checkpoint and for loading it. */
export type WeightShapes = ReadonlyMap<string, readonly number[]>;

export type Precision = 'f32' | 'bf16';

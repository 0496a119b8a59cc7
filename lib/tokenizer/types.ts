/** What the methods of `TokenFlow` take and give. */
import type { Device } from '../backends.js';
import type { TokenFlowError } from '../errors.js';
import type { Precision } from '../graph/ops.js';
import type { Fit } from '../image/processor.js';
import type { ImageSource, RawImage } from '../image/source.js';
import type { TokenFlowConfig, Variant } from './config.js';

/** Where weights come from: a `Checkpoint`, or anything that lists and reads tensors by their official names. */
export interface WeightSource {
  /** How it is called in an error message. */
  readonly path: string;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>;
  /** A tensor in float32, row-major. */
  read(name: string): Float32Array;
  /** As `read`, into an array of the tensor's element count; used instead of it where it is there. */
  readInto?(name: string, target: Float32Array): void;
  close(): void;
}

/** The parts of a model that can be made ready ahead of their first use. */
export type Part = 'encode' | 'decode' | 'semantic';

/** Weights being read, in bytes of float32. */
export interface LoadProgress {
  loaded: number;
  total: number;
}

/** The most threads that can be asked for. */
export const MAX_THREADS = 1024;

export interface LoadOptions {
  /** Default: `TOKENFLOW_DEVICE`, else `auto`. */
  device?: Device;
  /** `bf16`: weights and activations of the networks; the quantiser always computes in fp32. Default `f32`. */
  precision?: Precision;
  /**
   * What shapes cannot tell: a released variant's name, the path of a `config.json`, or its content. Default: the
   * `config.json` beside the checkpoint, else the released model that the checkpoint is (`clipb-256` or `siglip`).
   */
  config?: Variant | (string & {}) | TokenFlowConfig;
  /** Threads of this process's computations, all models together, 1 to 1024. Default: the processor's cores. */
  threads?: number;
  /** Images per run, the most; larger batches are split. Default: by the size of the model, 1 to 8. */
  batchSize?: number;
  /** Parts whose weights are read before `load` resolves; others are read at their first use. */
  preload?: readonly Part[];
  signal?: AbortSignal;
  /** Called as weights are read, also after `load` has resolved. */
  onProgress?: (progress: LoadProgress) => void;
}

export interface RunOptions {
  /** Ends the call at once; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface EncodeOptions extends RunOptions {
  /** How images become squares. Default `crop`, as in the official evaluation; `understand` has `squash`. */
  fit?: Fit;
  /** Also return the features. */
  features?: boolean;
  /** Images of more pixels are refused before they are decoded; default as for `ImageProcessor`. */
  maxPixels?: number;
}

export interface StreamOptions<M = unknown> extends RunOptions {
  /** Images per run. Default: that of the tokenizer. Tokens do not depend on it. */
  batchSize?: number;
  /** Results come in the order of the source (default), or as they are ready. */
  ordered?: boolean;
  /**
   * Called with the error of an image that cannot be read or decoded, in its turn where results are ordered; the image is
   * then left out. What it throws ends the stream. Default: the error itself ends the stream.
   */
  onError?: (error: TokenFlowError, item: { id: string; meta?: M }) => void | Promise<void>;
  /**
   * The most images that are in memory between their arrival and their tokens, and so the most that are decoded at a
   * time; also the most results that wait to be taken. Default: four batches.
   */
  maxDecoded?: number;
  /** As for `encode`. */
  fit?: Fit;
  /** As for `encode`. */
  maxPixels?: number;
}

export interface DecodeOptions extends RunOptions {
  /** Decode the first scales only; any number of them gives a whole image, from coarse to fine. */
  scales?: number;
}

export interface Codes {
  /** `[B, T, D]`: of each token the semantic code and the pixel code side by side, each of unit length. */
  codes: Float32Array;
  shape: [batch: number, tokens: number, dimensions: number];
}

/** Images of one size in one array, RGB, `[count, height, width, 3]`. */
export interface ImageBatch {
  data: Uint8Array;
  width: number;
  height: number;
  count: number;
}

/** One image, a batch of them, or a list of either. */
export type ImageInput = ImageSource | ImageBatch | readonly (ImageSource | ImageBatch)[];

/** Images in memory, for the `Sync` methods. */
export type RawImageInput = RawImage | ImageBatch | readonly (RawImage | ImageBatch)[];

export interface Encoded {
  /** `[B, T]`: coarse scale to fine, row-major inside a scale. */
  tokens: Int32Array;
  shape: [batch: number, tokens: number];
  /** Sides of the grids the tokens are of. */
  scales: readonly number[];
  /** `[B, g*g, D]`, with `features: true` only. */
  features?: Float32Array;
}

export interface Features {
  /** The sum of the codes over all scales, semantic dimensions first: what a multimodal language model reads. */
  features: Float32Array;
  shape: [batch: number, positions: number, dimensions: number];
}

export interface SemanticFeatures {
  /** In the feature space of the teacher. */
  semantic: Float32Array;
  shape: [batch: number, positions: number, width: number];
}

export interface ImageTensor {
  /** `[B, 3, H, W]`, about [-1, 1]. */
  data: Float32Array;
  shape: [batch: number, channels: number, height: number, width: number];
}

/** Bytes a tokenizer holds. */
export interface MemoryUse {
  /** Packed weights that were read so far. */
  weights: number;
  /** Activations of the largest program used so far; programs share this memory. */
  activations: number;
  /** What its kernels need besides. */
  scratch: number;
}

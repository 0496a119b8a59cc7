import type { Transform } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { resolveDevice, supportsPrecision } from '../backends.js';
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { DualCodebook } from '../codebook/dual-codebook.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import type { Precision } from '../graph/ops.js';
import { ImageProcessor } from '../image/processor.js';
import type { RawImage } from '../image/source.js';
import { native } from '../native.js';
import { type TokenFlowConfig, tokenCount } from './config.js';
import { EncodeTransform } from './encode-transform.js';
import { decodeGraph, encodeGraph, featuresGraph, type ImageType, semanticGraph } from './graphs.js';
import { imageList } from './image-input.js';
import { channelsFirst, channelsLast } from './layout.js';
import type { Model } from './model.js';
import { openModel } from './open-model.js';
import { type Inputs, type Outputs, Programs } from './programs.js';
import { type Chunk, type Kind, Runner, type Work } from './runner.js';
import {
  checkStreamOptions,
  encodeStream,
  type StreamEncoder,
  type StreamResult,
  type StreamSource,
} from './stream.js';
import { type TokenInput, tokenRows } from './token-rows.js';
import {
  type Codes,
  type DecodeOptions,
  type Encoded,
  type EncodeOptions,
  type Features,
  type ImageBatch,
  type ImageInput,
  type ImageTensor,
  type LoadOptions,
  MAX_THREADS,
  type MemoryUse,
  type Part,
  type RawImageInput,
  type SemanticFeatures,
  type StreamOptions,
  type WeightSource,
} from './types.js';
import { WeightReader } from './weight-reader.js';

const PARTS: readonly Part[] = ['encode', 'decode', 'semantic'];

/**
 * The TokenFlow tokenizer (arXiv:2412.03069): images to discrete tokens of a shared dual codebook, and tokens to images
 * and to semantic features. One instance serves any number of calls at once; they are computed in the order they came.
 * Tokens do not depend on the batch an image is in, nor on the number of threads.
 *
 * Each method has a `Sync` twin that blocks the calling thread, for worker threads. All throw (or reject with) a
 * `TokenFlowError`: ERR_TOKENFLOW_INVALID_ARGUMENT for an argument, ERR_TOKENFLOW_IMAGE or ERR_TOKENFLOW_IO for an image,
 * ERR_TOKENFLOW_CHECKPOINT for weights that turn out broken when they are read, ERR_TOKENFLOW_DISPOSED after `dispose`.
 *
 * @example
 * const tokenizer = await TokenFlow.load('tokenflow_clipb_32k_enhanced.pt');
 * const encoded = await tokenizer.encode(['a.jpg', 'b.png']);
 * const images = await tokenizer.decode(encoded);
 */
export class TokenFlow implements AsyncDisposable {
  /** What the checkpoint's shapes did not tell, and some of what they did. */
  readonly config: TokenFlowConfig;
  /** Side of the square images it reads, in pixels. */
  readonly imageSize: number;
  /** Side of the square images it makes, in pixels. */
  readonly outputSize: number;
  /** Sides of the grids, coarse to fine. */
  readonly scales: readonly number[];
  /** Side of the last grid. */
  readonly grid: number;
  /** Tokens per image. */
  readonly tokenCount: number;
  /** Codes: tokens are 0 to this less one. */
  readonly codebookSize: number;
  /** Dimensions of the features: semantic and pixel code together. */
  readonly featureWidth: number;
  /** Width of what `decodeSemantic` gives: the teacher's feature space. */
  readonly semanticWidth: number;
  readonly device: string;
  readonly precision: Precision;
  readonly #model: Model;
  readonly #source: WeightSource;
  readonly #programs: Programs;
  readonly #runner: Runner;
  #codebook: DualCodebook | undefined;
  #disposed = false;

  private constructor(source: WeightSource, model: Model, device: string, options: LoadOptions) {
    const { precision = 'f32', batchSize, onProgress } = options;
    this.#source = source;
    this.#model = model;
    this.config = model.config;
    this.device = device;
    this.precision = precision;
    this.imageSize = model.imageSize;
    this.outputSize = model.outputSize;
    this.scales = model.scales;
    this.grid = model.grid;
    this.tokenCount = tokenCount(model.scales);
    this.codebookSize = model.codebookSize;
    this.featureWidth = model.semanticCodeDim + model.pixelCodeDim;
    this.semanticWidth = model.semanticWidth;
    this.#programs = new Programs({
      device,
      precision,
      reader: new WeightReader(source, model),
      onWeights: (loaded, total) => onProgress?.({ loaded, total }),
    });
    const lanes = () => (device === 'cpu' ? native().threads() : 1);
    this.#runner = new Runner(this.#programs, lanes, batchSize);
  }

  /**
   * Opens a checkpoint in the official layout: PyTorch, safetensors, or a folder with one of them. Its tensors are
   * checked against the model's here; their values are read when a part of the model is first used (see `preload`).
   *
   * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_CHECKPOINT (broken, or not the tensors of such a model),
   * ERR_TOKENFLOW_FORMAT (the configuration), ERR_TOKENFLOW_BACKEND_UNAVAILABLE, ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  static async load(checkpoint: string | URL | WeightSource, options: LoadOptions = {}): Promise<TokenFlow> {
    const device = checkLoadOptions(options);
    if (checkpoint instanceof URL) return TokenFlow.load(checkpointPath(checkpoint), options);
    if (typeof checkpoint !== 'string' && !isWeightSource(checkpoint)) {
      throw invalidArgument('checkpoint', 'a path, a file: URL or a WeightSource', checkpoint);
    }
    options.signal?.throwIfAborted();
    if (options.threads !== undefined) native().setThreads(options.threads);
    const source = typeof checkpoint === 'string' ? openCheckpoint(checkpoint) : checkpoint;
    try {
      const model = openModel(
        source,
        options.config,
        typeof checkpoint === 'string' ? checkpoint : undefined,
      );
      const tokenizer = new TokenFlow(source, model, device, options);
      for (const part of options.preload ?? []) {
        await tokenizer.#runner.prepare(
          tokenizer.#kind(part, part === 'semantic' ? 'f32' : 'u8'),
          options.signal,
        );
      }
      return tokenizer;
    } catch (error) {
      source.close();
      throw error;
    }
  }

  /** Images to tokens, `[B, T]`. */
  async encode(images: ImageInput, options: EncodeOptions = {}): Promise<Encoded> {
    checkOptions('encode', options, ['signal', 'fit', 'features', 'maxPixels']);
    const { fit, features, maxPixels, signal } = options;
    const sources = imageList(images);
    const processor = new ImageProcessor({ size: this.imageSize, fit, maxPixels });
    const { work, result } = this.#encoding(
      'u8',
      sources.length,
      features,
      async ({ start, count }: Chunk) => ({
        image: (await processor.prepareBatch(sources.slice(start, start + count), { signal })).data,
      }),
    );
    await this.#runner.run(work, signal);
    return result;
  }

  /** As `encode`, of raw pixels only: files are not decoded synchronously. */
  encodeSync(images: RawImageInput, options: Omit<EncodeOptions, 'signal'> = {}): Encoded {
    checkOptions('encodeSync', options, ['fit', 'features', 'maxPixels']);
    const sources = imageList(images) as RawImage[];
    const processor = new ImageProcessor({
      size: this.imageSize,
      fit: options.fit,
      maxPixels: options.maxPixels,
    });
    const bytes = this.imageSize ** 2 * 3;
    const { work, result } = this.#encoding(
      'u8',
      sources.length,
      options.features,
      ({ start, count }: Chunk) => {
        const image = new Uint8Array(count * bytes);
        for (let i = 0; i < count; i++) image.set(processor.prepareSync(sources[start + i]).data, i * bytes);
        return { image };
      },
    );
    this.#runner.runSync(work);
    return result;
  }

  /**
   * Tokens of any number of images, one by one: a source is read, its images are decoded beside the computation, and
   * nothing runs ahead of whoever takes the results, so that memory is bounded whatever the source's length.
   *
   * Rejects with the error of the first image that cannot be read or decoded, unless `onError` takes it; with the source's
   * own error after the images before it; with the signal's reason as soon as it is aborted. Whoever stops taking
   * (`break`, `return`) ends it all, the source too.
   *
   * @example
   * const source = files.map((path) => ({ id: path, path }));
   * for await (const { id, tokens } of tokenizer.encodeStream(source, { onError: (error) => log(error) })) { ... }
   */
  encodeStream<M = unknown>(
    source: StreamSource<M>,
    options: StreamOptions<M> = {},
  ): AsyncGenerator<StreamResult<M>, void, undefined> {
    checkStreamOptions('encodeStream', options);
    if (
      typeof source !== 'object' ||
      source === null ||
      !(Symbol.asyncIterator in source || Symbol.iterator in source)
    ) {
      throw invalidArgument(
        'source',
        'an iterable or async iterable of { id, bytes | pixels | path | load }',
        source,
      );
    }
    return encodeStream(this.#streamEncoder(options), source, options);
  }

  /**
   * `encodeStream` as a Node stream: items `{ id, bytes | pixels | path | load, meta? }` go in, results come out.
   * `Duplex.toWeb` makes it a pair of Web streams.
   */
  createEncodeStream<M = unknown>(options: StreamOptions<M> = {}): Transform {
    checkStreamOptions('createEncodeStream', options);
    const encoder = this.#streamEncoder(options);
    const { signal, ...others } = options;
    return new EncodeTransform<M>(
      (source, ended) => encodeStream(encoder, source, { ...others, signal: ended }),
      { batchSize: encoder.batchSize, signal },
    );
  }

  /**
   * Encodes images that are prepared already: float32 `[B, 3, imageSize, imageSize]` in [-1, 1], PyTorch's order. For
   * comparison with other implementations.
   */
  async encodeTensor(
    data: Float32Array,
    options: Omit<EncodeOptions, 'fit' | 'maxPixels'> = {},
  ): Promise<Encoded> {
    checkOptions('encodeTensor', options, ['signal', 'features']);
    const { work, result } = this.#tensorEncoding(data, options.features);
    await this.#runner.run(work, options.signal);
    return result;
  }

  encodeTensorSync(data: Float32Array, options: Pick<EncodeOptions, 'features'> = {}): Encoded {
    checkOptions('encodeTensorSync', options, ['features']);
    const { work, result } = this.#tensorEncoding(data, options.features);
    this.#runner.runSync(work);
    return result;
  }

  /**
   * Images to the features a multimodal language model reads: `[B, g*g, D]`, the sum of the codes over the scales.
   * Images are squashed to the square (`fit: 'squash'`), as for the released language model.
   */
  async understand(images: ImageInput, options: Omit<EncodeOptions, 'features'> = {}): Promise<Features> {
    checkOptions('understand', options, ['signal', 'fit', 'maxPixels']);
    const { features } = await this.encode(images, { fit: 'squash', ...options, features: true });
    return this.#features(features!);
  }

  understandSync(images: RawImageInput, options: Pick<EncodeOptions, 'fit' | 'maxPixels'> = {}): Features {
    checkOptions('understandSync', options, ['fit', 'maxPixels']);
    const { features } = this.encodeSync(images, { fit: 'squash', ...options, features: true });
    return this.#features(features!);
  }

  /** Tokens to images, by the pixel decoder alone. */
  async decode(tokens: TokenInput, options: DecodeOptions = {}): Promise<ImageBatch> {
    return this.#imageBatch((await this.#decode('decode', 'u8', tokens, options)) as Uint8Array);
  }

  decodeSync(tokens: TokenInput, options: Pick<DecodeOptions, 'scales'> = {}): ImageBatch {
    return this.#imageBatch(this.#decodeSync('decode', 'u8', tokens, options) as Uint8Array);
  }

  /** As `decode`, before rounding to bytes: float32 `[B, 3, outputSize, outputSize]`, about [-1, 1]. */
  async decodeTensor(tokens: TokenInput, options: DecodeOptions = {}): Promise<ImageTensor> {
    return this.#imageTensor((await this.#decode('decode', 'f32', tokens, options)) as Float32Array);
  }

  decodeTensorSync(tokens: TokenInput, options: Pick<DecodeOptions, 'scales'> = {}): ImageTensor {
    return this.#imageTensor(this.#decodeSync('decode', 'f32', tokens, options) as Float32Array);
  }

  /** Tokens to semantic features, by the semantic decoder alone: `[B, g*g, semanticWidth]`. */
  async decodeSemantic(tokens: TokenInput, options: DecodeOptions = {}): Promise<SemanticFeatures> {
    return this.#semantic((await this.#decode('semantic', 'f32', tokens, options)) as Float32Array);
  }

  decodeSemanticSync(tokens: TokenInput, options: Pick<DecodeOptions, 'scales'> = {}): SemanticFeatures {
    return this.#semantic(this.#decodeSync('semantic', 'f32', tokens, options) as Float32Array);
  }

  /** Tokens to the features that `understand` gives for the image they came from: `[B, g*g, D]`. */
  async decodeFeatures(tokens: TokenInput, options: DecodeOptions = {}): Promise<Features> {
    return this.#features((await this.#decode('features', 'f32', tokens, options)) as Float32Array);
  }

  decodeFeaturesSync(tokens: TokenInput, options: Pick<DecodeOptions, 'scales'> = {}): Features {
    return this.#features(this.#decodeSync('features', 'f32', tokens, options) as Float32Array);
  }

  /**
   * The codebook that tokens index, its semantic and its pixel part under one index: `lookup(tokens)` gives the codes
   * of any tokens, `[n, D]`, and `nearest` the tokens of any vectors. Both parts are compared as unit vectors, as the
   * quantiser does. Read at the first call, which blocks for it; what was
   * returned can be used after `dispose` too.
   */
  codebook(): DualCodebook {
    this.#runner.checkOpen();
    if (this.#codebook) return this.#codebook;
    const [semantic, pixel] = [...this.#model.codebooks].map(([name, [, dim]]) => {
      return { vectors: this.#source.read(name), dim };
    });
    this.#codebook = new DualCodebook([semantic, pixel], { metric: 'cosine' });
    return this.#codebook;
  }

  /**
   * Tokens to their codes, one vector per token and none summed: what a model over tokens can begin its embeddings with.
   * The first dimensions are the semantic code's, the rest the pixel code's (`config.semanticCodeDim` says where).
   */
  codes(tokens: TokenInput, options: Pick<DecodeOptions, 'scales'> = {}): Codes {
    checkOptions('codes', options, ['scales']);
    const rows = tokenRows(tokens, this.#model, options.scales);
    const codes = this.codebook().lookup(rows.tokens);
    return { codes, shape: [rows.count, rows.tokens.length / rows.count, this.featureWidth] };
  }

  /** Bytes held at the moment. */
  memory(): MemoryUse {
    return this.#programs.memory();
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Frees weights and activations. Calls made before it end first, and the promise resolves then; later ones are refused.
   * Safe to call twice.
   */
  async dispose(): Promise<void> {
    this.#disposed = true;
    this.#codebook = undefined; // whoever asked for it may go on using it
    await this.#runner.close();
    await this.#programs.dispose();
    this.#source.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #streamEncoder({
    batchSize,
    fit,
    maxPixels,
  }: Pick<StreamOptions, 'batchSize' | 'fit' | 'maxPixels'>): StreamEncoder {
    const kind = this.#kind('encode', 'u8');
    const size = batchSize ?? this.#runner.batchOf(kind);
    const bytes = this.imageSize ** 2 * 3;
    return {
      processor: new ImageProcessor({ size: this.imageSize, fit, maxPixels }),
      batchSize: size,
      encode: async (image, count, signal) => {
        const { work, result } = this.#encoding('u8', count, false, (chunk) => ({
          image: image.subarray(chunk.start * bytes, (chunk.start + chunk.count) * bytes),
        }));
        await this.#runner.run({ ...work, batchSize: size }, signal);
        return result.tokens;
      },
    };
  }

  #kind(part: Part | 'features', image: ImageType, scaleCount = this.scales.length): Kind {
    const model = this.#model;
    const builds = {
      encode: (batch: number) => encodeGraph(model, batch, { image }),
      decode: (batch: number) => decodeGraph(model, batch, scaleCount, image),
      semantic: (batch: number) => semanticGraph(model, batch, scaleCount),
      features: (batch: number) => featuresGraph(model, batch, scaleCount),
    };
    return { key: `${part} ${image} ${scaleCount}`, build: builds[part] };
  }

  #encoding<I>(
    image: ImageType,
    count: number,
    features: boolean | undefined,
    inputs: (chunk: Chunk) => I,
  ): { work: Work<I>; result: Encoded } {
    const result: Encoded = {
      tokens: new Int32Array(count * this.tokenCount),
      shape: [count, this.tokenCount],
      scales: this.scales,
      ...(features ? { features: new Float32Array(count * this.grid ** 2 * this.featureWidth) } : {}),
    };
    const take = (outputs: Outputs, chunk: Chunk) => {
      const { tokens, features } = outputs;
      result.tokens.set(tokens, (chunk.start * tokens.length) / chunk.count);
      result.features?.set(features, (chunk.start * features.length) / chunk.count);
    };
    return { work: { kind: this.#kind('encode', image), count, inputs, take }, result };
  }

  #tensorEncoding(data: Float32Array, features?: boolean): { work: Work<Inputs>; result: Encoded } {
    const image = 3 * this.imageSize ** 2;
    if (!(data instanceof Float32Array) || data.length === 0 || data.length % image !== 0) {
      throw invalidArgument('data', `a Float32Array of B x 3 x ${this.imageSize} x ${this.imageSize}`, data);
    }
    return this.#encoding('f32', data.length / image, features, ({ start, count }) => ({
      image: channelsLast(data.subarray(start * image, (start + count) * image), count, 3),
    }));
  }

  #decoding(part: 'decode' | 'semantic' | 'features', image: ImageType, input: TokenInput, scales?: number) {
    const { tokens, count, scaleCount } = tokenRows(input, this.#model, scales);
    const width = tokens.length / count;
    const chunks: (Float32Array | Uint8Array)[] = [];
    const work: Work<Inputs> = {
      kind: this.#kind(part, image, scaleCount),
      count,
      inputs: (chunk) => ({
        tokens: tokens.subarray(chunk.start * width, (chunk.start + chunk.count) * width),
      }),
      take: (outputs) => chunks.push(Object.values(outputs)[0] as Float32Array | Uint8Array),
    };
    return { work, result: () => join(chunks) };
  }

  async #decode(
    part: 'decode' | 'semantic' | 'features',
    image: ImageType,
    tokens: TokenInput,
    options: DecodeOptions,
  ): Promise<Float32Array | Uint8Array> {
    checkOptions('decode', options, ['signal', 'scales']);
    const { work, result } = this.#decoding(part, image, tokens, options.scales);
    await this.#runner.run(work, options.signal);
    return result();
  }

  #decodeSync(
    part: 'decode' | 'semantic' | 'features',
    image: ImageType,
    tokens: TokenInput,
    options: Pick<DecodeOptions, 'scales'>,
  ): Float32Array | Uint8Array {
    checkOptions('decodeSync', options, ['scales']);
    const { work, result } = this.#decoding(part, image, tokens, options.scales);
    this.#runner.runSync(work);
    return result();
  }

  #features(features: Float32Array): Features {
    const [positions, width] = [this.grid ** 2, this.featureWidth];
    return { features, shape: [features.length / (positions * width), positions, width] };
  }

  #semantic(semantic: Float32Array): SemanticFeatures {
    const [positions, width] = [this.grid ** 2, this.semanticWidth];
    return { semantic, shape: [semantic.length / (positions * width), positions, width] };
  }

  #imageBatch(data: Uint8Array): ImageBatch {
    const size = this.outputSize;
    return { data, width: size, height: size, count: data.length / (3 * size * size) };
  }

  #imageTensor(data: Float32Array): ImageTensor {
    const size = this.outputSize;
    const count = data.length / (3 * size * size);
    return { data: channelsFirst(data, count, 3), shape: [count, 3, size, size] };
  }
}

/** The parts of a batch as one array. */
function join(parts: readonly (Float32Array | Uint8Array)[]): Float32Array | Uint8Array {
  if (parts.length === 1) return parts[0];
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const whole = parts[0] instanceof Uint8Array ? new Uint8Array(length) : new Float32Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function checkpointPath(url: URL): string {
  if (url.protocol !== 'file:') throw invalidArgument('checkpoint', 'a file: URL', url.href);
  return fileURLToPath(url);
}

function isWeightSource(value: unknown): value is WeightSource {
  const { tensors, read, close } = (value ?? {}) as Partial<WeightSource>;
  return tensors instanceof Map && typeof read === 'function' && typeof close === 'function';
}

/** Checks the options of `load` and returns the device to run on. */
function checkLoadOptions(options: LoadOptions): string {
  checkOptions('TokenFlow.load', options, [
    'device',
    'precision',
    'config',
    'threads',
    'batchSize',
    'preload',
    'signal',
    'onProgress',
  ]);
  const { precision = 'f32', threads, batchSize, preload = [] } = options;
  if (precision !== 'f32' && precision !== 'bf16')
    throw invalidArgument('precision', "'f32' or 'bf16'", precision);
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0 && threads <= MAX_THREADS)) {
    throw invalidArgument('threads', `a whole number from 1 to ${MAX_THREADS}`, threads);
  }
  if (batchSize !== undefined && !(Number.isSafeInteger(batchSize) && batchSize > 0)) {
    throw invalidArgument('batchSize', 'a whole number over 0', batchSize);
  }
  for (const part of preload) {
    if (!PARTS.includes(part)) throw invalidArgument('preload', `a list of '${PARTS.join("', '")}'`, part);
  }
  const device = resolveDevice(options.device);
  if (!supportsPrecision(device, precision)) {
    const lacks =
      device === 'cpu'
        ? 'this processor (or TOKENFLOW_SIMD) has no AVX512-BF16'
        : `device '${device}' has a compute capability below 8.0`;
    throw new TokenFlowError(
      'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
      `Precision '${precision}' is not available: ${lacks}. Use 'f32'`,
    );
  }
  return device;
}

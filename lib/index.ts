/** The public face of tokenflow, and nothing else. */
export {
  type Backend,
  type BackendDevice,
  type BackendReason,
  BackendUnavailableError,
  type Device,
  listBackends,
} from './backends.js';
export {
  Checkpoint,
  type CheckpointFormat,
  type CheckpointOptions,
  openCheckpoint,
} from './checkpoint/checkpoint.js';
export type { Dtype } from './checkpoint/dtype.js';
export { type NpyArray, type NpyData, readNpy, writeNpy } from './checkpoint/npy.js';
export type { Wrapper } from './checkpoint/state-dict.js';
export type { TensorInfo } from './checkpoint/stored-tensor.js';
export * from './codebook/index.js';
export type { JsonObject, JsonValue } from './dataset/json.js';
export { type OpenSourceOptions, openSource } from './dataset/open-source.js';
export {
  openShard,
  readShard,
  type ShardFile,
  type ShardOptions,
  type ShardWriter,
  type TokenDtype,
  type TokenFormat,
  type TokenRecord,
} from './dataset/sink.js';
export type { Source, SourceItem } from './dataset/source.js';
export { ERROR_CODES, type ErrorCode, TokenFlowError } from './errors.js';
export type { Precision } from './graph/ops.js';
export { toPng, writePng } from './image/png.js';
export {
  type Fit,
  ImageProcessor,
  type ImageProcessorOptions,
  type PreparedBatch,
  type PreparedImage,
  type PreparedSource,
} from './image/processor.js';
export { type ComparedImage, psnr, ssim } from './image/quality.js';
export type { ImageSource, RawImage } from './image/source.js';
export type { CudaReason } from './native.js';
export { BUNDLED_MODEL } from './tokenizer/bundled-model.js';
export { type TokenFlowConfig, VARIANTS, type Variant } from './tokenizer/config.js';
export { imageBatch } from './tokenizer/layout.js';
export type { StreamItem, StreamResult, StreamSource } from './tokenizer/stream.js';
export type { Integers, TokenInput } from './tokenizer/token-rows.js';
export { TokenFlow } from './tokenizer/tokenflow.js';
export type {
  Codes,
  DecodeOptions,
  Encoded,
  EncodeOptions,
  Features,
  ImageBatch,
  ImageInput,
  ImageTensor,
  LoadOptions,
  LoadProgress,
  MemoryUse,
  Part,
  RawImageInput,
  RunOptions,
  SemanticFeatures,
  StreamOptions,
  WeightSource,
} from './tokenizer/types.js';

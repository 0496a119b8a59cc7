/** The codebook layer alone: it loads no image code, no sharp and no model. */
export { BackendUnavailableError, type Device } from '../backends.js';
export { type ErrorCode, TokenFlowError } from '../errors.js';
export type { CallOptions, QueryFormat } from './arguments.js';
export {
  BinarySphericalQuantizer,
  type BinarySphericalQuantizerOptions,
} from './binary-spherical-quantizer.js';
export {
  CodeAverages,
  type CodeAveragesOptions,
  type CodeSums,
  type ReviveOptions,
} from './code-averages.js';
export { CodeQuantizer, type OnDevice, type OnHost } from './code-quantizer.js';
export { Codebook, type CodebookOptions } from './codebook.js';
export { CodebookBase, type CodebookSummary } from './codebook-base.js';
export {
  type LoadCodebookOptions,
  loadCodebook,
  loadPartedCodebook,
  saveCodebook,
} from './codebook-file.js';
export {
  type DeviceArrays,
  DeviceBuffer,
  type DeviceBufferOptions,
  type DeviceDtype,
  type ResultPlace,
} from './device-buffer.js';
export {
  type CodebookPartOptions,
  type DevicePartedNearestResult,
  DualCodebook,
  PartedCodebook,
  type PartedCodebookOptions,
  type PartedNearestOptions,
  type PartedNearestResult,
  type PartedQuantizeOptions,
} from './dual-codebook.js';
export { EmaCodebook, type EmaCodebookOptions } from './ema-codebook.js';
export {
  type FiniteScalarBound,
  FiniteScalarQuantizer,
  type FiniteScalarQuantizerOptions,
} from './finite-scalar-quantizer.js';
export type {
  CodebookDevice,
  DeviceNearestResult,
  DeviceQuantizeResult,
  LookupStats,
  Metric,
  NearestOptions,
  NearestResult,
  NonFiniteRule,
  QuantizeOptions,
  QuantizeResult,
  Queries,
  ScreenMode,
} from './handle.js';
export { type KMeansOptions, type KMeansProgress, type KMeansResult, kMeans, kMeansSync } from './kmeans.js';
export { LookupFreeQuantizer, type LookupFreeQuantizerOptions } from './lookup-free-quantizer.js';
export { MiniBatchKMeans, type MiniBatchStep } from './mini-batch-kmeans.js';
export {
  type MultiScaleEncoded,
  MultiScaleQuantizer,
  type MultiScaleQuantizerOptions,
  type PhiKernel,
  type PhiOptions,
} from './multi-scale-quantizer.js';
export {
  type DeviceProductEncoded,
  type ProductEncoded,
  type ProductEncodeOptions,
  ProductQuantizer,
  type ProductSearchResult,
} from './product-quantizer.js';
export {
  type DeviceResidualEncoded,
  type ResidualDecodeOptions,
  type ResidualEncoded,
  type ResidualEncodeOptions,
  ResidualQuantizer,
} from './residual-quantizer.js';
export { type ScalarEncoded, type ScalarIndices, ScalarQuantizer } from './scalar-quantizer.js';
export { type CodeUsage, codeUsage } from './usage.js';

/** The codebook layer alone: it loads no image code, no sharp and no model. */
export { type ErrorCode, TokenFlowError } from '../errors.js';
export type { QueryFormat } from './arguments.js';
export { Codebook, type CodebookOptions } from './codebook.js';
export {
  type CodebookPartOptions,
  DualCodebook,
  PartedCodebook,
  type PartedCodebookOptions,
  type PartedNearestOptions,
  type PartedNearestResult,
  type PartedQuantizeOptions,
} from './dual-codebook.js';
export type {
  CodebookDevice,
  LookupStats,
  Metric,
  NearestOptions,
  NearestResult,
  QuantizeOptions,
  QuantizeResult,
  Queries,
  ScreenMode,
} from './handle.js';
export {
  type MultiScaleEncoded,
  MultiScaleQuantizer,
  type MultiScaleQuantizerOptions,
} from './multi-scale-quantizer.js';
export { type CodeUsage, codeUsage } from './usage.js';

/** The public face of tokenflow, and nothing else. */
export * from './codebook/index.js';
export { type ErrorCode, TokenFlowError } from './errors.js';
export { toPng, writePng } from './image/png.js';
export {
  type Fit,
  ImageProcessor,
  type ImageProcessorOptions,
  type PreparedBatch,
  type PreparedImage,
} from './image/processor.js';
export { type ComparedImage, psnr, ssim } from './image/quality.js';
export type { ImageSource, RawImage } from './image/source.js';

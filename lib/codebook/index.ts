/** The codebook layer alone: it loads no image code, no sharp and no model. */
export { type ErrorCode, TokenFlowError } from '../errors.js';

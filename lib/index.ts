/** The public face of tokenflow, and nothing else. */
export { type ErrorCode, TokenFlowError } from './errors.js';

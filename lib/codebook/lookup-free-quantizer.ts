import { checkOptions, invalidArgument } from '../errors.js';
import { checkInteger } from './arguments.js';
import { ScalarQuantizer } from './scalar-quantizer.js';

export interface LookupFreeQuantizerOptions {
  /** Elements of a vector, one bit each: 1 to 53. */
  dim: number;
  /** The codes' elements are plus or minus this. Default 1. */
  scale?: number;
}

/**
 * Lookup-free quantisation (LFQ; Yu et al., MAGVIT-v2, arXiv:2310.05737): a code's element is `scale` where the
 * vector's is above 0, else `-scale`. The index is the bits read as a number, the first element being the most
 * significant.
 */
export class LookupFreeQuantizer extends ScalarQuantizer {
  readonly scale: number;

  /** @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
  constructor(options: LookupFreeQuantizerOptions) {
    checkOptions('LookupFreeQuantizer', options, ['dim', 'scale']);
    const dim = checkInteger('dim', options?.dim, 1, 53);
    const scale = options.scale ?? 1;
    if (!(typeof scale === 'number' && scale > 0 && Number.isFinite(Math.fround(scale))))
      throw invalidArgument('scale', 'a number above 0', scale);
    super('sign', Array<number>(dim).fill(2), scale);
    this.scale = scale;
  }

  toJSON(): { type: 'LookupFreeQuantizer'; dim: number; scale: number; size: number } {
    return { type: 'LookupFreeQuantizer', dim: this.dim, scale: this.scale, size: this.size };
  }
}

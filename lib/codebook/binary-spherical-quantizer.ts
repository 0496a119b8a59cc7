import { checkOptions } from '../errors.js';
import { checkInteger } from './arguments.js';
import { ScalarQuantizer } from './scalar-quantizer.js';

export interface BinarySphericalQuantizerOptions {
  /** Elements of a vector, one bit each: 1 to 53. */
  dim: number;
}

/**
 * Binary spherical quantisation (BSQ; Zhao et al., arXiv:2406.07548): a vector is projected onto the unit sphere and
 * goes to the nearest corner of the cube inside it, whose elements are `1/sqrt(dim)` where the vector's are above 0,
 * else `-1/sqrt(dim)`. The projection changes no sign, so vectors need not be normalised. The index is the bits read
 * as a number, the first element being the most significant.
 */
export class BinarySphericalQuantizer extends ScalarQuantizer {
  /** @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
  constructor(options: BinarySphericalQuantizerOptions) {
    checkOptions('BinarySphericalQuantizer', options, ['dim']);
    const dim = checkInteger('dim', options?.dim, 1, 53);
    super('sign', Array<number>(dim).fill(2), 1 / Math.sqrt(dim));
  }

  toJSON(): { type: 'BinarySphericalQuantizer'; dim: number; size: number } {
    return { type: 'BinarySphericalQuantizer', dim: this.dim, size: this.size };
  }
}

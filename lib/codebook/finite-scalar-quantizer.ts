import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { checkChoice, checkInteger } from './arguments.js';
import { ScalarQuantizer } from './scalar-quantizer.js';

/**
 * How an element z is brought onto its L levels.
 * - `'tanh'`: the paper's. With h = (L - 1)(1 + 1e-3)/2, o = 1/2 for even L and 0 for odd, s = atanh(o/h):
 *   round(tanh(z + s) h - o), to nearest even.
 * - `'clamp'`: the same with tanh and atanh replaced by the clamp to [-1, 1].
 * - `'symmetric'`: floor((L - 1)(tanh(z) + 1)/2 + 1/2); the codes lie evenly from -1 to 1 for even L too.
 */
export type FiniteScalarBound = 'tanh' | 'clamp' | 'symmetric';

export interface FiniteScalarQuantizerOptions {
  /** Levels of each element: 2 or more, with a product of at most 2^53. `[8, 5, 5, 5]` gives 1000 codes. */
  levels: readonly number[];
  /** Default `'tanh'`. */
  bound?: FiniteScalarBound;
}

/**
 * Finite scalar quantisation (FSQ; Mentzer et al., arXiv:2309.15505, appendix A.1): every element is rounded to one of
 * a few levels, and the index is their mixed-radix number, the first element being the least significant digit.
 *
 * A code's elements are `(level - floor(L/2)) / floor(L/2)`, from -1 to 1 for odd L (to just below 1 for even L).
 * Levels are clamped to the last one, which the published formula passes beyond L = 1001.
 *
 * ```ts
 * const quantizer = new FiniteScalarQuantizer({ levels: [8, 5, 5, 5] });
 * const { indices, quantized } = await quantizer.encode(vectors); // vectors: [n, 4]
 * ```
 */
export class FiniteScalarQuantizer extends ScalarQuantizer {
  readonly levels: readonly number[];
  readonly bound: FiniteScalarBound;

  /** @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
  constructor(options: FiniteScalarQuantizerOptions) {
    checkOptions('FiniteScalarQuantizer', options, ['levels', 'bound']);
    if (!Array.isArray(options?.levels) || options.levels.length === 0)
      throw invalidArgument('levels', 'an array of numbers of levels', options?.levels);
    const levels = options.levels.map((count, i) => checkInteger(`levels[${i}]`, count, 2, 2 ** 24));
    if (levels.reduce((product, count) => product * BigInt(count), 1n) > 2n ** 53n) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected levels whose product is at most 2^53, so that indices stay exact, but received ${levels.join(' x ')}`,
      );
    }
    const bound = checkChoice('bound', options.bound ?? 'tanh', ['tanh', 'clamp', 'symmetric'] as const);
    super(bound, levels, 1);
    this.levels = Object.freeze(levels);
    this.bound = bound;
  }

  toJSON(): {
    type: 'FiniteScalarQuantizer';
    levels: readonly number[];
    bound: FiniteScalarBound;
    size: number;
  } {
    return { type: 'FiniteScalarQuantizer', levels: this.levels, bound: this.bound, size: this.size };
  }
}

import { invalidArgument } from '../errors.js';

/** How a codebook is used, read off a histogram of its codes. */
export interface CodeUsage {
  /** Rows counted. */
  total: number;
  /** Codes that were taken at least once. */
  used: number;
  /** `used` over the number of codes, 0 to 1. */
  usage: number;
  /** Shannon entropy of the codes, in bits. */
  entropy: number;
  /** `2 ** entropy`: how many equally likely codes would be as varied. 1 is collapse, the number of codes ideal. */
  perplexity: number;
  /** Codes that were never taken. */
  dead: Int32Array;
  /** The most frequent code, -1 when nothing was counted. */
  top: number;
  /** Its share of the rows. */
  topShare: number;
}

/**
 * Usage, entropy, perplexity, dead codes and the share of the most frequent one.
 *
 * @param counts one per code, as `quantize` returns them; those of several calls may be added up first
 * @throws TokenFlowError when a count is negative or not a number
 */
export function codeUsage(counts: ArrayLike<number>): CodeUsage {
  let total = 0;
  let top = -1;
  const dead: number[] = [];
  for (let code = 0; code < counts.length; code++) {
    const count = counts[code];
    if (!(count >= 0)) throw invalidArgument(`counts[${code}]`, 'a count of at least 0', count);
    total += count;
    if (count === 0) dead.push(code);
    else if (top < 0 || count > counts[top]) top = code;
  }
  let entropy = 0;
  for (let code = 0; code < counts.length; code++) {
    const share = counts[code] / total;
    if (share > 0) entropy -= share * Math.log2(share);
  }
  return {
    total,
    used: counts.length - dead.length,
    usage: counts.length === 0 ? 0 : 1 - dead.length / counts.length,
    entropy,
    perplexity: 2 ** entropy,
    dead: Int32Array.from(dead),
    top,
    topShare: top < 0 ? 0 : counts[top] / total,
  };
}

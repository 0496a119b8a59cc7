import { invalidArgument, TokenFlowError } from '../errors.js';
import { scaleCountOf, tokenCount } from './config.js';

/** Tokens as the arrays that hold them. */
export type Integers = Int32Array | Uint32Array | Uint16Array | readonly number[];

/**
 * Tokens to decode:
 * - what `encode` returned, or anything with `tokens` and their `shape` `[B, T]`;
 * - a flat array of whole rows `[B * T]`, or a single row of the first scales;
 * - an array with one array of tokens per image.
 */
export type TokenInput =
  | { readonly tokens: Int32Array | Uint32Array | Uint16Array; readonly shape: readonly number[] }
  | Int32Array
  | Uint32Array
  | Uint16Array
  | readonly Integers[];

/** Tokens of a batch of images, every row of the same first scales. */
export interface TokenRows {
  /** [count, tokenCount(scales, scaleCount)] */
  readonly tokens: Int32Array;
  readonly count: number;
  readonly scaleCount: number;
}

const isFlat = (input: unknown): input is Int32Array | Uint32Array | Uint16Array =>
  input instanceof Int32Array || input instanceof Uint32Array || input instanceof Uint16Array;

function rowsOf(input: TokenInput, full: number): { rows: Integers[]; width: number } {
  const wanted = 'an Int32Array, { tokens, shape: [B, T] } or an array of one token array per image';
  if (Array.isArray(input)) {
    const rows = input as readonly Integers[];
    if (rows.length === 0) throw invalidArgument('tokens', 'at least one image', input);
    for (const [i, row] of rows.entries()) {
      if (!isFlat(row) && !Array.isArray(row)) throw invalidArgument('tokens', wanted, row);
      if (row.length !== rows[0].length) {
        throw new TokenFlowError(
          'ERR_TOKENFLOW_INVALID_ARGUMENT',
          `Expected as many tokens for every image, ${rows[0].length} as for the first, but received ${row.length} for image ${i}`,
        );
      }
    }
    return { rows: [...rows], width: rows[0].length };
  }
  if (isFlat(input)) {
    const width = Math.min(input.length, full);
    return { rows: split(input, width), width };
  }
  if (typeof input !== 'object' || input === null || !('tokens' in input) || !isFlat(input.tokens)) {
    throw invalidArgument('tokens', wanted, input);
  }
  const { tokens, shape } = input;
  if (!Array.isArray(shape) || shape.length !== 2 || shape[0] * shape[1] !== tokens.length) {
    throw invalidArgument('tokens.shape', `[B, T] with B * T = ${tokens.length}`, shape);
  }
  return { rows: split(tokens, shape[1]), width: shape[1] };
}

function split(tokens: Int32Array | Uint32Array | Uint16Array, width: number): Integers[] {
  if (tokens.length === 0 || tokens.length % width !== 0) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected whole rows of ${width} tokens but received ${tokens.length} tokens; tokens of the first scales only are passed as { tokens, shape: [B, T] }`,
    );
  }
  return Array.from({ length: tokens.length / width }, (_, i) => tokens.subarray(i * width, (i + 1) * width));
}

/**
 * Checks tokens and lays them out for decoding the first `asked` scales (all that are there when absent).
 * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
 */
export function tokenRows(
  input: TokenInput,
  model: { scales: readonly number[]; codebookSize: number },
  asked?: number,
): TokenRows {
  const { scales, codebookSize } = model;
  const { rows, width } = rowsOf(input, tokenCount(scales));
  const given = scaleCountOf(scales, width);
  if (given === 0) {
    const counts = scales.map((_, i) => tokenCount(scales, i + 1)).join(', ');
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected the tokens of the first scales, ${counts} per image for this model, but received ${width} per image`,
    );
  }
  const scaleCount = asked ?? given;
  if (!Number.isInteger(scaleCount) || scaleCount < 1 || scaleCount > given) {
    throw invalidArgument(
      'scales',
      `a whole number from 1 to ${given} (there are tokens of so many scales)`,
      asked,
    );
  }
  const used = tokenCount(scales, scaleCount);
  const tokens = new Int32Array(rows.length * used);
  for (const [i, row] of rows.entries()) {
    for (let t = 0; t < used; t++) {
      const token = row[t];
      if (!(Number.isInteger(token) && token >= 0 && token < codebookSize)) {
        throw new TokenFlowError(
          'ERR_TOKENFLOW_INVALID_ARGUMENT',
          `Expected tokens from 0 to ${codebookSize - 1} but received ${token} at position ${t} of image ${i}`,
        );
      }
      tokens[i * used + t] = token;
    }
  }
  return { tokens, count: rows.length, scaleCount };
}

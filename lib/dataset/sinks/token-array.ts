import { TokenFlowError } from '../../errors.js';
import type { TokenDtype } from '../sink.js';

/** The little-endian bytes of tokens in a type. */
export function tokenBytes(tokens: Int32Array, dtype: TokenDtype): Uint8Array {
  const stored = dtype === 'uint16' ? Uint16Array.from(tokens) : tokens.slice();
  return new Uint8Array(stored.buffer);
}

/** Tokens from their little-endian bytes, wherever in memory these lie. */
export function tokensOfBytes(bytes: Uint8Array, dtype: TokenDtype): Int32Array {
  const { buffer } = bytes.slice();
  return dtype === 'uint16' ? Int32Array.from(new Uint16Array(buffer)) : new Int32Array(buffer);
}

/** A shard whose content is not what it should be. */
export function brokenShard(file: string, message: string, cause?: unknown): TokenFlowError {
  return new TokenFlowError('ERR_TOKENFLOW_FORMAT', `${file}: ${message}`, { cause });
}

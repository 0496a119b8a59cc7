import { readFile } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { TokenFlowError } from '../../errors.js';
import { cannotRead } from './files.js';

/**
 * The paths in a list, one a line; or, as of `find -print0`, one before each zero byte. Empty lines are passed over.
 *
 * @param name how the list is called in messages
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT
 */
export async function readList(list: string | Readable, name: string): Promise<string[]> {
  let bytes: Uint8Array;
  try {
    bytes = typeof list === 'string' ? await readFile(list) : await buffer(list);
  } catch (cause) {
    throw cannotRead(name, typeof list === 'string' ? list : '-', cause);
  }
  const paths = bytes.includes(0) ? decode(bytes, name).split('\0') : decode(bytes, name).split(/\r?\n/);
  return paths.filter((line) => line.trim() !== '');
}

function decode(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_FORMAT',
      `Expected a list of paths in UTF-8 but ${name} holds other bytes; is it a list?`,
      { cause },
    );
  }
}

/**
 * A file read by ranges: the only way bytes enter this folder. Nothing here ever holds a whole checkpoint.
 *
 * Every range is checked against the size the file had when it was opened, so a length taken from a hostile header can
 * neither read past the end nor make anyone allocate more than the file could fill.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import { type ErrorCode, TokenFlowError } from '../errors.js';
import { type FileAction, systemError } from '../system-error.js';

/** Largest single read: small enough to stay in the second-level cache between reading and converting or checking. */
export const PIECE_BYTES = 512 * 1024;

/** An open file, or a buffer that stands in for one. */
export interface ByteSource {
  /** How error messages call it: the path. */
  readonly name: string;
  /** Size in bytes. */
  readonly size: number;
  /** Fills `target` from byte `offset` on. Throws when the range is not wholly inside the file. */
  readInto(target: Uint8Array, offset: number): void;
  /** The error to throw when the content is broken: names the file. */
  broken(message: string, cause?: unknown): TokenFlowError;
  close(): void;
}

/** Bytes `offset` to `offset + length` in a fresh buffer, checked before it is allocated. */
export function readRange(source: ByteSource, offset: number, length: number): Uint8Array {
  checkRange(source, offset, length);
  const bytes = allocate(source, Uint8Array, length);
  source.readInto(bytes, offset);
  return bytes;
}

/** Throws unless `[offset, offset + length)` lies inside the file. */
export function checkRange(source: ByteSource, offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
    throw source.broken(`a range of ${length} bytes at ${offset} makes no sense; the file is damaged`);
  }
  if (offset + length > source.size) {
    throw source.broken(
      `expected ${length} bytes at offset ${offset}, but the file has only ${source.size} bytes; it is truncated or damaged`,
    );
  }
}

/** A zeroed typed array, or the package's out-of-memory error. */
export function allocate<T>(source: ByteSource, Type: new (length: number) => T, length: number): T {
  try {
    return new Type(length);
  } catch (cause) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_OUT_OF_MEMORY',
      `${source.name}: could not allocate an array of ${length} elements for a tensor`,
      { cause },
    );
  }
}

class FileSource implements ByteSource {
  readonly name: string;
  readonly size: number;
  readonly #code: ErrorCode;
  #fd: number;

  constructor(path: string, code: ErrorCode) {
    this.name = path;
    this.#code = code;
    this.#fd = this.#io('open', () => fs.openSync(path, 'r'));
    try {
      const stat = this.#io('open', () => fs.fstatSync(this.#fd));
      if (!stat.isFile()) {
        throw new TokenFlowError(
          'ERR_TOKENFLOW_IO',
          `${path} is not a regular file; it cannot be read by ranges`,
        );
      }
      this.size = stat.size;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  readInto(target: Uint8Array, offset: number): void {
    if (this.#fd < 0) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_DISPOSED',
        `${this.name} was closed; open it again to read more`,
      );
    }
    checkRange(this, offset, target.length);
    for (let done = 0; done < target.length; ) {
      const length = Math.min(target.length - done, 1 << 30); // one read call moves less than 2 GiB
      const got = this.#io('read', () => fs.readSync(this.#fd, target, done, length, offset + done));
      if (got === 0) throw this.broken('the file became shorter while it was being read');
      done += got;
    }
  }

  broken(message: string, cause?: unknown): TokenFlowError {
    return new TokenFlowError(this.#code, `${this.name}: ${message}`, { cause });
  }

  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    fs.closeSync(fd);
  }

  #io<T>(action: FileAction, call: () => T): T {
    try {
      return call();
    } catch (cause) {
      throw systemError(action, this.name, cause);
    }
  }
}

/** Opens a regular file. `code` is the code of `broken` errors. Throws `ERR_TOKENFLOW_IO` when it cannot. */
export function openFile(path: string, code: ErrorCode = 'ERR_TOKENFLOW_CHECKPOINT'): ByteSource {
  if (os.endianness() !== 'LE') {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INTERNAL',
      'Weights and arrays are little-endian and are read without swapping; this processor is big-endian',
    );
  }
  return new FileSource(path, code);
}

/** A buffer in memory as a source. */
export function bufferSource(
  bytes: Uint8Array,
  name: string,
  code: ErrorCode = 'ERR_TOKENFLOW_CHECKPOINT',
): ByteSource {
  const source: ByteSource = {
    name,
    size: bytes.length,
    readInto(target, offset) {
      checkRange(source, offset, target.length);
      target.set(bytes.subarray(offset, offset + target.length));
    },
    broken: (message, cause) => new TokenFlowError(code, `${name}: ${message}`, { cause }),
    close() {},
  };
  return source;
}

/** Writes safetensors: tensors stream through, and the file appears whole or not at all. */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { invalidArgument } from '../errors.js';
import { systemError } from '../system-error.js';
import { DTYPE_BYTES, type Dtype, elementCount } from './dtype.js';

/** A tensor as a header describes it. */
export interface TensorDescription {
  name: string;
  dtype: Dtype;
  shape: readonly number[];
}

/** A tensor to write; `write` is called once, when its turn comes. */
export interface TensorToWrite extends TensorDescription {
  /** Hands over the contiguous row-major little-endian bytes, in pieces, exactly as many as type and shape say. */
  write(sink: (bytes: Uint8Array) => void): void;
}

/**
 * Writes the tensors to `file`, ordered by falling element size and then by name, so that each is aligned.
 *
 * The bytes go to a hidden file beside it, which is synced and renamed: a reader sees the old file or the new one, and
 * an error leaves nothing behind.
 *
 * @param metadata the header's `__metadata__`
 * @throws `ERR_TOKENFLOW_INVALID_ARGUMENT` for a name twice or bytes that do not fit, `ERR_TOKENFLOW_IO`
 */
export function writeSafetensors(
  file: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const ordered = [...tensors].sort(
    (a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
  const header = encodeSafetensorsHeader(ordered, metadata);
  replaceFile(file, (write) => {
    write(header);
    for (const tensor of ordered) {
      let written = 0;
      tensor.write((bytes) => {
        write(bytes);
        written += bytes.length;
      });
      const expected = byteLength(tensor);
      if (written !== expected) {
        throw invalidArgument(`tensor '${tensor.name}'`, `${expected} bytes`, written);
      }
    }
  });
}

function byteLength({ name, dtype, shape }: TensorDescription): number {
  const count = elementCount(shape);
  if (count === undefined) throw invalidArgument(`the shape of tensor '${name}'`, 'a list of sizes', shape);
  return count * DTYPE_BYTES[dtype];
}

/** What goes before the tensors' bytes, in this order: length and JSON, padded with spaces to a multiple of eight. */
export function encodeSafetensorsHeader(
  tensors: readonly TensorDescription[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) entries.push(['__metadata__', metadata]);
  const seen = new Set(['__metadata__']);
  let at = 0;
  for (const tensor of tensors) {
    if (seen.has(tensor.name)) throw invalidArgument('the tensors', 'each name once', tensor.name);
    seen.add(tensor.name);
    const end = at + byteLength(tensor);
    entries.push([tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [at, end] }]);
    at = end;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const padded = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded), 0);
  json.copy(header, 8);
  return header;
}

/** Lets `fill` write a new file beside `file`, then puts it in its place. */
function replaceFile(file: string, fill: (write: (bytes: Uint8Array) => void) => void): void {
  const folder = path.dirname(file);
  const temporary = path.join(folder, `.${path.basename(file)}.${randomBytes(6).toString('hex')}.part`);
  const io = <T>(call: () => T): T => {
    try {
      return call();
    } catch (cause) {
      throw systemError('write', file, cause);
    }
  };
  const fd = io(() => fs.openSync(temporary, 'wx'));
  try {
    try {
      fill((bytes) => {
        for (let done = 0; done < bytes.length; ) {
          done += io(() => fs.writeSync(fd, bytes, done, Math.min(bytes.length - done, 1 << 30)));
        }
      });
      io(() => fs.fsyncSync(fd));
    } finally {
      fs.closeSync(fd);
    }
    io(() => fs.renameSync(temporary, file));
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw error;
  }
  if (process.platform !== 'win32') syncFolder(folder);
}

/** Makes a rename durable. Some file systems cannot sync a folder; the file's content is safe on those all the same. */
function syncFolder(folder: string): void {
  const fd = fs.openSync(folder, 'r');
  try {
    fs.fsyncSync(fd);
  } catch (error) {
    if (!['EINVAL', 'ENOTSUP'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  } finally {
    fs.closeSync(fd);
  }
}

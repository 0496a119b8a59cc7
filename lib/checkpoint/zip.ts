/**
 * The directory of a zip archive whose entries are stored without compression, as `torch.save` writes them.
 *
 * Own code, small, because what is wanted is not an extractor but byte ranges: where each entry's data lies in the file,
 * proved to be inside it and apart from every other entry. Zip64 is read; encryption, compression and archives in
 * several parts are refused.
 */
import { type ByteSource, checkRange, readRange } from './source.js';

/** Where an entry's data lies. */
export interface ZipEntry {
  readonly name: string;
  /** Byte offset of the data in the file. */
  readonly offset: number;
  /** Bytes of data. */
  readonly size: number;
  readonly crc32: number;
}

const END_SIGNATURE = 0x06054b50;
const END64_SIGNATURE = 0x06064b50;
const LOCATOR64_SIGNATURE = 0x07064b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;

const END_BYTES = 22;
const LONGEST_COMMENT = 0xffff;
const LARGEST_DIRECTORY = 64 * 1024 * 1024;

interface Directory {
  entries: number;
  size: number;
  offset: number;
}

/** Every entry by name. Throws when the archive is not one that `torch.save` could have written. */
export function readZipDirectory(source: ByteSource): Map<string, ZipEntry> {
  const directory = findDirectory(source);
  if (directory.size > LARGEST_DIRECTORY) {
    throw source.broken(
      `the zip directory claims ${directory.size} bytes, more than the ${LARGEST_DIRECTORY} allowed`,
    );
  }
  checkRange(source, directory.offset, directory.size);
  if (directory.entries * 46 > directory.size) {
    throw source.broken(
      `the zip directory claims ${directory.entries} entries in ${directory.size} bytes; it is damaged`,
    );
  }
  const bytes = Buffer.from(readRange(source, directory.offset, directory.size).buffer);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < directory.entries; i++) {
    const { entry, next } = readEntry(source, bytes, at, directory.offset);
    if (entries.has(entry.name)) throw source.broken(`the zip archive holds '${entry.name}' twice`);
    entries.set(entry.name, entry);
    at = next;
  }
  checkApart(source, entries);
  return entries;
}

function findDirectory(source: ByteSource): Directory {
  const tailLength = Math.min(source.size, END_BYTES + LONGEST_COMMENT);
  const tailOffset = source.size - tailLength;
  const tail = Buffer.from(readRange(source, tailOffset, tailLength).buffer);
  let at = tailLength - END_BYTES;
  const isEnd = (at: number) =>
    tail.readUInt32LE(at) === END_SIGNATURE && at + END_BYTES + tail.readUInt16LE(at + 20) === tailLength;
  while (at >= 0 && !isEnd(at)) at--;
  if (at < 0) {
    throw source.broken(
      'it begins like a zip archive (a PyTorch checkpoint) but its directory, which comes last, is missing; the file is ' +
        'truncated. Download or copy it again.',
    );
  }
  const disks = tail.readUInt16LE(at + 4) | tail.readUInt16LE(at + 6);
  const directory = {
    entries: tail.readUInt16LE(at + 10),
    size: tail.readUInt32LE(at + 12),
    offset: tail.readUInt32LE(at + 16),
  };
  const locator = at - 20;
  if (locator >= 0 && tail.readUInt32LE(locator) === LOCATOR64_SIGNATURE) {
    return readDirectory64(source, readUInt64(source, tail, locator + 8));
  }
  if (disks !== 0) throw source.broken('the zip archive is one part of several; join them first');
  return directory;
}

function readDirectory64(source: ByteSource, offset: number): Directory {
  const end = Buffer.from(readRange(source, offset, 56).buffer);
  if (end.readUInt32LE(0) !== END64_SIGNATURE) {
    throw source.broken('the zip64 directory is not where its locator says; the file is damaged');
  }
  if (end.readUInt32LE(16) !== 0 || end.readUInt32LE(20) !== 0) {
    throw source.broken('the zip archive is one part of several; join them first');
  }
  return {
    entries: readUInt64(source, end, 32),
    size: readUInt64(source, end, 40),
    offset: readUInt64(source, end, 48),
  };
}

function readEntry(source: ByteSource, bytes: Buffer, at: number, directoryOffset: number) {
  if (at + 46 > bytes.length || bytes.readUInt32LE(at) !== CENTRAL_SIGNATURE) {
    throw source.broken('the zip directory is damaged');
  }
  const flags = bytes.readUInt16LE(at + 8);
  const method = bytes.readUInt16LE(at + 10);
  const nameLength = bytes.readUInt16LE(at + 28);
  const extraLength = bytes.readUInt16LE(at + 30);
  const commentLength = bytes.readUInt16LE(at + 32);
  const next = at + 46 + nameLength + extraLength + commentLength;
  if (next > bytes.length) throw source.broken('the zip directory is damaged: an entry runs past its end');
  const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
  const extra = bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength);
  const sizes = {
    stored: bytes.readUInt32LE(at + 20),
    size: bytes.readUInt32LE(at + 24),
    local: bytes.readUInt32LE(at + 42),
  };
  widenSizes(source, name, extra, sizes);

  if (flags & 1) throw source.broken(`the zip entry '${name}' is encrypted`);
  if (method !== 0 || sizes.stored !== sizes.size) {
    throw source.broken(
      `the zip entry '${name}' is compressed; torch.save stores entries as they are, and only such files are read by ` +
        'ranges. Repack it without compression: unzip it, then zip -0 -r.',
    );
  }
  const local = Buffer.from(readRange(source, sizes.local, 30).buffer);
  if (local.readUInt32LE(0) !== LOCAL_SIGNATURE) {
    throw source.broken(`the zip entry '${name}' is not where the directory says; the file is damaged`);
  }
  const offset = sizes.local + 30 + local.readUInt16LE(26) + local.readUInt16LE(28);
  if (offset + sizes.size > directoryOffset) {
    throw source.broken(
      `the zip entry '${name}' claims ${sizes.size} bytes at ${offset}, past the end of the archive's data`,
    );
  }
  const entry: ZipEntry = { name, offset, size: sizes.size, crc32: bytes.readUInt32LE(at + 16) };
  return { entry, next };
}

/** Replaces the sizes that are all ones by those of the zip64 extra field (id 1), in the order the format fixes. */
function widenSizes(
  source: ByteSource,
  name: string,
  extra: Buffer,
  sizes: { size: number; stored: number; local: number },
): void {
  const wide = (['size', 'stored', 'local'] as const).filter((field) => sizes[field] === 0xffffffff);
  if (wide.length === 0) return;
  for (let at = 0; at + 4 <= extra.length; ) {
    const id = extra.readUInt16LE(at);
    const length = extra.readUInt16LE(at + 2);
    if (id === 1 && length >= wide.length * 8 && at + 4 + length <= extra.length) {
      wide.forEach((field, i) => {
        sizes[field] = readUInt64(source, extra, at + 4 + i * 8);
      });
      return;
    }
    at += 4 + length;
  }
  throw source.broken(`the zip entry '${name}' lacks its 64-bit sizes; the file is damaged`);
}

function readUInt64(source: ByteSource, bytes: Buffer, at: number): number {
  const value = Number(bytes.readBigUInt64LE(at));
  if (!Number.isSafeInteger(value))
    throw source.broken(`the zip archive claims a size of ${value} bytes; it is damaged`);
  return value;
}

function checkApart(source: ByteSource, entries: Map<string, ZipEntry>): void {
  let previous: ZipEntry | undefined;
  for (const entry of [...entries.values()].sort((a, b) => a.offset - b.offset)) {
    if (previous && entry.offset < previous.offset + previous.size) {
      throw source.broken(`the zip entries '${previous.name}' and '${entry.name}' overlap`);
    }
    previous = entry;
  }
}

/**
 * safetensors: a length, a JSON header, and the tensors' bytes without gap or overlap; also sharded with an index.
 *
 * Read as strictly as the format's own documentation asks: a header of at most 100 MB, no key twice, every byte of the
 * data owned by exactly one tensor.
 */
import * as path from 'node:path';
import { DTYPE_BYTES, elementCount, isDtype } from './dtype.js';
import { type ByteSource, openFile, readRange } from './source.js';
import { StoredTensor } from './stored-tensor.js';
import { parseStrictJson } from './strict-json.js';

const LONGEST_HEADER = 100_000_000;
const LONGEST_INDEX = 32 * 1024 * 1024;

/** What a safetensors file says of itself. */
export interface SafetensorsContent {
  tensors: Map<string, StoredTensor>;
  /** The header's `__metadata__`. */
  metadata: Record<string, string>;
}

/** Whether the first nine bytes are a plausible header length and an opening brace. */
export function isSafetensors(head: Uint8Array): boolean {
  return head.length >= 9 && head[8] === 0x7b && head[6] === 0 && head[7] === 0;
}

/** Reads the header of one file. */
export function openSafetensors(source: ByteSource): SafetensorsContent {
  const length = Number(Buffer.from(readRange(source, 0, 8).buffer).readBigUInt64LE(0));
  if (length > LONGEST_HEADER || length < 2) {
    throw source.broken(
      `its header claims ${length} bytes, where 2 to ${LONGEST_HEADER} are allowed; the file is damaged`,
    );
  }
  if (8 + length > source.size) {
    throw source.broken(
      `its header claims ${length} bytes, but the file has only ${source.size}; it is truncated or damaged`,
    );
  }
  const header = parseStrictJson(source, readRange(source, 8, length), 'the safetensors header');
  if (!isObject(header)) throw source.broken('the safetensors header is no JSON object; the file is damaged');
  const data = { offset: 8 + length, size: source.size - 8 - length };

  const ranges: { name: string; tensor: StoredTensor; begin: number; end: number }[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = checkMetadata(source, value);
    else ranges.push(readTensor(source, name, value, data));
  }
  checkCover(source, ranges, data.size);
  return { tensors: new Map(ranges.map(({ name, tensor }) => [name, tensor])), metadata };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function checkMetadata(source: ByteSource, value: unknown): Record<string, string> {
  if (!isObject(value) || !Object.values(value).every((text) => typeof text === 'string')) {
    throw source.broken("'__metadata__' in the safetensors header must map names to strings");
  }
  return value as Record<string, string>;
}

function readTensor(
  source: ByteSource,
  name: string,
  value: unknown,
  data: { offset: number; size: number },
) {
  const broken = (what: string) => source.broken(`tensor '${name.slice(0, 200)}' ${what}`);
  if (!isObject(value)) throw broken('is described by no object; the file is damaged');
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) {
    throw broken(
      `has dtype ${JSON.stringify(dtype)?.slice(0, 40)}; known are ${Object.keys(DTYPE_BYTES).join(', ')}`,
    );
  }
  const count = Array.isArray(shape) ? elementCount(shape) : undefined;
  if (count === undefined) throw broken('has no proper shape; the file is damaged');
  if (
    !Array.isArray(offsets) ||
    offsets.length !== 2 ||
    !offsets.every((at) => Number.isSafeInteger(at) && at >= 0)
  ) {
    throw broken("has no proper 'data_offsets'; the file is damaged");
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > data.size) {
    throw broken(`claims bytes ${begin} to ${end} of ${data.size}; the file is truncated or damaged`);
  }
  if (end - begin !== count * DTYPE_BYTES[dtype]) {
    throw broken(
      `of type ${dtype} and shape [${(shape as number[]).slice(0, 16)}] needs ${count * DTYPE_BYTES[dtype]} bytes, but has ${end - begin}`,
    );
  }
  const tensor = new StoredTensor(source, dtype, shape as number[], data.offset + begin);
  return { name, tensor, begin, end };
}

/** Every byte of the data belongs to exactly one tensor. */
function checkCover(
  source: ByteSource,
  ranges: { name: string; begin: number; end: number }[],
  size: number,
): void {
  let at = 0;
  let previous = 'the header';
  for (const { name, begin, end } of [...ranges].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin < at) throw source.broken(`tensors '${previous}' and '${name}' overlap; the file is damaged`);
    if (begin > at)
      throw source.broken(`${begin - at} bytes between '${previous}' and '${name}' belong to no tensor`);
    at = end;
    previous = name;
  }
  if (at !== size)
    throw source.broken(`${size - at} bytes after '${previous}' belong to no tensor; the file is damaged`);
}

/**
 * Reads an index (`{ "weight_map": { name: file } }`) and the headers of its shards, which must lie beside it. Tensors
 * that a shard holds but the index does not name are left out.
 *
 * @returns the tensors, and the shards' open sources for the caller to close; on an error they are closed here
 */
export function openSafetensorsIndex(source: ByteSource): SafetensorsContent & { shards: ByteSource[] } {
  if (source.size > LONGEST_INDEX) throw source.broken(`an index of ${source.size} bytes is not believable`);
  const index = parseStrictJson(source, readRange(source, 0, source.size), 'the index');
  if (!isObject(index) || !isObject(index.weight_map)) {
    throw source.broken("expected a safetensors index: a JSON object with a 'weight_map'");
  }
  const namesByFile = new Map<string, string[]>();
  for (const [name, file] of Object.entries(index.weight_map)) {
    if (typeof file !== 'string' || !isPlainFileName(file)) {
      throw source.broken(
        `the index puts tensor '${name.slice(0, 200)}' in ${JSON.stringify(file)?.slice(0, 200)}; expected the plain name of a file beside it`,
      );
    }
    const names = namesByFile.get(file) ?? [];
    names.push(name);
    namesByFile.set(file, names);
  }

  const shards: ByteSource[] = [];
  const tensors = new Map<string, StoredTensor>();
  let metadata: Record<string, string> = {};
  try {
    for (const [file, names] of namesByFile) {
      const shard = openFile(path.join(path.dirname(source.name), file));
      shards.push(shard);
      const content = openSafetensors(shard);
      for (const name of names) {
        const tensor = content.tensors.get(name);
        if (!tensor)
          throw shard.broken(`the index puts tensor '${name.slice(0, 200)}' in this file, which lacks it`);
        tensors.set(name, tensor);
      }
      metadata = { ...metadata, ...content.metadata };
    }
  } catch (error) {
    for (const shard of shards) shard.close();
    throw error;
  }
  return { tensors, metadata, shards };
}

function isPlainFileName(name: string): boolean {
  return name.endsWith('.safetensors') && !/[/\\:\0]/.test(name) && name.length <= 255;
}

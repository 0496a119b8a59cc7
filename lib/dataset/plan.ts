/**
 * The plan of a run: which shards it makes, and of what. It depends on the names of the inputs and the size of a shard only, so
 * that every process and machine plans alike, and a shard can be made anywhere, any number of times, to the same bytes.
 */
import { createHash } from 'node:crypto';
import { checkOptions, invalidArgument } from '../errors.js';
import type { Input } from './find-inputs.js';
import type { SourceItem } from './source.js';
import { type FileList, fileItems } from './sources/files.js';
import { checkParquetColumns, countParquetRows, parquetItems } from './sources/parquet.js';
import { countTarSamples, tarItems } from './sources/tar.js';

/** What a shard is made of: references to images, not images. */
export type ShardInput =
  | ({ kind: 'files' } & FileList)
  /** The samples from `start` on, `count` of them, or all that follow. */
  | { kind: 'tar'; file: string; start: number; count?: number }
  /** The rows from `start` on, `count` of them. */
  | { kind: 'parquet'; file: string; start: number; count: number };

export interface PlannedShard {
  /** The name of its files, without folder and extension. */
  name: string;
  input: ShardInput;
}

export interface Plan {
  shards: PlannedShard[];
  /** Two plans of one hash are the same. */
  sha256: string;
}

export interface PlanOptions extends ItemOptions {
  /** The most images in a shard. Default 10 000; but a tar is one shard, as counting its samples means reading it. */
  shardSize?: number;
}

/** What the items of an input are, where the input leaves a choice. */
export interface ItemOptions {
  /** The column (Parquet) or member (tar) that holds the image. */
  image?: string;
  /** The column of ids (Parquet). */
  id?: string;
}

const DEFAULT_SHARD_SIZE = 10_000;

/**
 * Cuts inputs into shards.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_INVALID_ARGUMENT, ERR_TOKENFLOW_FORMAT: a column that a Parquet file
 * does not have
 */
export async function planShards(inputs: readonly Input[], options: PlanOptions = {}): Promise<Plan> {
  checkOptions('planShards', options, ['shardSize', 'image', 'id']);
  const { shardSize, image, id } = options;
  if (shardSize !== undefined && !(Number.isSafeInteger(shardSize) && shardSize > 0)) {
    throw invalidArgument('shardSize', 'a whole number over 0', shardSize);
  }
  const parts: ShardInput[] = [];
  for (const input of inputs) {
    if (input.kind === 'parquet') await checkParquetColumns(input.file, { image, id });
    for await (const part of cut(input, shardSize)) parts.push(part);
  }
  const shards = parts.map((input, i): PlannedShard => ({ name: shardName(i), input }));
  return { shards, sha256: planHash(shards) };
}

async function* cut(input: Input, shardSize: number | undefined): AsyncGenerator<ShardInput> {
  if (input.kind === 'tar' && shardSize === undefined) {
    yield { kind: 'tar', file: input.file, start: 0 };
    return;
  }
  const size = shardSize ?? DEFAULT_SHARD_SIZE;
  const total = await countOf(input);
  for (let start = 0; start < total; start += size) {
    const count = Math.min(size, total - start);
    yield input.kind === 'files'
      ? { kind: 'files', root: input.root, ids: input.ids.slice(start, start + count) }
      : { ...input, start, count };
  }
}

function countOf(input: Input): number | Promise<number> {
  if (input.kind === 'files') return input.ids.length;
  return input.kind === 'tar' ? countTarSamples(input.file) : countParquetRows(input.file);
}

function shardName(index: number): string {
  return `shard-${String(index).padStart(6, '0')}`;
}

function planHash(shards: readonly PlannedShard[]): string {
  const hash = createHash('sha256');
  for (const shard of shards) hash.update(`${JSON.stringify(shard)}\n`);
  return hash.digest('hex');
}

/** How many images a shard is made of, where that is known without reading them. */
export function plannedImages({ input }: PlannedShard): number | undefined {
  return input.kind === 'files' ? input.ids.length : input.count;
}

/** The images of a shard. */
export function shardItems(
  input: ShardInput,
  { image, id }: ItemOptions = {},
): AsyncIterable<SourceItem> | Iterable<SourceItem> {
  if (input.kind === 'files') return fileItems(input);
  const { file, start, count } = input;
  return input.kind === 'tar'
    ? tarItems(file, { start, count, image })
    : parquetItems(file, { start, count, image, id });
}

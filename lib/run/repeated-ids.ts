/** Ids that stand for more than one image of a run: allowed, as every shard is made for itself, but seldom meant. */
import { createHash } from 'node:crypto';
import { readShard } from '../dataset/sink.js';
import type { Manifest } from './manifest.js';
import type { RunFolder } from './run-folder.js';

export interface RepeatedIds {
  /** How many ids stand for more than one image. */
  count: number;
  /** One of them. */
  example: string;
}

/** Looks through the shards that a manifest lists. Takes 8 bytes an image. @throws TokenFlowError as `readShard` */
export async function repeatedIds(
  folder: RunFolder,
  { images, settings, shards }: Manifest,
  signal?: AbortSignal,
): Promise<RepeatedIds | undefined> {
  const hashes = new BigUint64Array(images);
  async function* ids() {
    for (const { name, files } of shards) {
      if (files.length === 0) continue;
      for await (const { id } of readShard(settings.format, folder.shardBase(name))) {
        signal?.throwIfAborted();
        yield id;
      }
    }
  }
  let seen = 0;
  for await (const id of ids()) hashes[seen++] = hashOf(id);
  const sorted = hashes.subarray(0, seen).sort();
  const repeated = new Set<bigint>();
  for (let i = 1; i < seen; i++) if (sorted[i] === sorted[i - 1]) repeated.add(sorted[i]);
  if (repeated.size === 0) return undefined;
  for await (const id of ids()) if (repeated.has(hashOf(id))) return { count: repeated.size, example: id };
  return undefined;
}

/** Of ten million ids two have the same one by chance in three runs of a million. */
function hashOf(id: string): bigint {
  return createHash('sha256').update(id).digest().readBigUInt64LE();
}

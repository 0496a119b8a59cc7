/** Whether the files of a shard are still as they were written. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import * as path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { systemError } from '../system-error.js';
import type { ShardSummary } from './manifest.js';

/**
 * What is wrong with the first file of a shard that is not as it was written, in words; undefined when all are well.
 *
 * @param folder where the files are
 * @throws TokenFlowError ERR_TOKENFLOW_IO when a file is there and cannot be read
 */
export async function damage(
  folder: string,
  files: ShardSummary['files'],
  signal?: AbortSignal,
): Promise<string | undefined> {
  for (const { name, bytes, sha256 } of files) {
    const found = await fingerprint(path.join(folder, name), signal);
    if (!found) return `${name} is missing`;
    if (found.bytes !== bytes) return `${name} is damaged: it has ${found.bytes} bytes instead of ${bytes}`;
    if (found.sha256 !== sha256) return `${name} is damaged: its checksum is not the one it was written with`;
  }
  return undefined;
}

async function fingerprint(
  file: string,
  signal?: AbortSignal,
): Promise<{ bytes: number; sha256: string } | undefined> {
  const hash = createHash('sha256');
  const stream = createReadStream(file, { highWaterMark: 2 ** 20 });
  try {
    await pipeline(stream, hash, { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw systemError('read', file, cause);
  }
  return { bytes: stream.bytesRead, sha256: hash.digest('hex') };
}

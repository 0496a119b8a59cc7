import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { systemError } from '../system-error.js';

/**
 * SHA-256 of a checkpoint's files: of the one, or of the index and its shards in the order of their names.
 *
 * @param checkpoint a file, or the folder it is in
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_CHECKPOINT
 */
export async function modelHash(checkpoint: string, signal?: AbortSignal): Promise<string> {
  const opened = openCheckpoint(checkpoint);
  const { path: file, format } = opened;
  opened.close();
  const hash = createHash('sha256');
  for (const part of format === 'safetensors-sharded' ? [file, ...shardsOf(file)] : [file]) {
    try {
      await pipeline(createReadStream(part, { highWaterMark: 2 ** 20 }), hash, { end: false, signal });
    } catch (cause) {
      signal?.throwIfAborted();
      throw systemError('read', part, cause);
    }
  }
  return hash.digest('hex');
}

/** The files that an index names; it has been opened, so it is well-formed. */
function shardsOf(index: string): string[] {
  const { weight_map } = JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> };
  const names = [...new Set(Object.values(weight_map))].sort();
  return names.map((name) => path.join(path.dirname(index), name));
}

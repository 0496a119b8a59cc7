/** Image files on the disk. */
import { opendir, readFile, realpath, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { TokenFlowError } from '../../errors.js';
import { systemError, systemReason } from '../../system-error.js';
import { naturalOrder } from '../natural-order.js';
import type { SourceItem } from '../source.js';

/** Files whose ids are their paths as seen from `root`. */
export interface FileList {
  root: string;
  ids: readonly string[];
}

/** The error of something that cannot be read, called `what`. */
export function cannotRead(what: string, file: string, cause: unknown): TokenFlowError {
  const message = `Cannot read ${what}: ${systemReason('read', file, cause)}`;
  return new TokenFlowError('ERR_TOKENFLOW_IO', message, { cause });
}

/**
 * The files below a folder that `wanted` takes, as paths from it with `/`, in natural order. Links are followed, names that
 * begin with a dot passed over.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_IO for a folder that cannot be read
 */
export async function listFolder(folder: string, wanted: (file: string) => boolean): Promise<string[]> {
  const found: string[] = [];

  /** `above`: where the folders on the way down really are, so that a link to one of them ends. */
  async function walk(prefix: string, above: readonly string[]): Promise<void> {
    const here = path.join(folder, prefix);
    try {
      const real = await realpath(here);
      if (above.includes(real)) return;
      const folders: string[] = [];
      for await (const entry of await opendir(here)) {
        if (entry.name.startsWith('.')) continue;
        const name = prefix + entry.name;
        const kind = entry.isSymbolicLink() ? await followed(path.join(folder, name)) : entry;
        if (kind?.isDirectory()) folders.push(`${name}/`);
        else if (kind?.isFile() && wanted(name)) found.push(name);
      }
      for (const inner of folders) await walk(inner, [...above, real]);
    } catch (cause) {
      throw cause instanceof TokenFlowError ? cause : systemError('read', here, cause);
    }
  }

  await walk('', []);
  return found.sort(naturalOrder);
}

/** What a link leads to, if anything. */
async function followed(link: string) {
  try {
    return await stat(link);
  } catch (error) {
    if (['ENOENT', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

/** Image files as items; each is read when its turn has come. */
export function* fileItems({ root, ids }: FileList): Generator<SourceItem> {
  for (const id of ids) yield { id, load: (signal) => loadFile(path.resolve(root, id), id, signal) };
}

async function loadFile(file: string, id: string, signal?: AbortSignal): Promise<Uint8Array> {
  try {
    return await readFile(file, { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    throw cannotRead(`'${id}'`, file, cause);
  }
}

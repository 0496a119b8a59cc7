/** What the operating system refuses, in words for whoever asked. */
import { existsSync } from 'node:fs';
import * as path from 'node:path';
import { TokenFlowError } from './errors.js';

/** What was to be done with a file or folder. */
export type FileAction = 'open' | 'read' | 'write' | 'make the folder';

const REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'the file system is read-only',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EEXIST: 'a file is there already',
  ENOSPC: 'no space left on the disk',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would be larger than the system or a limit (ulimit -f) allows',
  EMFILE: 'too many files are open',
  ENFILE: 'too many files are open',
  ENAMETOOLONG: 'the name is too long',
  ELOOP: 'its symbolic links lead in a circle',
  ETXTBSY: 'it is a program that is running',
  EBUSY: 'it is in use',
  EIO: 'the disk reports an error',
  ENXIO: 'nothing is at its other end',
};

/** Why `action` on `file` failed; the system's own words where there are no plainer ones. */
export function systemReason(action: FileAction, file: string, cause: unknown): string {
  const { code = '', message } = cause as NodeJS.ErrnoException;
  if (code !== 'ENOENT') return Object.hasOwn(REASONS, code) ? REASONS[code] : message;
  const full = path.resolve(file);
  const folder = path.dirname(full);
  // A new file needs its folder only; a missing one is then the whole reason.
  if (action === 'write' && !existsSync(folder)) return `there is no folder ${folder}`;
  return `there is no such file${full === file ? '' : ` (looked for ${full})`}`;
}

/** The error of this package for what the operating system refused. */
export function systemError(action: FileAction, file: string, cause: unknown): TokenFlowError {
  const message = `Cannot ${action} '${file}': ${systemReason(action, file, cause)}`;
  return new TokenFlowError('ERR_TOKENFLOW_IO', message, { cause });
}

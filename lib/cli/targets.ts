/** Where results go. Checked before anything is computed, so that no work is lost to a path that cannot be written. */
import { accessSync, constants, existsSync, mkdirSync, realpathSync, statSync } from 'node:fs';
import * as path from 'node:path';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { usageError } from './session.js';

const PICTURE = /\.(avif|bmp|gif|heic|heif|jfif|jpe?g|png|svg|tiff?|webp)$/i;

/** What a command writes, by the option that names it; `-` is stdout. */
export type Targets = Readonly<Record<string, string | undefined>>;

/**
 * Checks that the files can be written, that none is named twice or is read by the same command, and that at most one
 * result goes to stdout.
 * @param inputs paths the command reads
 * @param json whether stdout is taken already
 */
export function checkTargets(targets: Targets, inputs: readonly string[], json = false): void {
  const named = Object.entries(targets).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const onStdout = named.filter(([, file]) => file === '-').map(([option]) => `${option} -`);
  if (json) onStdout.push('--json');
  if (onStdout.length > 1) {
    throw usageError(`only one result can go to stdout, but ${onStdout.join(' and ')} would`);
  }
  const seen = new Map<string, string>();
  for (const [option, file] of named) {
    if (file === '-') {
      checkStdout(option);
      continue;
    }
    const other = seen.get(path.resolve(file));
    if (other) throw usageError(`${other} and ${option} name the same file, ${file}`);
    seen.set(path.resolve(file), option);
    checkNotRead(file, inputs);
    if (PICTURE.test(file)) {
      throw usageError(`${option} writes an array, and ${file} is named like a picture; name a .npy file`);
    }
    checkFile(file);
  }
}

/** Refuses to write bytes to the terminal of a person. */
export function checkStdout(option: string): void {
  if (!process.stdout.isTTY) return;
  throw usageError(`${option} - writes bytes to stdout, which is a terminal; pipe it on or name a file`);
}

/** Refuses to write over what the command reads. */
export function checkNotRead(file: string, inputs: readonly string[]): void {
  const itself = realPath(file);
  if (itself === undefined || !inputs.some((input) => realPath(input) === itself)) return;
  throw usageError(`${file} is read by this command and would be written over; name another place`);
}

function realPath(file: string): string | undefined {
  try {
    return realpathSync(file);
  } catch {
    return undefined; // not there: nothing that could be written over
  }
}

/** Throws unless a file can be written there. */
export function checkFile(file: string): void {
  try {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (stat?.isDirectory()) throw Object.assign(new Error('is a directory'), { code: 'EISDIR' });
    accessSync(stat ? file : path.dirname(file), constants.W_OK);
    if (!stat && !statSync(path.dirname(file)).isDirectory()) {
      throw Object.assign(new Error('not a directory'), { code: 'ENOTDIR' });
    }
  } catch (cause) {
    throw systemError('write', file, cause);
  }
}

/** Throws unless the folder is there and can be written, or can be made. */
export function checkFolder(folder: string): void {
  let nearest = path.resolve(folder);
  try {
    while (!statSync(nearest, { throwIfNoEntry: false })) nearest = path.dirname(nearest);
    if (!statSync(nearest).isDirectory() && nearest === path.resolve(folder)) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_IO',
        `Cannot write into '${folder}': it is a file, not a folder; name another place`,
      );
    }
    if (!statSync(nearest).isDirectory())
      throw Object.assign(new Error('not a directory'), { code: 'ENOTDIR' });
    accessSync(nearest, constants.W_OK);
  } catch (cause) {
    if (cause instanceof TokenFlowError) throw cause;
    throw systemError(existsSync(folder) ? 'write' : 'make the folder', folder, cause);
  }
}

/** Makes a folder for results. */
export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw systemError('make the folder', folder, cause);
  }
}

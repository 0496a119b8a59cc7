/** The standard streams as files: what `-` stands for. */
import { accessSync, constants, statSync } from 'node:fs';
import * as path from 'node:path';
import { CommanderError } from 'commander';
import { loadSharp } from '../image/sharp.js';
import { type ImageSource, named } from '../image/source.js';
import { systemError } from '../system-error.js';
import { CommandFailed, usageError } from './session.js';

/** Throws when a path, unless it is a URL, is not there or may not be read. */
function checkReadable(file: string): void {
  if (/^(https?|data|blob):/i.test(file)) return; // explained when it is read
  try {
    accessSync(file, constants.R_OK);
    if (statSync(file).isDirectory()) {
      throw usageError(
        `${file} is a folder; name its images (${path.join(file, '*.jpg')}), or see tokenflow tokenize`,
      );
    }
  } catch (cause) {
    if (cause instanceof CommanderError) throw cause;
    throw systemError('read', file, cause);
  }
}

/** Everything that comes in on stdin, which is not nothing. */
export async function readStdin(): Promise<Uint8Array> {
  if (process.stdin.isTTY) throw usageError('- reads from stdin, but nothing is piped into it');
  const pieces: Uint8Array[] = [];
  try {
    for await (const piece of process.stdin) pieces.push(piece as Uint8Array);
  } catch (cause) {
    throw systemError('read', 'stdin', cause);
  }
  if (pieces.length === 0) throw new CommandFailed('stdin is empty');
  return new Uint8Array(Buffer.concat(pieces));
}

/** Writes everything to stdout, however slowly it is read. */
export function writeStdout(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) =>
    process.stdout.write(bytes, (error) =>
      error ? reject(systemError('write', 'stdout', error)) : resolve(),
    ),
  );
}

/**
 * Images as the tokenizer takes them: paths, and the bytes on stdin for `-`. A path that cannot be read is an error here,
 * before the others have been worked on.
 */
export async function openImages(images: readonly string[]): Promise<ImageSource[]> {
  for (const image of images) if (image !== '-') checkReadable(image);
  if (images.length > 0) loadSharp(); // its absence is better known now
  if (images.filter((image) => image === '-').length > 1)
    throw usageError('stdin can be read once only; give - once');
  return Promise.all(
    images.map((image) => (image === '-' ? readStdin().then((bytes) => named(bytes, 'stdin')) : image)),
  );
}

import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import * as path from 'node:path';
import { systemError } from '../../system-error.js';
import type { ShardFile } from '../sink.js';

/** Small writes are gathered to this size, in bytes. */
const PIECE_BYTES = 256 * 1024;

/** `.NAME.HOST-PROCESS-RANDOM.part` */
const PART = /^\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part$/;

const HOST = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);

/** Whether a file name is one of a pending file: what a process that was killed leaves behind. */
export function isPart(name: string): boolean {
  return PART.test(name);
}

/** Whether a pending file's process ran on this machine and is gone. */
export function isAbandoned(name: string): boolean {
  const [, host, id] = PART.exec(name) ?? [];
  if (host !== HOST) return false;
  try {
    process.kill(Number(id), 0); // sends nothing; asks whether it is there
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/**
 * A file that is not there yet: it is written under a hidden name in the same folder, sealed (on the disk, with its
 * checksum) and then published (renamed). Hidden names are never the same, so that two processes may write the same file; the
 * last to publish wins. All methods throw ERR_TOKENFLOW_IO.
 */
export class PendingFile {
  readonly path: string;
  readonly #part: string;
  readonly #handle: FileHandle;
  #gathered: Uint8Array[] = [];
  #gatheredBytes = 0;
  #open = true;
  #published = false;

  private constructor(file: string, part: string, handle: FileHandle) {
    this.path = file;
    this.#part = part;
    this.#handle = handle;
  }

  static async create(file: string): Promise<PendingFile> {
    const random = randomBytes(4).toString('hex');
    const name = `.${path.basename(file)}.${HOST}-${process.pid}-${random}.part`;
    const part = path.join(path.dirname(file), name);
    return new PendingFile(file, part, await writing(file, () => open(part, 'wx+')));
  }

  /** Appends; the bytes must not change until the file is sealed. */
  async write(bytes: Uint8Array): Promise<void> {
    this.#gathered.push(bytes);
    this.#gatheredBytes += bytes.length;
    if (this.#gatheredBytes >= PIECE_BYTES) await this.#flush();
  }

  /** Writes over the beginning of what was appended. */
  async overwrite(bytes: Uint8Array): Promise<void> {
    await this.#flush();
    await writing(this.path, () => this.#handle.write(bytes, 0, bytes.length, 0));
  }

  /** Ends writing: when it returns, the bytes are on the disk. */
  async seal(): Promise<ShardFile> {
    await this.#flush();
    return writing(this.path, async () => {
      await this.#handle.sync();
      const hash = createHash('sha256');
      const piece = Buffer.allocUnsafe(PIECE_BYTES);
      let bytes = 0;
      for (;;) {
        const { bytesRead } = await this.#handle.read(piece, 0, piece.length, bytes);
        if (bytesRead === 0) break;
        hash.update(piece.subarray(0, bytesRead));
        bytes += bytesRead;
      }
      await this.#close();
      return { path: this.path, bytes, sha256: hash.digest('hex') };
    });
  }

  /** Gives a sealed file its name, for good. */
  async publish(): Promise<void> {
    await writing(this.path, async () => {
      await rename(this.#part, this.path);
      this.#published = true;
      await syncFolder(path.dirname(this.path));
    });
  }

  /** Removes it, unless it was published. */
  async discard(): Promise<void> {
    await writing(this.path, async () => {
      await this.#close();
      if (!this.#published) await rm(this.#part, { force: true });
    });
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
  }

  async #flush(): Promise<void> {
    if (this.#gatheredBytes === 0) return;
    const bytes = Buffer.concat(this.#gathered);
    this.#gathered = [];
    this.#gatheredBytes = 0;
    await writing(this.path, async () => {
      for (let done = 0; done < bytes.length; ) {
        done += (await this.#handle.write(bytes, done)).bytesWritten;
      }
    });
  }
}

/** Makes the renames in a folder last through a loss of power. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return; // a folder cannot be opened there; NTFS keeps a journal
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writing<T>(file: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    throw systemError('write', file, cause);
  }
}

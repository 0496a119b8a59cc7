/** Token shards back to images. */
import { mkdir } from 'node:fs/promises';
import * as path from 'node:path';
import { readShard, type TokenRecord } from '../dataset/sink.js';
import { isImageName } from '../dataset/sources/image-names.js';
import { TokenFlowError } from '../errors.js';
import { writePng } from '../image/png.js';
import { systemError } from '../system-error.js';
import type { TokenFlow } from '../tokenizer/tokenflow.js';
import { damage } from './damage.js';
import type { RunFolder } from './run-folder.js';

export interface DetokenizeOptions {
  /** Decode the first scales only. */
  scales?: number;
  /** The most images. Default: all. */
  limit?: number;
  /** Images per run of the model. */
  batchSize?: number;
  signal?: AbortSignal;
  onImage?: (id: string, file: string) => void;
}

const DEFAULT_BATCH = 8;

/**
 * Writes the images of a run below `out`, each as PNG under its id. A batch is decoded while the one before it is written.
 *
 * @returns how many images were written
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT (a damaged shard), ERR_TOKENFLOW_INVALID_ARGUMENT (tokens out of
 * the model's range)
 */
export async function detokenizeRun(
  folder: RunFolder,
  tokenizer: TokenFlow,
  out: string,
  options: DetokenizeOptions = {},
): Promise<number> {
  const { scales, limit = Number.POSITIVE_INFINITY, batchSize = DEFAULT_BATCH, signal, onImage } = options;
  const names = new ImageNames();
  let batch: TokenRecord[] = [];
  let count = 0;
  let writing: Promise<void> = Promise.resolve();
  const flush = async () => {
    const records = batch;
    batch = [];
    const { data, width, height } = await tokenizer.decode(
      records.map(({ tokens }) => tokens),
      { scales, signal },
    );
    await writing;
    const size = width * height * 3;
    const write = async ({ id }: TokenRecord, i: number) => {
      const file = path.join(out, names.nameOf(id));
      await makeFolderOf(file);
      await writePng(file, { data: data.subarray(i * size, (i + 1) * size), width, height });
      onImage?.(id, file);
    };
    writing = Promise.all(records.map(write)).then(() => {});
    writing.catch(() => {}); // awaited with the next batch
  };
  for await (const record of runRecords(folder, signal)) {
    count++;
    batch.push(record);
    if (batch.length === batchSize) await flush();
    if (count === limit) break; // before the next shard is opened
  }
  if (batch.length > 0) await flush();
  await writing;
  return count;
}

async function* runRecords(folder: RunFolder, signal?: AbortSignal): AsyncGenerator<TokenRecord> {
  const manifest = await folder.existingManifest();
  const { settings } = manifest;
  const plan = manifest.complete ? [] : await folder.plan(); // a complete manifest lists every shard
  for (const { name, files } of await folder.shards(manifest, plan)) {
    const problem = await damage(folder.path, files, signal);
    if (problem) {
      const advice = `make it again with: tokenflow tokenize --resume --out ${folder.path}`;
      throw new TokenFlowError('ERR_TOKENFLOW_FORMAT', `Cannot decode ${name}: ${problem}; ${advice}`);
    }
    if (files.length > 0) yield* readShard(settings.format, folder.shardBase(name));
  }
}

async function makeFolderOf(file: string): Promise<void> {
  try {
    await mkdir(path.dirname(file), { recursive: true });
  } catch (cause) {
    throw systemError('make the folder', path.dirname(file), cause);
  }
}

/** The longest name that every file system takes, in bytes of UTF-8, less what `-123456.png` needs. */
const LONGEST_NAME = 240;

/** File names for ids: paths that stay below the folder, whatever the ids are, each once. */
export class ImageNames {
  readonly #taken = new Set<string>();

  /** `cats/1.jpg` gives `cats/1.png`; `../a` gives `_/a.png`; a second `a` gives `a-2.png`. */
  nameOf(id: string): string {
    const bare = isImageName(id) ? id.slice(0, id.lastIndexOf('.')) : id;
    const parts = bare.split(/[/\\]/).filter((part) => part !== '' && part !== '.');
    const base = parts.map(safeName).join('/') || '_';
    for (let copy = 1; ; copy++) {
      const name = copy === 1 ? `${base}.png` : `${base}-${copy}.png`;
      const key = name.toLowerCase(); // some file systems do not tell A from a
      if (this.#taken.has(key)) continue;
      this.#taken.add(key);
      return name;
    }
  }
}

function safeName(part: string): string {
  if (part === '..') return '_';
  const name = part.replace(UNSAFE, '_');
  return Buffer.byteLength(name) <= LONGEST_NAME ? name : name.slice(0, LONGEST_NAME / 3);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what file names must not have
const UNSAFE = /[\x00-\x1f\x7f<>:"|?*]/g;

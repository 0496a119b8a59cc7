/** Token shards: files that hold the tokens of some thousand images each. What is in them: docs/formats.md. */
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import type { JsonObject } from './json.js';
import type { Format, FormatWriter } from './sinks/format.js';
import { jsonLines } from './sinks/json-lines.js';
import { npy } from './sinks/npy.js';
import { parquet } from './sinks/parquet.js';
import { PendingFile } from './sinks/pending-file.js';
import { safetensors } from './sinks/safetensors.js';
import { webDataset } from './sinks/webdataset.js';

/** The tokens of one image. */
export interface TokenRecord {
  /** Not empty, and once only in a shard. */
  id: string;
  /** `[T]`, coarse scale to fine. */
  tokens: Int32Array;
  /** Of the image the tokens come from, in pixels, after its EXIF turn. */
  width: number;
  height: number;
  meta?: JsonObject;
}

export type TokenFormat = 'npy' | 'jsonl' | 'parquet' | 'webdataset' | 'safetensors';

const FORMATS: Readonly<Record<TokenFormat, Format>> = {
  npy,
  jsonl: jsonLines,
  parquet,
  webdataset: webDataset,
  safetensors,
};

export const TOKEN_FORMATS = Object.keys(FORMATS) as readonly TokenFormat[];

/** How tokens are stored in the formats that hold arrays. */
export type TokenDtype = 'uint16' | 'int32';

export interface ShardOptions {
  /** T: every record has so many. */
  tokensPerImage: number;
  /** Tokens are 0 to this less one. */
  codebookSize: number;
  /**
   * Of `npy`, `webdataset` and `safetensors`. Default: `uint16` where the codebook has at most 65536 codes, else
   * `int32`. `parquet` always holds int32, `jsonl` numbers.
   */
  dtype?: TokenDtype;
}

/** A file of a shard that is on the disk under its final name. */
export interface ShardFile {
  path: string;
  bytes: number;
  /** Of its content, in hexadecimal. */
  sha256: string;
}

/**
 * A shard being written. Its files have hidden names beside the final ones until `finish` flushes and renames them, so
 * that a reader sees a whole shard or none. The same records give the same bytes, always.
 */
export interface ShardWriter {
  /**
   * Adds a record; calls are to be awaited in turn.
   *
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT for a record that does not fit (the shard stays as it was),
   * ERR_TOKENFLOW_IO
   */
  write(record: TokenRecord): Promise<void>;
  /** Puts the shard in place. Its files, the one whose presence says that the shard is whole last. */
  finish(): Promise<ShardFile[]>;
  /** Removes what was written and is not in place; does nothing after `finish`. */
  abort(): Promise<void>;
}

/**
 * Begins a shard.
 *
 * @param base where it goes: the path of its files without their extensions; the folder must exist
 * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT, ERR_TOKENFLOW_IO
 */
export async function openShard(
  format: TokenFormat,
  base: string,
  options: ShardOptions,
): Promise<ShardWriter> {
  const { extensions, open } = formatOf(format);
  checkOptions('openShard', options, ['tokensPerImage', 'codebookSize', 'dtype']);
  const { tokensPerImage, codebookSize } = options;
  for (const [name, value] of Object.entries({ tokensPerImage, codebookSize })) {
    if (!Number.isSafeInteger(value) || value < 1) throw invalidArgument(name, 'a positive integer', value);
  }
  if (options.dtype !== undefined && !hasDtype(format)) {
    throw new TokenFlowError('ERR_TOKENFLOW_INVALID_ARGUMENT', `dtype ${noDtypeOf(format)}`);
  }
  const dtype = options.dtype ?? (codebookSize <= 0x10000 ? 'uint16' : 'int32');
  if (dtype !== 'uint16' && dtype !== 'int32') throw invalidArgument('dtype', "'uint16' or 'int32'", dtype);
  if (dtype === 'uint16' && codebookSize > 0x10000) {
    throw invalidArgument(
      'dtype',
      `'int32' (uint16 holds 65536 codes, the codebook has ${codebookSize})`,
      dtype,
    );
  }
  const files: PendingFile[] = [];
  try {
    for (const extension of extensions) files.push(await PendingFile.create(base + extension));
    const writer = await open(files, { tokensPerImage, dtype });
    return new Shard(files, writer, tokensPerImage, codebookSize);
  } catch (error) {
    await Promise.all(files.map((file) => file.discard()));
    throw error;
  }
}

/**
 * The records of a shard, in the order they were written. The tokens are those in the file, whatever they are; everything
 * else is checked.
 *
 * @param base as for `openShard`
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT (damaged, or no token shard)
 */
export function readShard(format: TokenFormat, base: string): AsyncIterable<TokenRecord> {
  return formatOf(format).read(shardPaths(format, base));
}

/** Whether a format leaves a choice of how tokens are stored. */
export const hasDtype = (format: TokenFormat): boolean => formatOf(format).hasDtype;

/** What is wrong with a dtype for a format that has none to choose, after the name of the option. */
export function noDtypeOf(format: TokenFormat): string {
  const kinds = TOKEN_FORMATS.filter(hasDtype);
  return `goes with ${kinds.slice(0, -1).join(', ')} and ${kinds.at(-1)}; ${format} has a type of its own`;
}

/** The files of a shard, in the order in which they get their names: it is whole if and only if the last one is there. */
export function shardPaths(format: TokenFormat, base: string): string[] {
  return formatOf(format).extensions.map((extension) => base + extension);
}

function formatOf(format: TokenFormat): Format {
  if (!Object.hasOwn(FORMATS, format)) {
    throw invalidArgument('format', TOKEN_FORMATS.map((name) => `'${name}'`).join(', '), format);
  }
  return FORMATS[format];
}

class Shard implements ShardWriter {
  readonly #files: readonly PendingFile[];
  readonly #writer: FormatWriter;
  readonly #tokensPerImage: number;
  readonly #codebookSize: number;
  readonly #ids = new Set<string>();
  #state: 'open' | 'failed' | 'finished' = 'open';

  constructor(
    files: readonly PendingFile[],
    writer: FormatWriter,
    tokensPerImage: number,
    codebookSize: number,
  ) {
    this.#files = files;
    this.#writer = writer;
    this.#tokensPerImage = tokensPerImage;
    this.#codebookSize = codebookSize;
  }

  async write(record: TokenRecord): Promise<void> {
    this.#checkOpen();
    this.#check(record);
    await this.#attempt(() => this.#writer.write(record));
    this.#ids.add(record.id);
  }

  async finish(): Promise<ShardFile[]> {
    this.#checkOpen();
    const files = await this.#attempt(async () => {
      await this.#writer.end();
      const sealed = [];
      for (const file of this.#files) sealed.push(await file.seal());
      for (const file of this.#files) await file.publish();
      return sealed;
    });
    this.#state = 'finished';
    return files;
  }

  async abort(): Promise<void> {
    if (this.#state === 'finished') return;
    this.#state = 'failed';
    await this.#writer.close?.();
    for (const file of this.#files) await file.discard();
  }

  /** After an error in the midst of writing a shard cannot be gone on with. */
  async #attempt<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      this.#state = 'failed';
      throw error;
    }
  }

  #checkOpen(): void {
    if (this.#state === 'open') return;
    const why = this.#state === 'finished' ? 'is finished' : 'failed or was aborted';
    throw new TokenFlowError(
      'ERR_TOKENFLOW_DISPOSED',
      `The shard ${this.#files.at(-1)?.path} ${why}; open another one`,
    );
  }

  #check({ id, tokens, width, height, meta }: TokenRecord): void {
    if (typeof id !== 'string' || id === '' || /\p{Surrogate}/u.test(id)) {
      throw invalidArgument('id', 'a string of Unicode that is not empty', id);
    }
    if (this.#ids.has(id)) throw invalidArgument('id', 'each id once in a shard', id);
    const where = `of '${id.slice(0, 200)}'`;
    if (!(tokens instanceof Int32Array) || tokens.length !== this.#tokensPerImage) {
      throw invalidArgument(`tokens ${where}`, `an Int32Array of ${this.#tokensPerImage}`, tokens);
    }
    const wrong = tokens.find((token) => token < 0 || token >= this.#codebookSize);
    if (wrong !== undefined) {
      throw invalidArgument(`tokens ${where}`, `numbers from 0 to ${this.#codebookSize - 1}`, wrong);
    }
    for (const [name, side] of Object.entries({ width, height })) {
      if (!Number.isInteger(side) || side < 1 || side > 0x7fffffff) {
        throw invalidArgument(`${name} ${where}`, 'a positive integer', side);
      }
    }
    if (meta !== undefined && !isJsonObject(meta)) {
      throw invalidArgument(`meta ${where}`, 'an object that JSON can hold', meta);
    }
  }
}

function isJsonObject(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  try {
    return JSON.stringify(value)?.startsWith('{');
  } catch {
    return false; // a circle or a BigInt
  }
}

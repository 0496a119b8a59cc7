/** Tar shards as WebDataset has them: files of one name and different extensions, one after the other, are a sample. */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { pipeline, type Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { createGunzip } from 'node:zlib';
import { extract } from 'tar-stream';
import { TokenFlowError } from '../../errors.js';
import type { JsonObject, JsonValue } from '../json.js';
import type { SourceItem } from '../source.js';
import { cannotRead } from './files.js';
import { isImageName } from './image-names.js';

export interface TarOptions {
  /** Samples to pass over first. Default 0. */
  start?: number;
  /** The most samples to give. Default: all. */
  count?: number;
  /** The member that is the image, by its extension (`jpg`, `left.png`). Default: the first with an image's extension. */
  image?: string;
}

/** Larger members are an error of their sample: nothing that fits in memory is so large. */
const MAX_MEMBER_BYTES = 2 ** 30;

/** Members besides the image that go along as `meta`, under their extension, as WebDataset decodes them. */
const META = new Map<string, (text: string) => JsonValue>([
  ['json', (text) => JSON.parse(text) as JsonValue],
  ['cls', (text) => (/^\s*-?\d+\s*$/.test(text) ? Number(text) : text.trim())],
  ['txt', (text) => text],
]);

/** A file in a tar, before its content is read. */
interface Member {
  key: string;
  extension: string;
  size: number;
  read(): Promise<Buffer>;
}

/** `folder/key.extension`: the key ends at the first dot of the name. Names without a key, and `__meta__`, are no members. */
const MEMBER = /^((?:.*\/)?[^./][^./]*)\.([^/]+)$/;

async function* members(file: string): AsyncGenerator<Member> {
  const archive = extract();
  const broken = (cause: unknown): never => {
    throw cause instanceof TokenFlowError ? cause : cannotRead(`the tar '${file}'`, file, cause);
  };
  try {
    const zipped = await isGzip(file);
    const bytes = createReadStream(file, { highWaterMark: 2 ** 18 });
    const target = archive as unknown as NodeJS.WritableStream; // of streamx, which has the same methods
    const ended = () => {}; // an error reaches the loop below through the archive
    if (zipped) pipeline(bytes, createGunzip(), target, ended);
    else pipeline(bytes, target, ended);
    for await (const entry of archive) {
      const content = entry as unknown as Readable;
      const { name, size, type } = entry.header;
      const match =
        type === 'file' || type === 'contiguous-file' ? MEMBER.exec(name.replace(/^\.\//, '')) : null;
      if (match && !/__[^/]*__(\/|$)/.test(match[1])) {
        yield {
          key: match[1],
          extension: match[2].toLowerCase(),
          size,
          read: () => buffer(content).catch(broken),
        };
      }
      content.resume(); // what nobody has read
    }
  } catch (cause) {
    broken(cause);
  } finally {
    archive.destroy();
  }
}

async function isGzip(file: string): Promise<boolean> {
  const handle = await open(file);
  try {
    const { buffer: head, bytesRead } = await handle.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && head[0] === 0x1f && head[1] === 0x8b;
  } finally {
    await handle.close();
  }
}

/** The samples of a tar, plain or gzip. */
export async function* tarItems(file: string, options: TarOptions = {}): AsyncGenerator<SourceItem> {
  const { start = 0, count = Number.POSITIVE_INFINITY, image } = options;
  let index = -1;
  let sample: Sample | undefined;
  for await (const member of members(file)) {
    if (index < 0 || member.key !== sample?.key) {
      if (sample && index >= start) yield sample.item();
      if (++index >= start + count) return;
      sample = new Sample(member.key, file, image);
    }
    if (index >= start) await sample!.add(member);
  }
  if (sample && index >= start) yield sample.item();
}

/** How many samples a tar has. Reads the whole of it. */
export async function countTarSamples(file: string): Promise<number> {
  let count = 0;
  let last: string | undefined;
  for await (const { key } of members(file)) {
    if (count === 0 || key !== last) count++;
    last = key;
  }
  return count;
}

class Sample {
  readonly #extensions: string[] = [];
  readonly #meta: JsonObject = {};
  #bytes: Uint8Array | undefined;
  #error: TokenFlowError | undefined;

  constructor(
    readonly key: string,
    readonly file: string,
    readonly image?: string,
  ) {}

  async add({ extension, size, read }: Member): Promise<void> {
    this.#extensions.push(extension);
    const isImage = this.image ? extension === this.image.toLowerCase() : isImageName(`.${extension}`);
    const takesImage = isImage && !this.#bytes;
    const parse = META.get(extension);
    if (!takesImage && !parse) return;
    if (size > MAX_MEMBER_BYTES) {
      this.#fail(`its member .${extension} has ${size} bytes, more than ${MAX_MEMBER_BYTES}`);
      return;
    }
    const bytes = await read();
    if (takesImage) {
      this.#bytes = bytes;
      return;
    }
    try {
      this.#meta[extension] = parse!(bytes.toString('utf8'));
    } catch (cause) {
      this.#fail(`its member .${extension} cannot be parsed (${(cause as Error).message})`, cause);
    }
  }

  item(): SourceItem {
    const meta = Object.keys(this.#meta).length > 0 ? { meta: this.#meta } : {};
    if (!this.#error && this.#bytes) return { id: this.key, bytes: this.#bytes, ...meta };
    if (!this.#error) {
      const wanted = this.image ? `no member .${this.image}` : 'no image';
      this.#fail(`it has ${wanted}; its members are ${this.#extensions.map((e) => `.${e}`).join(', ')}`);
    }
    const error = this.#error!;
    return { id: this.key, load: () => Promise.reject(error), ...meta };
  }

  #fail(reason: string, cause?: unknown): void {
    const message = `Cannot use the sample '${this.key}' of ${this.file}: ${reason}`;
    this.#error ??= new TokenFlowError('ERR_TOKENFLOW_IMAGE', message, { cause });
  }
}

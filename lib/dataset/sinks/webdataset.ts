import { createReadStream } from 'node:fs';
import * as tar from 'tar-stream';
import { decodeNpy, encodeNpy } from '../../checkpoint/npy.js';
import { TokenFlowError } from '../../errors.js';
import { systemError } from '../../system-error.js';
import type { JsonObject } from '../json.js';
import type { TokenRecord } from '../sink.js';
import type { Format, FormatWriter } from './format.js';
import { recordHead, recordLine } from './json-lines.js';
import type { PendingFile } from './pending-file.js';
import { brokenShard } from './token-array.js';

const TOKENS = '.tokens.npy';
const HEAD = '.json';

/** 1980-01-01: a shard's bytes must not tell when it was written, and tar warns of earlier dates. */
const MTIME = new Date(Date.UTC(1980, 0, 1));

/**
 * The key of a sample, from which WebDataset takes what is before the first dot of the last path component. What would
 * end a key early or lead out of the folder that a tar is unpacked in is percent-encoded, so that ids that differ have
 * keys that differ; an id without dots is its own key.
 */
export function webDatasetKey(id: string): string {
  return id.replace(
    /[%.\\\p{Cc}]|^\/|(?<=\/)\/|\/$/gu,
    (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`,
  );
}

/** `NAME.tar`: for each image `KEY.tokens.npy`, `[T]`, and `KEY.json`, `{ id, width, height, meta? }`. */
export const webDataset: Format = {
  extensions: ['.tar'],
  hasDtype: true,

  open([file], { dtype }): FormatWriter {
    const pack = tar.pack();
    const copied = copy(pack, file);
    copied.catch(() => {}); // whoever writes next has the error
    const add = (name: string, content: Buffer) =>
      new Promise<void>((resolve, reject) => {
        pack.entry({ name, mtime: MTIME }, content, (error) => (error ? reject(error) : resolve()));
      }).catch(() => copied); // an entry fails when the file does
    return {
      async write(record) {
        const { id, tokens } = record;
        const data = dtype === 'uint16' ? Uint16Array.from(tokens) : tokens;
        const key = webDatasetKey(id);
        await add(`${key}${TOKENS}`, encodeNpy({ data, shape: [data.length] }));
        await add(`${key}${HEAD}`, recordLine(record));
      },
      async end() {
        pack.finalize();
        await copied;
      },
    };
  },

  async *read([file]) {
    let tokens: { key: string; data: Int32Array } | undefined;
    for await (const { name, content } of entries(file)) {
      if (name.endsWith(TOKENS) && !tokens) {
        tokens = { key: name.slice(0, -TOKENS.length), data: readTokens(file, name, content) };
      } else if (tokens && name === `${tokens.key}${HEAD}`) {
        yield { ...readHead(file, name, content), tokens: tokens.data };
        tokens = undefined;
      } else {
        const expected = tokens ? `${tokens.key}${HEAD}` : `KEY${TOKENS}`;
        throw brokenShard(file, `expected an entry ${expected} but found ${name}`);
      }
    }
    if (tokens) throw brokenShard(file, `it has no ${tokens.key}${HEAD}`);
  },
};

async function copy(pack: tar.Pack, file: PendingFile): Promise<void> {
  for await (const bytes of pack) await file.write(bytes as Buffer);
}

async function* entries(file: string): AsyncGenerator<{ name: string; content: Buffer }> {
  const extract = tar.extract();
  let failure: Error | undefined;
  const stream = createReadStream(file).on('error', (error) => {
    failure = error;
    extract.destroy(error);
  });
  stream.pipe(extract);
  try {
    for await (const entry of extract) {
      const pieces: Buffer[] = [];
      for await (const piece of entry) pieces.push(piece as Buffer);
      yield { name: entry.header.name, content: Buffer.concat(pieces) };
    }
  } catch (cause) {
    if (cause instanceof TokenFlowError) throw cause;
    if (failure) throw systemError('read', file, failure);
    throw brokenShard(file, `it is no whole tar file (${(cause as Error).message})`, cause);
  } finally {
    stream.destroy();
  }
}

function readTokens(file: string, name: string, content: Buffer): Int32Array {
  const { data, shape } = decodeNpy(content, `${file}, ${name}`);
  if (!(data instanceof Uint16Array || data instanceof Int32Array) || shape.length !== 1) {
    throw brokenShard(file, `expected ${name} to be an array [T] of uint16 or int32`);
  }
  return Int32Array.from(data);
}

function readHead(file: string, name: string, content: Buffer): Omit<TokenRecord, 'tokens'> {
  let head: JsonObject;
  try {
    head = JSON.parse(content.toString()) as JsonObject;
  } catch (cause) {
    throw brokenShard(file, `${name} is not valid JSON`, cause);
  }
  return recordHead(`${file}, ${name}`, head);
}

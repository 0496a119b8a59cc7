import { once } from 'node:events';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { TokenFlowError } from '../../errors.js';
import { systemError } from '../../system-error.js';
import type { JsonObject } from '../json.js';
import type { TokenRecord } from '../sink.js';
import type { Format, FormatWriter } from './format.js';
import { recordHead } from './json-lines.js';
import type { Answer, Request, RowGroup } from './parquet-encoder.js';
import type { PendingFile } from './pending-file.js';
import { brokenShard } from './token-array.js';

/** Images are encoded so many at a time. */
const ROW_GROUP = 128;

/**
 * `NAME.parquet`: `id`, `tokens` (list of int32), `width`, `height`, `meta` (JSON as text, or null). Tokens are stored as
 * differences in as few bits as they need, which takes half the room that 32-bit numbers would.
 */
export const parquet: Format = {
  extensions: ['.parquet'],
  hasDtype: false,

  open([file]: readonly PendingFile[], { tokensPerImage }): FormatWriter {
    const encoder = new Encoder(tokensPerImage);
    let rows: TokenRecord[] = [];
    let encoded: Promise<void> = Promise.resolve();
    /** Waits for what was asked before, asks for the next bytes, and writes them when they are there. */
    const ask = async (request: Request) => {
      await encoded;
      encoded = encoder.ask(request).then((bytes) => file.write(bytes));
      encoded.catch(() => {}); // whoever asks next has the error
    };
    const endGroup = async () => {
      const group = rowGroup(rows, tokensPerImage);
      rows = [];
      await ask(group);
    };
    return {
      async write(record) {
        rows.push(record);
        if (rows.length === ROW_GROUP) await endGroup();
      },
      async end() {
        if (rows.length > 0) await endGroup();
        await ask('end');
        await encoded;
        await encoder.close();
      },
      close: () => encoder.close(),
    };
  },

  async *read([file]) {
    const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } = await import('hyparquet');
    const source = await reading(file, 'ERR_TOKENFLOW_IO', () => asyncBufferFromFile(file));
    const metadata = await reading(file, 'ERR_TOKENFLOW_FORMAT', () => parquetMetadataAsync(source));
    let rowStart = 0;
    for (const { num_rows } of metadata.row_groups) {
      const rowEnd = rowStart + Number(num_rows);
      const rows = await reading(file, 'ERR_TOKENFLOW_FORMAT', () =>
        parquetReadObjects({ file: source, metadata, rowStart, rowEnd }),
      );
      for (const row of rows) yield readRow(file, row);
      rowStart = rowEnd;
    }
  },
};

function rowGroup(rows: readonly TokenRecord[], tokensPerImage: number): RowGroup {
  const tokens = new Int32Array(rows.length * tokensPerImage);
  for (const [i, row] of rows.entries()) tokens.set(row.tokens, i * tokensPerImage);
  return {
    ids: rows.map(({ id }) => id),
    tokens,
    widths: rows.map(({ width }) => width),
    heights: rows.map(({ height }) => height),
    metas: rows.map(({ meta }) => (meta ? JSON.stringify(meta) : null)),
  };
}

/** The worker thread. It keeps the process alive while it has something to do, and only then. */
class Encoder {
  readonly #worker: Worker;

  constructor(tokensPerImage: number) {
    this.#worker = new Worker(path.join(__dirname, 'parquet-encoder.js'), { workerData: { tokensPerImage } });
    this.#worker.unref();
  }

  async ask(request: Request): Promise<Uint8Array> {
    const worker = this.#worker;
    const settled = new AbortController();
    const { signal } = settled;
    worker.ref();
    try {
      const answered = once(worker, 'message', { signal });
      const exited = once(worker, 'exit', { signal }).then(() => [{ failure: 'its thread was ended' }]);
      for (const either of [answered, exited]) either.catch(() => {}); // of two that fail one is awaited
      worker.postMessage(request);
      const [answer] = (await Promise.race([answered, exited])) as [Answer];
      if ('failure' in answer) {
        throw new TokenFlowError('ERR_TOKENFLOW_INTERNAL', `Parquet could not be encoded: ${answer.failure}`);
      }
      return answer.bytes;
    } finally {
      settled.abort();
      worker.unref();
    }
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}

function readRow(file: string, row: Record<string, unknown>): TokenRecord {
  const { id, tokens, width, height, meta } = row;
  if (!Array.isArray(tokens) || !tokens.every((token) => Number.isInteger(token))) {
    throw brokenShard(file, `expected a list of whole numbers as the tokens of ${JSON.stringify(id)}`);
  }
  const head = { id, width, height, ...(meta === null ? {} : { meta: parseMeta(file, meta) }) } as JsonObject;
  return { ...recordHead(file, head), tokens: Int32Array.from(tokens as number[]) };
}

function parseMeta(file: string, text: unknown): unknown {
  try {
    return JSON.parse(text as string);
  } catch (cause) {
    throw brokenShard(file, 'expected JSON in the column meta', cause);
  }
}

async function reading<T>(
  file: string,
  code: 'ERR_TOKENFLOW_IO' | 'ERR_TOKENFLOW_FORMAT',
  call: () => Promise<T>,
): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    if (code === 'ERR_TOKENFLOW_IO') throw systemError('read', file, cause);
    throw new TokenFlowError(code, `Cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
}

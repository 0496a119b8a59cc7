import type { SchemaElement } from 'hyparquet' with { 'resolution-mode': 'import' };
import { TokenFlowError } from '../../errors.js';
import type { JsonObject } from '../json.js';
import type { TokenRecord } from '../sink.js';
import type { Format, FormatWriter } from './format.js';
import { recordHead } from './json-lines.js';
import type { PendingFile } from './pending-file.js';
import { brokenShard } from './token-array.js';

/** Rows are encoded so many at a time. */
const ROW_GROUP = 128;

const SCHEMA: SchemaElement[] = [
  { name: 'root', num_children: 5 },
  { name: 'id', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'REQUIRED' },
  { name: 'tokens', converted_type: 'LIST', repetition_type: 'REQUIRED', num_children: 1 },
  { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
  { name: 'element', type: 'INT32', repetition_type: 'REQUIRED' },
  { name: 'width', type: 'INT32', repetition_type: 'REQUIRED' },
  { name: 'height', type: 'INT32', repetition_type: 'REQUIRED' },
  { name: 'meta', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
];

/**
 * `NAME.parquet`: `id`, `tokens` (list of int32), `width`, `height`, `meta` (JSON as text, or null). Tokens are stored as
 * differences in as few bits as they need, which takes half the room that 32-bit numbers would.
 */
export const parquet: Format = {
  extensions: ['.parquet'],
  hasDtype: false,

  async open([file]: readonly PendingFile[]): Promise<FormatWriter> {
    const { ByteWriter, ParquetWriter } = await import('hyparquet-writer');
    const bytes = new ByteWriter();
    const writer = new ParquetWriter({
      writer: bytes,
      schema: SCHEMA,
      codec: 'SNAPPY',
      createdBy: 'tokenflow',
    });
    let rows: TokenRecord[] = [];
    const drain = async () => {
      const written = bytes.getBytes().slice();
      bytes.index = 0;
      await file.write(written);
    };
    const writeGroup = async () => {
      if (rows.length === 0) return;
      const column = <T>(name: string, value: (row: TokenRecord) => T) => ({ name, data: rows.map(value) });
      writer.write({
        columnData: [
          column('id', ({ id }) => id),
          {
            ...column('tokens', ({ tokens }) => [...tokens]),
            encoding: 'DELTA_BINARY_PACKED',
            codec: 'UNCOMPRESSED',
            statistics: false,
          },
          column('width', ({ width }) => width),
          column('height', ({ height }) => height),
          column('meta', ({ meta }) => (meta ? JSON.stringify(meta) : null)),
        ],
        rowGroupSize: rows.length,
      });
      rows = [];
      await drain();
    };
    return {
      async write(record) {
        rows.push(record);
        if (rows.length === ROW_GROUP) await writeGroup();
      },
      async end() {
        await writeGroup();
        writer.finish();
        await drain();
      },
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
    throw new TokenFlowError(code, `Cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
}

/** Parquet files with images in a column, as Hugging Face datasets have them. */
import { stat } from 'node:fs/promises';
import * as path from 'node:path';
import type { FileMetaData, SchemaTree } from 'hyparquet' with { 'resolution-mode': 'import' };
import { TokenFlowError } from '../../errors.js';
import type { JsonObject, JsonValue } from '../json.js';
import type { SourceItem } from '../source.js';
import { cannotRead } from './files.js';

export interface ParquetOptions {
  /** Rows to pass over first. Default 0. */
  start?: number;
  /** The most rows to give. Default: all. */
  count?: number;
  /**
   * The column of images: a struct with `bytes`, or plain bytes. Default: the only such column, structs before plain bytes.
   */
  image?: string;
  /** The column of ids. Default: `FILE/ROW`. */
  id?: string;
}

/** A column that was asked for by name and is not there, or is not of the kind it must be. */
export class ColumnError extends TokenFlowError {}

/** Checks that a file has the columns that are asked for; reads its footer only. @throws TokenFlowError, ColumnError */
export async function checkParquetColumns(
  file: string,
  columns: Pick<ParquetOptions, 'image' | 'id'>,
): Promise<void> {
  chooseColumns((await openParquet(file)).schema, file, columns);
}

/** How many rows a Parquet file has; reads its footer only. */
export async function countParquetRows(file: string): Promise<number> {
  return Number((await openParquet(file)).metadata.num_rows);
}

/**
 * The rows of a Parquet file as items. Columns that hold no bytes become `meta`. The images of one row group are in memory at
 * a time.
 */
export async function* parquetItems(file: string, options: ParquetOptions = {}): AsyncGenerator<SourceItem> {
  const { start = 0, count = Number.POSITIVE_INFINITY } = options;
  const parquet = await openParquet(file);
  const columns = chooseColumns(parquet.schema, file, options);
  let groupStart = 0;
  for (const { num_rows } of parquet.metadata.row_groups) {
    const groupEnd = groupStart + Number(num_rows);
    const rowStart = Math.max(start, groupStart);
    const rowEnd = Math.min(start + count, groupEnd);
    groupStart = groupEnd;
    if (rowStart >= rowEnd) continue;
    const rows = await parquet.read([columns.image, ...columns.meta], rowStart, rowEnd);
    for (const [i, row] of rows.entries()) yield itemOf(row, rowStart + i, file, columns);
  }
}

interface Columns {
  image: string;
  id?: string;
  /** The id's column among them. */
  meta: string[];
}

type Row = Record<string, unknown>;

async function openParquet(file: string) {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import(
    'hyparquet'
  );
  const { compressors } = await import('hyparquet-compressors');
  const explained = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (cause) {
      throw cannotRead(`the Parquet file '${file}'`, file, cause);
    }
  };
  return explained(async () => {
    if (!(await stat(file)).isFile()) throw new Error('not a file');
    const buffer = await asyncBufferFromFile(file);
    const metadata: FileMetaData = await parquetMetadataAsync(buffer);
    const read = (columns: string[], rowStart: number, rowEnd: number): Promise<Row[]> =>
      explained(() =>
        parquetReadObjects({ file: buffer, metadata, columns, rowStart, rowEnd, compressors, utf8: false }),
      );
    return { metadata, schema: parquetSchema(metadata), read };
  });
}

/** Bytes that are neither text nor anything else with a meaning of its own. */
const isBytes = ({ element, children }: SchemaTree): boolean =>
  children.length === 0 &&
  element.type === 'BYTE_ARRAY' &&
  element.converted_type === undefined &&
  element.logical_type === undefined;

const holdsBytes = (column: SchemaTree): boolean => isBytes(column) || column.children.some(holdsBytes);

function chooseColumns(schema: SchemaTree, file: string, { image, id }: ParquetOptions): Columns {
  const columns = schema.children;
  const names = columns.map(({ element }) => element.name);
  const fail = (problem: string, Kind = TokenFlowError) =>
    new Kind(
      'ERR_TOKENFLOW_FORMAT',
      `${problem} in '${file}'; its columns are ${names.map((name) => `'${name}'`).join(', ')}`,
    );
  const structs = columns.filter(({ children }) =>
    children.some((c) => c.element.name === 'bytes' && isBytes(c)),
  );
  const plain = columns.filter(isBytes);
  const candidates = structs.length > 0 ? structs : plain;
  let chosen: SchemaTree | undefined;
  if (image !== undefined) {
    chosen = [...structs, ...plain].find(({ element }) => element.name === image);
    if (!chosen) throw fail(`Expected a column '${image}' of image bytes, but there is none`, ColumnError);
  } else {
    if (candidates.length === 0) throw fail('Expected a column of image bytes, but there is none');
    if (candidates.length > 1) {
      const found = candidates.map(({ element }) => `'${element.name}'`).join(' and ');
      throw fail(`Expected one column of image bytes, but ${found} are such; say which (--image)`);
    }
    chosen = candidates[0];
  }
  if (id !== undefined && !names.includes(id))
    throw fail(`Expected a column '${id}' of ids, but there is none`, ColumnError);
  const meta = columns.filter((column) => column !== chosen && !holdsBytes(column));
  const idColumn = columns.find(({ element }) => element.name === id);
  if (idColumn && !meta.includes(idColumn))
    throw fail(`Expected ids that are text or numbers in column '${id}'`, ColumnError);
  return { image: chosen.element.name, id, meta: meta.map(({ element }) => element.name) };
}

function itemOf(row: Row, index: number, file: string, columns: Columns): SourceItem {
  const { base, name } = path.parse(file);
  const where = `${name}/${index}`;
  const others = columns.meta.filter((column) => column !== columns.id);
  const meta: JsonObject = Object.fromEntries(others.map((column) => [column, toJson(row[column])]));
  const withMeta = others.length > 0 ? { meta } : {};
  const fail = (id: string, reason: string): SourceItem => {
    const message = `Cannot use row ${index} of ${base}: ${reason}`;
    const error = new TokenFlowError('ERR_TOKENFLOW_IMAGE', message);
    return { id, load: () => Promise.reject(error), ...withMeta };
  };
  const given = columns.id === undefined ? where : row[columns.id];
  if (given === null || given === undefined || given === '') return fail(where, `it has no ${columns.id}`);
  const value = row[columns.image] as Uint8Array | { bytes?: Uint8Array | null } | null | undefined;
  const bytes = value instanceof Uint8Array ? value : value?.bytes;
  if (!(bytes instanceof Uint8Array)) {
    return fail(String(given), `its ${columns.image} has no bytes (a path alone cannot be followed)`);
  }
  return { id: String(given), bytes, ...withMeta };
}

/** A value as JSON has it: whole numbers beyond its precision as text, dates in ISO 8601, what is not finite as null. */
function toJson(value: unknown): JsonValue {
  if (value === null || value === undefined) return null;
  if (typeof value === 'bigint') {
    return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  }
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (typeof value === 'string' || typeof value === 'boolean') return value;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    return Array.from(value as ArrayLike<unknown>, toJson);
  }
  return Object.fromEntries(Object.entries(value as object).map(([key, inner]) => [key, toJson(inner)]));
}

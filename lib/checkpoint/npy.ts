/**
 * NumPy's `.npy`: tokens and tensors on the command line, and what other programs hand over.
 *
 * Versions 1 to 3, little-endian, C and Fortran order. The header is a Python literal; only the one dictionary that
 * NumPy writes is understood, so nothing in it is ever evaluated.
 */
import * as fs from 'node:fs';
import { invalidArgument } from '../errors.js';
import { systemError } from '../system-error.js';
import { elementCount } from './dtype.js';
import { type ByteSource, bufferSource, openFile, readRange } from './source.js';
import { StoredTensor } from './stored-tensor.js';

/** What array data is held in. float16 is widened to Float32Array when read; booleans are 0 or 1. */
export type NpyData =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

/** An array in memory: row-major (C order) whatever the file's order was. */
export interface NpyArray {
  /** Sizes, outermost first; empty for a scalar. */
  shape: number[];
  data: NpyData;
}

/** An array's description, without its data. */
export interface NpyHeader {
  /** NumPy's type string without the byte order: `f4`, `i8`, `b1`… */
  descr: string;
  fortranOrder: boolean;
  shape: number[];
  /** Byte offset of the data. */
  offset: number;
}

const MAGIC = '\x93NUMPY';
const LONGEST_HEADER = 64 * 1024;
const MOST_AXES = 64;

/** Element types by type string: the array that holds them, and the name the conversion knows them by. */
const KINDS = {
  f8: { Data: Float64Array, dtype: 'F64' },
  f4: { Data: Float32Array, dtype: 'F32' },
  f2: { Data: Float32Array, dtype: 'F16' },
  i8: { Data: BigInt64Array, dtype: 'I64' },
  u8: { Data: BigUint64Array, dtype: 'U64' },
  i4: { Data: Int32Array, dtype: 'I32' },
  u4: { Data: Uint32Array, dtype: 'U32' },
  i2: { Data: Int16Array, dtype: 'I16' },
  u2: { Data: Uint16Array, dtype: 'U16' },
  i1: { Data: Int8Array, dtype: 'I8' },
  u1: { Data: Uint8Array, dtype: 'U8' },
  b1: { Data: Uint8Array, dtype: 'BOOL' },
} as const;

type Kind = keyof typeof KINDS;
/** Types that are written: each has an array of its own. */
type WrittenKind = Exclude<Kind, 'f2' | 'b1'>;

/** Reads a `.npy` file. Throws `ERR_TOKENFLOW_FORMAT` when it is none or is broken, `ERR_TOKENFLOW_IO`. */
export function readNpy(file: string): NpyArray {
  const source = openFile(file, 'ERR_TOKENFLOW_FORMAT');
  try {
    return readFrom(source);
  } finally {
    source.close();
  }
}

/** As `readNpy`, from memory. `name` is how messages call it. */
export function decodeNpy(bytes: Uint8Array, name = 'the array'): NpyArray {
  return readFrom(bufferSource(bytes, name, 'ERR_TOKENFLOW_FORMAT'));
}

/** Type and shape of a `.npy` file, without its data. Throws as `readNpy`. */
export function readNpyHeader(file: string): NpyHeader {
  const source = openFile(file, 'ERR_TOKENFLOW_FORMAT');
  try {
    return parseHeader(source);
  } finally {
    source.close();
  }
}

function readFrom(source: ByteSource): NpyArray {
  const header = parseHeader(source);
  const { Data, dtype } = KINDS[header.descr as Kind];
  // Fortran order is the transposed array in C order: the same memory with falling strides turned round.
  const strides = header.fortranOrder ? columnMajorStrides(header.shape) : undefined;
  const tensor = new StoredTensor(source, dtype, header.shape, header.offset, strides);
  if (dtype === 'F16') return { shape: header.shape, data: tensor.read() };
  return { shape: header.shape, data: new Data(tensor.readRaw().buffer as ArrayBuffer) };
}

function columnMajorStrides(shape: readonly number[]): number[] {
  let step = 1;
  return shape.map((size) => {
    const stride = step;
    step *= size;
    return stride;
  });
}

function parseHeader(source: ByteSource): NpyHeader {
  const head = Buffer.from(readRange(source, 0, Math.min(source.size, 12)).buffer);
  if (head.length < 10 || head.toString('latin1', 0, 6) !== MAGIC) {
    throw source.broken('expected a NumPy array (.npy), found something else');
  }
  const version = head[6];
  if (version < 1 || version > 3)
    throw source.broken(`version ${version} of .npy is not known; versions 1 to 3 are`);
  if (version > 1 && head.length < 12) throw source.broken('the .npy header is cut off');
  const length = version === 1 ? head.readUInt16LE(8) : head.readUInt32LE(8);
  const begin = version === 1 ? 10 : 12;
  if (length > LONGEST_HEADER)
    throw source.broken(`the .npy header claims ${length} bytes; the file is damaged`);
  const text = Buffer.from(readRange(source, begin, length).buffer).toString(
    version === 3 ? 'utf8' : 'latin1',
  );
  const { descr, fortranOrder, shape } = parseDictionary(source, text);

  const order = descr[0];
  const kind = descr.slice(1);
  if (order === '>')
    throw source.broken(`its type '${descr}' is big-endian; save it with .astype('<${kind}')`);
  if (!'<|='.includes(order) || !Object.hasOwn(KINDS, kind)) {
    const hint = kind.startsWith('O') ? ' Object arrays are pickles and are not read.' : '';
    throw source.broken(
      `its type '${descr}' is not supported; these are: ${Object.keys(KINDS).join(', ')}.${hint}`,
    );
  }
  const count = elementCount(shape);
  if (count === undefined || shape.length > MOST_AXES)
    throw source.broken('its shape makes no sense; it is damaged');
  const offset = begin + length;
  const itemBytes = kind === 'b1' ? 1 : Number(kind.slice(1));
  if (offset + count * itemBytes !== source.size) {
    throw source.broken(
      `an array of type ${kind} and shape [${shape.join(', ')}] needs ${count * itemBytes} bytes, but ${source.size - offset} are there`,
    );
  }
  return { descr: kind, fortranOrder, shape, offset };
}

/** Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`: these three keys, in any order, once each. */
function parseDictionary(
  source: ByteSource,
  text: string,
): { descr: string; fortranOrder: boolean; shape: number[] } {
  const entry =
    /\s*(['"])(descr|fortran_order|shape)\1\s*:\s*(?:(['"])([^'"\\]*)\3|(True|False)|\(([\d\s,L]*)\))\s*(,|(?=\}))/y;
  const found: { descr?: string; fortranOrder?: boolean; shape?: number[] } = {};
  const damaged = () =>
    source.broken(
      "expected a .npy header like {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, found " +
        `${JSON.stringify(text.trim().slice(0, 100))} (record types are not supported)`,
    );
  const begin = /^\s*\{/.exec(text);
  if (!begin) throw damaged();
  entry.lastIndex = begin[0].length;
  let at = entry.lastIndex;
  for (let match = entry.exec(text); match; match = entry.exec(text)) {
    const [, , key, , string, boolean, tuple] = match;
    if (key === 'descr' && string !== undefined && found.descr === undefined) found.descr = string;
    else if (key === 'fortran_order' && boolean && found.fortranOrder === undefined)
      found.fortranOrder = boolean === 'True';
    else if (key === 'shape' && tuple !== undefined && !found.shape)
      found.shape = parseTuple(tuple) ?? [Number.NaN];
    else throw damaged();
    at = entry.lastIndex;
  }
  const { descr, fortranOrder, shape } = found;
  if (!/^\s*\}\s*$/.test(text.slice(at)) || !descr || fortranOrder === undefined || !shape) throw damaged();
  return { descr, fortranOrder, shape };
}

/** The sizes of `3, 4` or `3,`; undefined when it is no list of sizes. Python 2 wrote `3L`. */
function parseTuple(text: string): number[] | undefined {
  const sizes = text.trim() === '' ? [] : text.trim().replace(/,$/, '').split(',');
  if (!sizes.every((size) => /^\s*\d{1,16}L?\s*$/.test(size))) return undefined;
  return sizes.map((size) => Number.parseInt(size, 10));
}

/** Type string by the array that holds it. */
function kindOf(data: NpyData): WrittenKind | undefined {
  const kinds = Object.keys(KINDS).filter((kind) => kind !== 'f2' && kind !== 'b1') as WrittenKind[];
  return kinds.find((kind) => data instanceof KINDS[kind].Data);
}

/**
 * The header NumPy itself would write for an array of this element type, padded so that the data is aligned to 64 bytes.
 * For a matrix it is 128 bytes, however many rows there are.
 */
export function encodeNpyHeader(kind: WrittenKind, shape: readonly number[]): Buffer {
  const order = kind.endsWith('1') ? '|' : '<';
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const text = `{'descr': '${order}${kind}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const header = Buffer.alloc(10 + length, ' ');
  header.write(MAGIC, 'latin1');
  header.writeUInt16LE(0x0001, 6); // version 1.0
  header.writeUInt16LE(length, 8);
  header.write(text, 10, 'latin1');
  header[header.length - 1] = 0x0a;
  return header;
}

/**
 * An array as the bytes of a `.npy` file (version 1.0, C order).
 * @internal
 */
export function encodeNpy({ shape, data }: NpyArray): Buffer {
  const kind = kindOf(data);
  if (!kind) throw invalidArgument('data', 'a typed array that NumPy has a type for', data);
  if (elementCount(shape) !== data.length) {
    throw invalidArgument(
      'data',
      `${elementCount(shape)} elements, as its shape [${shape.join(', ')}] says`,
      data,
    );
  }
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return Buffer.concat([encodeNpyHeader(kind, shape), bytes]);
}

/** Writes an array to a `.npy` file. Throws `ERR_TOKENFLOW_INVALID_ARGUMENT` when shape and data differ, `ERR_TOKENFLOW_IO`. */
export function writeNpy(file: string, array: NpyArray): void {
  const bytes = encodeNpy(array);
  try {
    fs.writeFileSync(file, bytes);
  } catch (cause) {
    throw systemError('write', file, cause);
  }
}

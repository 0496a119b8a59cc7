/** Checks of what callers hand to the codebook layer: each throws a TokenFlowError that says what to do. */
import { invalidArgument, nearestName, TokenFlowError } from '../errors.js';

/** How queries are given: as a Float32Array, or as the bits of 16-bit floats in a Uint16Array. */
export type QueryFormat = 'f32' | 'f16' | 'bf16';

/** What every call that leaves the event loop free takes. */
export interface CallOptions {
  /** Stops the work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export function checkInteger(
  name: string,
  value: unknown,
  least: number,
  most: number = Number.MAX_SAFE_INTEGER,
): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most)
    return value as number;
  const range =
    most === Number.MAX_SAFE_INTEGER ? `a whole number of at least ${least}` : `${least} to ${most}`;
  throw invalidArgument(name, range, value);
}

export function checkChoice<T extends string>(name: string, value: unknown, known: readonly T[]): T {
  if (known.includes(value as T)) return value as T;
  const hint = typeof value === 'string' ? nearestName(value, known) : undefined;
  const error = invalidArgument(name, known.map((k) => `'${k}'`).join(' or '), value);
  throw hint ? new TokenFlowError(error.code, `${error.message}; did you mean '${hint}'?`) : error;
}

/** A view whose memory is there: not detached, not cut off by a resize. */
export function checkAttached(name: string, view: Float32Array | Int32Array | Uint16Array): void {
  try {
    view.at(0); // throws when the buffer is gone or has shrunk beneath the view
  } catch {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected a live array for ${name} but its buffer was transferred or resized; pass a copy instead`,
    );
  }
}

/** A Float32Array that native code may read; a shared one is copied, since others may write to it meanwhile. */
export function checkFloats(name: string, value: unknown): Float32Array {
  if (!(value instanceof Float32Array)) throw invalidArgument(name, 'a Float32Array', value);
  checkAttached(name, value);
  return value.buffer instanceof SharedArrayBuffer ? new Float32Array(value) : value;
}

/** Floats in whole rows of `dim`. */
export function checkRows(name: string, value: unknown, dim: number): Float32Array {
  const floats = checkFloats(name, value);
  checkWholeRows(name, floats.length, dim);
  return floats;
}

function checkWholeRows(name: string, length: number, dim: number): void {
  if (length % dim === 0) return;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected a multiple of ${dim} elements (rows of ${dim}) for ${name} but received ${length}`,
  );
}

/** Queries in whole rows of `dim`: float32, or 16-bit floats as their bits. */
export function checkQueries(
  name: string,
  value: unknown,
  dim: number,
  format: QueryFormat,
): Float32Array | Uint16Array {
  if (format === 'f32') return checkRows(name, value, dim);
  if (!(value instanceof Uint16Array))
    throw invalidArgument(name, `a Uint16Array, as the format is '${format}',`, value);
  checkAttached(name, value);
  checkWholeRows(name, value.length, dim);
  return value.buffer instanceof SharedArrayBuffer ? new Uint16Array(value) : value;
}

/** Indices as an Int32Array; a plain array of whole numbers will do. */
export function checkIndices(name: string, value: unknown): Int32Array {
  if (value instanceof Int32Array) {
    checkAttached(name, value);
    return value.buffer instanceof SharedArrayBuffer ? new Int32Array(value) : value;
  }
  if (Array.isArray(value)) {
    const wrong = value.findIndex((index) => !Number.isInteger(index) || Math.abs(index) > 0x7fffffff);
    if (wrong < 0) return Int32Array.from(value);
    throw invalidArgument(`${name}[${wrong}]`, 'a whole number', value[wrong]);
  }
  throw invalidArgument(name, 'an Int32Array', value);
}

/** One finite weight per part of a codebook. */
export function checkWeights(value: unknown, parts: number): Float32Array | undefined {
  if (value === undefined) return undefined;
  const list = Array.isArray(value) || value instanceof Float32Array ? Array.from(value) : undefined;
  if (list?.length === parts && list.every((weight) => Number.isFinite(weight)))
    return Float32Array.from(list);
  throw invalidArgument('weights', `${parts} finite numbers, one per part,`, value);
}

/** An array of the caller's to write a result into, of exactly `length` elements. */
export function checkOut<T extends Float32Array | Int32Array>(
  name: string,
  value: unknown,
  type: { new (length: number): T; name: string },
  length: number,
): T | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof type)) throw invalidArgument(name, `a ${type.name}`, value);
  checkAttached(name, value);
  if (value.length !== length) throw invalidArgument(name, `a ${type.name} of ${length} elements`, value);
  return value;
}

/**
 * Element types of stored tensors and their conversion to and from float32, by bit patterns on typed arrays.
 *
 * Names are those of safetensors. `BF16` is the upper half of a float32; `F16` is IEEE 754 binary16.
 */

/** Element type of a stored tensor. */
export type Dtype =
  | 'F64'
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'I64'
  | 'I32'
  | 'I16'
  | 'I8'
  | 'U64'
  | 'U32'
  | 'U16'
  | 'U8'
  | 'BOOL';

/** Bytes per element. */
export const DTYPE_BYTES: Readonly<Record<Dtype, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};

export function isDtype(name: unknown): name is Dtype {
  return typeof name === 'string' && Object.hasOwn(DTYPE_BYTES, name);
}

export function isFloating(dtype: Dtype): boolean {
  return dtype === 'F64' || dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';
}

/** Element count of a shape, or undefined when it is not a list of sizes or the product is no safe integer. */
export function elementCount(shape: readonly unknown[]): number | undefined {
  let count = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || (size as number) < 0) return undefined;
    count *= size as number;
    if (!Number.isSafeInteger(count)) return undefined;
  }
  return count;
}

/** The float32 bit pattern of a binary16 bit pattern. */
function halfToFloatBits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (fraction << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  if (fraction === 0) return sign;
  const shift = Math.clz32(fraction) - 21; // normalises the subnormal: its leading one moves to bit 10
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13);
}

let halfTable: Uint32Array | undefined;

/** All 65536 binary16 values as float32 bits: 256 KiB, made on first use; a lookup is faster than the bit tricks. */
function halves(): Uint32Array {
  halfTable ??= Uint32Array.from({ length: 65536 }, (_, half) => halfToFloatBits(half));
  return halfTable;
}

/** The binary16 bits nearest to a float32 bit pattern, ties to even; overflow gives infinity, NaN stays NaN. */
function floatBitsToHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 2^16 and up
  if (magnitude >= 0x38800000) {
    // Normal: rebias the exponent by 112, then round 13 bits off; a carry runs into the exponent, up to infinity.
    const rebiased = magnitude - 0x38000000;
    return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
  }
  if (magnitude < 0x33000000) return sign; // under half of the smallest subnormal
  const shift = 126 - (magnitude >>> 23); // 14 to 24 bits to drop
  const fraction = (magnitude & 0x7fffff) | 0x800000;
  const kept = fraction >>> shift;
  const rest = fraction & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (kept + (rest > half || (rest === half && kept & 1) ? 1 : 0));
}

/** The bfloat16 bits nearest to a float32 bit pattern, ties to even; NaN stays NaN. */
function floatBitsToBfloat(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** Bytes as elements; they must be aligned to the element. */
function view<T>(
  Type: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => T,
  bytes: Uint8Array,
  itemBytes: number,
): T {
  return new Type(bytes.buffer, bytes.byteOffset, bytes.length / itemBytes);
}

/**
 * Writes the elements in `bytes` to `target` from index `at` on, as float32. F64 and integers round to nearest even;
 * BOOL gives 0 or 1. NaN payloads of F16 and BF16 are kept.
 */
export function toFloat32(dtype: Dtype, bytes: Uint8Array, target: Float32Array, at: number): void {
  switch (dtype) {
    case 'F32':
      new Uint8Array(target.buffer, target.byteOffset + at * 4, bytes.length).set(bytes);
      return;
    case 'F16': {
      const from = view(Uint16Array, bytes, 2);
      const to = new Uint32Array(target.buffer, target.byteOffset + at * 4, from.length);
      const table = halves();
      for (let i = 0; i < from.length; i++) to[i] = table[from[i]];
      return;
    }
    case 'BF16': {
      const from = view(Uint16Array, bytes, 2);
      const to = new Uint32Array(target.buffer, target.byteOffset + at * 4, from.length);
      for (let i = 0; i < from.length; i++) to[i] = from[i] << 16;
      return;
    }
    case 'F64':
      target.set(view(Float64Array, bytes, 8), at);
      return;
    case 'I64':
    case 'U64': {
      const from = dtype === 'I64' ? view(BigInt64Array, bytes, 8) : view(BigUint64Array, bytes, 8);
      for (let i = 0; i < from.length; i++) target[at + i] = Number(from[i]);
      return;
    }
    case 'I32':
      target.set(view(Int32Array, bytes, 4), at);
      return;
    case 'U32':
      target.set(view(Uint32Array, bytes, 4), at);
      return;
    case 'I16':
      target.set(view(Int16Array, bytes, 2), at);
      return;
    case 'U16':
      target.set(view(Uint16Array, bytes, 2), at);
      return;
    case 'I8':
      target.set(view(Int8Array, bytes, 1), at);
      return;
    case 'U8':
      target.set(bytes, at);
      return;
    case 'BOOL':
      for (let i = 0; i < bytes.length; i++) target[at + i] = bytes[i] === 0 ? 0 : 1;
      return;
  }
}

/**
 * Writes float32 values to `bytes` in another floating type, rounded to nearest, ties to even. `bytes` must be aligned to
 * the type and exactly long enough.
 */
export function fromFloat32(dtype: 'F32' | 'F16' | 'BF16', values: Float32Array, bytes: Uint8Array): void {
  const from = new Uint32Array(values.buffer, values.byteOffset, values.length);
  if (dtype === 'F32') {
    view(Uint32Array, bytes, 4).set(from);
    return;
  }
  const to = view(Uint16Array, bytes, 2);
  if (dtype === 'F16') for (let i = 0; i < from.length; i++) to[i] = floatBitsToHalf(from[i]);
  else for (let i = 0; i < from.length; i++) to[i] = floatBitsToBfloat(from[i]);
}

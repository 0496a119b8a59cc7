/**
 * One tensor where it lies in a file, and how it comes out of it: contiguous, row-major, in its own type or in float32.
 *
 * All formats end here. A contiguous tensor streams through pieces of 512 KiB straight into its destination; a strided
 * one (a transposed or sliced PyTorch view) costs a temporary copy of the range it spans.
 */
import { crc32 } from 'node:zlib';
import { DTYPE_BYTES, type Dtype, elementCount, toFloat32 } from './dtype.js';
import { allocate, type ByteSource, PIECE_BYTES, readRange } from './source.js';

/** What is known of a tensor without reading it. */
export interface TensorInfo {
  readonly dtype: Dtype;
  /** Sizes, outermost first; empty for a scalar. */
  readonly shape: readonly number[];
  /** Bytes of the contiguous tensor in its own type. */
  readonly byteLength: number;
}

/** A byte range with the CRC-32 its container promises; checked once, at the first read that touches it. */
export class CheckedRange {
  #verified = false;

  constructor(
    readonly source: ByteSource,
    readonly label: string,
    readonly offset: number,
    readonly length: number,
    readonly expected: number,
  ) {}

  /** Whether reading exactly this range may check it on the way. */
  pendingFor(offset: number, length: number): boolean {
    return !this.#verified && offset === this.offset && length === this.length;
  }

  /** Compares a finished checksum. */
  settle(actual: number): void {
    if (actual !== this.expected) {
      throw this.source.broken(
        `the checksum of ${this.label} does not match: expected ${hex(this.expected)}, got ${hex(actual)}. The file is ` +
          'damaged; copy it again. (A file that was saved with checksums switched off opens with { checksums: false }.)',
      );
    }
    this.#verified = true;
  }

  /** Reads the whole range once to check it, unless that was done. */
  verify(): void {
    if (this.#verified) return;
    const piece = new Uint8Array(Math.min(PIECE_BYTES, this.length));
    let crc = 0;
    for (let done = 0; done < this.length; ) {
      const part = piece.subarray(0, Math.min(piece.length, this.length - done));
      this.source.readInto(part, this.offset + done);
      crc = crc32(part, crc);
      done += part.length;
    }
    this.settle(crc);
  }
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}

/** Strides of a contiguous row-major tensor, in elements. */
export function rowMajorStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = step;
    step *= shape[axis];
  }
  return strides;
}

export class StoredTensor implements TensorInfo {
  readonly byteLength: number;
  readonly #count: number;

  /**
   * The caller has checked that shape and strides stay inside `[offset, …)` of the file.
   *
   * @param offset byte offset of the first element in the file
   * @param strides in elements, all non-negative; `undefined` for row-major
   * @param checked the checksummed range the tensor lies in, if its container has checksums
   */
  constructor(
    readonly source: ByteSource,
    readonly dtype: Dtype,
    readonly shape: readonly number[],
    readonly offset: number,
    readonly strides?: readonly number[],
    readonly checked?: CheckedRange,
  ) {
    this.#count = elementCount(shape)!;
    this.byteLength = this.#count * DTYPE_BYTES[dtype];
    if (strides) {
      const rowMajor = rowMajorStrides(shape);
      const same = shape.every((size, axis) => size === 1 || strides[axis] === rowMajor[axis]);
      if (same || this.#count === 0) this.strides = undefined;
    }
  }

  /** The tensor in float32. */
  read(): Float32Array {
    const target = allocate(this.source, Float32Array, this.#count);
    this.readInto(target);
    return target;
  }

  /** As `read`, into the first elements of `target`, which must be long enough. */
  readInto(target: Float32Array): void {
    const item = DTYPE_BYTES[this.dtype];
    if (this.strides) {
      toFloat32(this.dtype, this.#gather(), target, 0);
    } else if (this.dtype === 'F32') {
      this.#fill(new Uint8Array(target.buffer, target.byteOffset, this.byteLength));
    } else {
      this.stream((bytes, done) => toFloat32(this.dtype, bytes, target, done / item));
    }
  }

  /** The tensor's contiguous little-endian bytes in its own type, in memory of their own. */
  readRaw(): Uint8Array {
    if (this.strides) return this.#gather();
    const target = allocate(this.source, Uint8Array, this.byteLength);
    this.#fill(target);
    return target;
  }

  /**
   * Hands the tensor's contiguous bytes to `take` in order, piece by piece: aligned, of whole elements, valid until `take`
   * returns. `done` is how many bytes came before.
   */
  stream(take: (bytes: Uint8Array, done: number) => void): void {
    if (this.strides) {
      take(this.#gather(), 0);
      return;
    }
    const piece = new Uint8Array(Math.min(PIECE_BYTES, this.byteLength));
    this.#pieces((_, length) => piece.subarray(0, length), take);
  }

  /** Reads a contiguous tensor's bytes straight into place. */
  #fill(target: Uint8Array): void {
    this.#pieces((done, length) => target.subarray(done, done + length));
  }

  #pieces(
    place: (done: number, length: number) => Uint8Array,
    take?: (bytes: Uint8Array, done: number) => void,
  ): void {
    // A tensor that is its whole storage, the usual case, is checked while it is read; any other costs a pass before.
    const inline = this.checked?.pendingFor(this.offset, this.byteLength) ?? false;
    if (!inline) this.checked?.verify();
    let crc = 0;
    for (let done = 0; done < this.byteLength; ) {
      const bytes = place(done, Math.min(PIECE_BYTES, this.byteLength - done));
      this.source.readInto(bytes, this.offset + done);
      if (inline) crc = crc32(bytes, crc);
      take?.(bytes, done);
      done += bytes.length;
    }
    if (inline) this.checked!.settle(crc);
  }

  /** The contiguous bytes of a strided tensor. */
  #gather(): Uint8Array {
    this.checked?.verify();
    const item = DTYPE_BYTES[this.dtype];
    const strides = this.strides!;
    const span = this.shape.reduce((last, size, axis) => last + (size - 1) * strides[axis], 0) + 1;
    const stored = readRange(this.source, this.offset, span * item);
    const target = allocate(this.source, Uint8Array, this.byteLength);
    const Elements = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array }[item]!;
    const from = new Elements(stored.buffer as ArrayBuffer) as Uint8Array; // or wider; elements are only copied
    const to = new Elements(target.buffer as ArrayBuffer) as Uint8Array;

    const inner = this.shape.length - 1;
    const index = new Array<number>(this.shape.length).fill(0);
    let start = 0; // where the current innermost row begins in `from`
    for (let at = 0; at < this.#count; ) {
      for (let i = 0; i < this.shape[inner]; i++) to[at++] = from[start + i * strides[inner]];
      for (let axis = inner - 1; axis >= 0; axis--) {
        start += strides[axis];
        if (++index[axis] < this.shape[axis]) break;
        start -= strides[axis] * this.shape[axis];
        index[axis] = 0;
      }
    }
    return target;
  }
}

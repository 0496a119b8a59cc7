/** The golden arrays of test/golden: version 1 NumPy files, little-endian float32 or int32, C order. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';

export interface GoldenArray<T> {
  shape: number[];
  data: T;
}

function read(name: string, descr: string): { shape: number[]; bytes: ArrayBuffer } {
  const file = readFileSync(path.join(packageRoot(), 'test', 'golden', `${name}.npy`));
  const start = 10 + file.readUInt16LE(8);
  const header = file.toString('latin1', 10, start);
  const shape = /'shape': \(([^)]*)\)/.exec(header);
  if (!header.includes(`'descr': '${descr}'`) || !header.includes("'fortran_order': False") || !shape)
    throw new Error(`${name}: unexpected header ${header}`);
  return {
    shape: shape[1]
      .split(',')
      .filter((s) => s.trim() !== '')
      .map(Number),
    bytes: new Uint8Array(file.subarray(start)).buffer,
  };
}

export function goldenFloats(name: string): GoldenArray<Float32Array> {
  const { shape, bytes } = read(name, '<f4');
  return { shape, data: new Float32Array(bytes) };
}

export function goldenIntegers(name: string): GoldenArray<Int32Array> {
  const { shape, bytes } = read(name, '<i4');
  return { shape, data: new Int32Array(bytes) };
}

/** `[B, C, H, W]` to `[B, H, W, C]`. */
export function channelsLast({ shape: [b, c, h, w], data }: GoldenArray<Float32Array>): Float32Array {
  const out = new Float32Array(data.length);
  for (let n = 0; n < b; n++)
    for (let k = 0; k < c; k++)
      for (let p = 0; p < h * w; p++) out[(n * h * w + p) * c + k] = data[(n * c + k) * h * w + p];
  return out;
}

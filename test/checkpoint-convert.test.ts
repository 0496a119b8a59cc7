import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { openCheckpoint, saveAsSafetensors } from '../lib/checkpoint/checkpoint.js';
import { fromFloat32, toFloat32 } from '../lib/checkpoint/dtype.js';
import { type TensorToWrite, writeSafetensors } from '../lib/checkpoint/safetensors-writer.js';
import { FIXTURES, scratchFolder } from './checkpoint-builders.js';

const all16 = () => new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);

function widen(dtype: 'F16' | 'BF16', bytes: Uint8Array): Float32Array {
  const target = new Float32Array(bytes.length / 2);
  toFloat32(dtype, bytes, target, 0);
  return target;
}

function narrow(values: Float32Array, dtype: 'F16' | 'BF16'): Uint16Array {
  const target = new Uint16Array(values.length);
  fromFloat32(dtype, values, new Uint8Array(target.buffer));
  return target;
}

/** The value of binary16 bits, straight from the definition. */
function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The 16-bit pattern nearest to a finite value among all of one sign, ties to even. */
function nearestBits(value: number, decode: (bits: number) => number, infinity: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  let low = 0; // the largest pattern not above the magnitude, found by halving
  for (let step = 0x4000; step > 0; step >>= 1) {
    if (low + step < infinity && decode(low + step) <= magnitude) low += step;
  }
  const ulp = low + 1 < infinity ? decode(low + 1) - decode(low) : decode(low) - decode(low - 1);
  const rest = (magnitude - decode(low)) / ulp;
  const up = rest > 0.5 || (rest === 0.5 && low & 1);
  return sign | (low + (up ? 1 : 0));
}

const bfloatValue = (bits: number) => new Float32Array(new Uint32Array([bits << 16]).buffer)[0];

describe('conversion', () => {
  it('widens every float16 exactly', () => {
    const wide = widen('F16', all16());
    for (let bits = 0; bits < 65536; bits++)
      assert.ok(Object.is(wide[bits], halfValue(bits)), `pattern ${bits}`);
  });

  it('gives every float16 and bfloat16 back, widened and narrowed, but for NaN payloads', () => {
    for (const dtype of ['F16', 'BF16'] as const) {
      const wide = widen(dtype, all16());
      const back = narrow(wide, dtype);
      for (let bits = 0; bits < 65536; bits++) {
        if (Number.isNaN(wide[bits]))
          assert.ok(Number.isNaN(widen(dtype, new Uint8Array(back.slice(bits, bits + 1).buffer))[0]));
        else assert.equal(back[bits], bits);
      }
    }
  });

  const narrowed = (value: number, dtype: 'F16' | 'BF16') => narrow(new Float32Array([value]), dtype)[0];

  it('rounds to nearest, ties to even', () => {
    const property = (dtype: 'F16' | 'BF16', decode: (bits: number) => number, infinity: number) =>
      fc.assert(
        fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (value) => {
          assert.equal(narrowed(value, dtype), nearestBits(value, decode, infinity));
        }),
        { seed: 3, numRuns: 20_000 },
      );
    property('F16', halfValue, 0x7c00);
    property('BF16', bfloatValue, 0x7f80);
  });

  it('rounds every midpoint between two float16 to the even one, and its neighbours to theirs', () => {
    const bits = new Uint32Array(1);
    const value = new Float32Array(bits.buffer);
    for (let half = 0; half < 0x7c00; half++) {
      // The midpoint over the largest float16 is where infinity begins.
      const next = half + 1 === 0x7c00 ? 65536 : halfValue(half + 1);
      value[0] = (halfValue(half) + next) / 2;
      assert.equal(narrowed(value[0], 'F16'), half + (half & 1), `midpoint over ${half}`);
      bits[0] += 1;
      assert.equal(narrowed(value[0], 'F16'), half + 1, `over the midpoint over ${half}`);
      bits[0] -= 2;
      assert.equal(narrowed(value[0], 'F16'), half, `under the midpoint over ${half}`);
    }
  });

  it('overflows to infinity and keeps signs and NaN', () => {
    assert.equal(narrowed(65520, 'F16'), 0x7c00);
    assert.equal(narrowed(65519, 'F16'), 0x7bff);
    assert.equal(narrowed(-1e9, 'F16'), 0xfc00);
    assert.equal(narrowed(3.4e38, 'BF16'), 0x7f80);
    assert.equal(narrowed(-0, 'BF16'), 0x8000);
    assert.ok(Number.isNaN(halfValue(narrowed(Number.NaN, 'F16'))));
    assert.ok(Number.isNaN(bfloatValue(narrowed(Number.NaN, 'BF16'))));
  });
});

describe('saving as safetensors', () => {
  const scratch = scratchFolder();
  after(() => scratch.remove());

  it('converts floating tensors and leaves the others', () => {
    for (const dtype of ['F32', 'F16', 'BF16'] as const) {
      const source = openCheckpoint(path.join(FIXTURES, 'bare.pt'));
      const file = path.join(scratch.path, `${dtype}.safetensors`);
      saveAsSafetensors(source, file, { dtype });
      const saved = openCheckpoint(file);
      for (const [name, info] of source.tensors) {
        const floating = ['F64', 'F32', 'F16', 'BF16'].includes(info.dtype);
        assert.equal(saved.tensors.get(name)!.dtype, floating ? dtype : info.dtype, name);
        const wanted = source.read(name);
        if (floating && dtype !== 'F32')
          toFloat32(dtype, new Uint8Array(narrow(wanted, dtype).buffer), wanted, 0);
        assert.deepEqual(saved.read(name), wanted, name);
      }
      source.close();
      saved.close();
    }
  });

  it('converts tensors of many pieces, and of a last one that is shorter', () => {
    const values = Float32Array.from({ length: 300_001 }, (_, i) => i / 7);
    const first = path.join(scratch.path, 'many.safetensors');
    const write: TensorToWrite['write'] = (sink) => sink(new Uint8Array(values.buffer));
    writeSafetensors(first, [{ name: 'w', dtype: 'F32', shape: [values.length], write }]);
    for (const dtype of ['F32', 'F16', 'BF16'] as const) {
      const source = openCheckpoint(first);
      const file = path.join(scratch.path, `many-${dtype}.safetensors`);
      saveAsSafetensors(source, file, { dtype });
      source.close();
      const saved = openCheckpoint(file);
      const raw = saved.readRaw('w');
      assert.deepEqual(
        raw,
        new Uint8Array(dtype === 'F32' ? values.buffer : narrow(values, dtype).buffer),
        dtype,
      );
      const parts: Buffer[] = [];
      saved.stream('w', (bytes) => parts.push(Buffer.from(bytes)));
      assert.deepEqual(new Uint8Array(Buffer.concat(parts)), raw);
      saved.close();
    }
  });

  it('aligns every tensor to its element', () => {
    const file = path.join(scratch.path, 'aligned.safetensors');
    const source = openCheckpoint(path.join(FIXTURES, 'bare.pt'));
    saveAsSafetensors(source, file);
    source.close();
    const bytes = readFileSync(file);
    const length = Number(bytes.readBigUInt64LE(0));
    assert.equal(length % 8, 0);
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
      string,
      { dtype: string; data_offsets: number[] }
    >;
    for (const { dtype, data_offsets: offsets } of Object.values(header)) {
      const itemBytes = Number(/\d+/.exec(dtype)?.[0] ?? 8) / 8;
      assert.equal(offsets[0] % itemBytes, 0);
    }
  });

  it('leaves the old file and nothing else when it fails', () => {
    const folder = scratchFolder();
    const file = folder.write('old', 'weights.safetensors');
    const tensor = (name: string, write: TensorToWrite['write']): TensorToWrite => ({
      name,
      dtype: 'F32',
      shape: [2],
      write,
    });
    const good = tensor('a', (sink) => sink(new Uint8Array(8)));
    const failing = tensor('b', () => {
      throw new Error('no more');
    });
    assert.throws(() => writeSafetensors(file, [good, failing]), /no more/);
    assert.throws(() => writeSafetensors(file, [good, tensor('b', (sink) => sink(new Uint8Array(7)))]), {
      code: 'ERR_TOKENFLOW_INVALID_ARGUMENT',
      message: /8 bytes for tensor 'b' but received 7/,
    });
    assert.throws(() => writeSafetensors(file, [good, good]), { code: 'ERR_TOKENFLOW_INVALID_ARGUMENT' });
    assert.throws(() => writeSafetensors(file, [tensor('__metadata__', good.write)]), /each name once/);
    assert.throws(() => writeSafetensors(path.join(folder.path, 'no', 'x.safetensors'), [good]), {
      code: 'ERR_TOKENFLOW_IO',
      message: /Cannot write '.*x\.safetensors': there is no folder .*no$/,
    });
    assert.equal(readFileSync(file, 'utf8'), 'old');
    assert.deepEqual(readdirSync(folder.path), ['weights.safetensors']);
    folder.remove();
  });
});

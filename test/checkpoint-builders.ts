/** Makes checkpoints byte by byte, so that tests can make wrong ones. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { packageRoot } from '../lib/native.js';

export const FIXTURES = path.join(packageRoot(), 'test', 'fixtures', 'checkpoint');

/** A folder for one `describe`; call `remove` after it. */
export function scratchFolder() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-checkpoint-'));
  let count = 0;
  return {
    path: folder,
    write(bytes: Uint8Array | string, name = `${count++}.bin`): string {
      const file = path.join(folder, name);
      writeFileSync(file, bytes);
      return file;
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Repeatable random integers in [0, limit). */
export function randomIntegers(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

export function bytesOf(...parts: (string | number[] | Uint8Array)[]): Buffer {
  return Buffer.concat(
    parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : Buffer.from(part))),
  );
}

/** A pickle of protocol 2, piece by piece. */
export const pickle = {
  str(text: string): Buffer {
    const utf8 = Buffer.from(text);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(utf8.length);
    return bytesOf('X', length, utf8);
  },
  int(value: number): Buffer {
    const bytes = Buffer.alloc(5, 'J');
    bytes.writeInt32LE(value, 1);
    return bytes;
  },
  long(value: bigint): Buffer {
    const bytes = Buffer.alloc(9);
    bytes[0] = 8;
    bytes.writeBigInt64LE(value, 1);
    return bytesOf([0x8a], bytes);
  },
  global: (module: string, name: string): Buffer => bytesOf(`c${module}\n${name}\n`),
  tuple: (...items: Buffer[]): Buffer => bytesOf('(', ...items, 't'),
  call: (callee: Buffer, ...args: Buffer[]): Buffer => bytesOf(callee, pickle.tuple(...args), 'R'),
  dict: (items: [Buffer, Buffer][]): Buffer => bytesOf('}(', ...items.flat(), 'u'),
  program: (...parts: Buffer[]): Buffer => bytesOf([0x80, 2], ...parts, '.'),
};

/** A pickled tensor over storage `key` of `count` float32 (or what `storageType` holds). */
export function pickledTensor({
  key = '0',
  count = pickle.int(4),
  offset = pickle.int(0),
  shape = [pickle.int(4)],
  strides = [pickle.int(1)],
  storageType = pickle.global('torch', 'FloatStorage'),
} = {}): Buffer {
  const id = pickle.tuple(pickle.str('storage'), storageType, pickle.str(key), pickle.str('cpu'), count);
  return pickle.call(
    pickle.global('torch._utils', '_rebuild_tensor_v2'),
    bytesOf(id, 'Q'),
    offset,
    pickle.tuple(...shape),
    pickle.tuple(...strides),
    bytesOf([0x89]),
    pickle.call(pickle.global('collections', 'OrderedDict')),
  );
}

export interface ZipPart {
  name: string;
  data: Uint8Array;
  /** Sizes and offset in 64 bits, as for archives over 4 GiB. */
  wide?: boolean;
}

/** A stored zip with right checksums. */
export function zip(parts: ZipPart[]): Buffer {
  const locals: Buffer[] = [];
  const centrals: Buffer[] = [];
  let at = 0;
  for (const { name, data, wide } of parts) {
    const crc = crc32(data);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt32LE(crc, 14);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(data.length, 22);
    local.writeUInt16LE(name.length, 26);

    const extra = Buffer.alloc(wide ? 28 : 0);
    if (wide) {
      extra.writeUInt16LE(1, 0);
      extra.writeUInt16LE(24, 2);
      extra.writeBigUInt64LE(BigInt(data.length), 4);
      extra.writeBigUInt64LE(BigInt(data.length), 12);
      extra.writeBigUInt64LE(BigInt(at), 20);
    }
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt32LE(crc, 16);
    central.writeUInt32LE(wide ? 0xffffffff : data.length, 20);
    central.writeUInt32LE(wide ? 0xffffffff : data.length, 24);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt16LE(extra.length, 30);
    central.writeUInt32LE(wide ? 0xffffffff : at, 42);
    locals.push(bytesOf(local, name, data));
    centrals.push(bytesOf(central, name, extra));
    at += local.length + name.length + data.length;
  }
  const directory = Buffer.concat(centrals);
  const tail: Buffer[] = [];
  if (parts.some((part) => part.wide)) {
    const end64 = Buffer.alloc(56);
    end64.writeUInt32LE(0x06064b50, 0);
    end64.writeBigUInt64LE(44n, 4);
    end64.writeBigUInt64LE(BigInt(parts.length), 24);
    end64.writeBigUInt64LE(BigInt(parts.length), 32);
    end64.writeBigUInt64LE(BigInt(directory.length), 40);
    end64.writeBigUInt64LE(BigInt(at), 48);
    const locator = Buffer.alloc(20);
    locator.writeUInt32LE(0x07064b50, 0);
    locator.writeBigUInt64LE(BigInt(at + directory.length), 8);
    tail.push(end64, locator);
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(parts.length, 8);
  end.writeUInt16LE(parts.length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...locals, directory, ...tail, end]);
}

/** A PyTorch zip around a pickle, with one storage of four float32: 1, 2, 3, 4. */
export function torchZip(program: Uint8Array, wide = false): Buffer {
  const storage = new Uint8Array(new Float32Array([1, 2, 3, 4]).buffer);
  return zip([
    { name: 'archive/data.pkl', data: program, wide },
    { name: 'archive/data/0', data: storage, wide },
    { name: 'archive/version', data: bytesOf('3\n'), wide },
  ]);
}

/** A safetensors file around a header (an object, or its text) and `dataBytes` zeros. */
export function safetensors(header: unknown, dataBytes = 0, headerLength?: bigint): Buffer {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(headerLength ?? BigInt(text.length));
  return Buffer.concat([length, text, Buffer.alloc(dataBytes)]);
}

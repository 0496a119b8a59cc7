import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import {
  decodeNpy,
  encodeNpy,
  type NpyData,
  readNpy,
  readNpyHeader,
  writeNpy,
} from '../lib/checkpoint/npy.js';
import { FIXTURES, scratchFolder } from './checkpoint-builders.js';

const expected = JSON.parse(readFileSync(path.join(FIXTURES, 'expected.json'), 'utf8')) as Record<
  string,
  { shape: number[]; raw: string }
>;
const base64 = (data: NpyData) =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');

/** A version 1 file around a header text. */
function npy(header: string, dataBytes: number): Buffer {
  const head = Buffer.from('\x93NUMPY\x01\x00\0\0', 'latin1');
  head.writeUInt16LE(header.length, 8);
  return Buffer.concat([head, Buffer.from(header, 'latin1'), Buffer.alloc(dataBytes)]);
}

describe('npy', () => {
  const scratch = scratchFolder();
  after(() => scratch.remove());

  for (const [name, { shape, raw }] of Object.entries(expected).filter(([name]) => name.endsWith('.npy'))) {
    it(`reads ${name} as NumPy does`, () => {
      const array = readNpy(path.join(FIXTURES, name));
      assert.deepEqual(array.shape, shape);
      assert.equal(base64(array.data), raw);
      assert.deepEqual(readNpyHeader(path.join(FIXTURES, name)).shape, shape);
    });
  }

  it('writes what NumPy writes, byte for byte', () => {
    for (const name of readdirSync(FIXTURES).filter((name) =>
      /^([fiu][1248]|scalar|empty)\.npy$/.test(name),
    )) {
      if (name === 'f2.npy') continue; // read as float32
      const bytes = readFileSync(path.join(FIXTURES, name));
      assert.deepEqual(encodeNpy(decodeNpy(bytes)), bytes, name);
    }
  });

  it('reads back any array it wrote', () => {
    const arrays = fc.oneof(
      fc.float32Array({ maxLength: 40 }),
      fc.float64Array({ maxLength: 40 }),
      fc.int32Array({ maxLength: 40 }),
      fc.uint32Array({ maxLength: 40 }),
      fc.uint16Array({ maxLength: 40 }),
      fc.int16Array({ maxLength: 40 }),
      fc.uint8Array({ maxLength: 40 }),
      fc.int8Array({ maxLength: 40 }),
      fc.bigInt64Array({ maxLength: 40 }),
    );
    fc.assert(
      fc.property(arrays, fc.integer({ min: 1, max: 4 }), (values, rows) => {
        const data = values.slice(0, values.length - (values.length % rows)) as NpyData;
        const shape = [rows, data.length / rows];
        const file = path.join(scratch.path, 'array.npy');
        writeNpy(file, { shape, data });
        const back = readNpy(file);
        assert.deepEqual(back.shape, shape);
        assert.equal(back.data.constructor, data.constructor);
        assert.equal(base64(back.data), base64(data));
      }),
      { seed: 7, numRuns: 200 },
    );
  });

  it('writes views of larger buffers as what they show', () => {
    const data = new Float32Array([1, 2, 3, 4, 5]).subarray(1, 4);
    assert.deepEqual([...decodeNpy(encodeNpy({ shape: [3], data })).data], [2, 3, 4]);
  });

  it('takes headers with spaces, other quotes and another order', () => {
    const array = decodeNpy(npy(`{"shape":( 2 ,1, ) , "fortran_order" :True,'descr': '<i4' }`, 8));
    assert.deepEqual(array.shape, [2, 1]);
    assert.deepEqual(
      decodeNpy(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }\n", 8)).shape,
      [2],
    );
  });

  describe('refuses', () => {
    const header = (text: string) => npy(text, 8);
    const ok = (shape: string) => `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`;
    const cases: [string, Buffer, RegExp][] = [
      ['nothing', Buffer.alloc(0), /expected a NumPy array/],
      ['another file', Buffer.from('PK\x03\x04 and so on and on'), /expected a NumPy array/],
      ['a cut header', npy(ok('(2,)'), 8).subarray(0, 30), /truncated/],
      [
        'version 9',
        Buffer.from('\x93NUMPY\x09\x00\0\0\0\0\0\0', 'latin1'),
        /version 9 of \.npy is not known/,
      ],
      [
        'a header of 4 GB',
        Buffer.from('\x93NUMPY\x02\x00\xff\xff\xff\xff', 'latin1'),
        /claims 4294967295 bytes/,
      ],
      ['too little data', npy(ok('(3,)'), 8), /needs 12 bytes, but 8 are there/],
      ['too much data', npy(ok('(1,)'), 8), /needs 4 bytes, but 8 are there/],
      ['a huge shape', header(ok('(9999999999, 9999999999)')), /shape makes no sense/],
      ['a shape no number holds', header(ok('(99999999999999999999,)')), /shape makes no sense/],
      ['a negative size', header(ok('(-2,)')), /expected a \.npy header like/],
      [
        'code for a shape',
        header(ok("__import__('os').system('touch owned')")),
        /expected a \.npy header like/,
      ],
      [
        'a key twice',
        header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"),
        /header like/,
      ],
      ['a key missing', header("{'descr': '<f4', 'shape': (2,), }"), /header like/],
      [
        'a key more',
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': True}"),
        /header like/,
      ],
      ['text after it', header(`${ok('(2,)')} x`), /header like/],
      ['no type', header("{'descr': '', 'fortran_order': False, 'shape': (2,), }"), /header like/],
      [
        'complex numbers',
        header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }"),
        /type '<c8' is not/,
      ],
      [
        'the type constructor',
        header("{'descr': '<constructor', 'fortran_order': False, 'shape': (1,), }"),
        /not supported/,
      ],
      [
        'big-endian',
        readFileSync(path.join(FIXTURES, 'refused_big_endian.npy')),
        /big-endian; save it with .astype/,
      ],
      ['records', readFileSync(path.join(FIXTURES, 'refused_record.npy')), /record types are not supported/],
      ['objects', readFileSync(path.join(FIXTURES, 'refused_object.npy')), /Object arrays are pickles/],
    ];
    for (const [what, bytes, message] of cases) {
      it(what, () => assert.throws(() => decodeNpy(bytes), { code: 'ERR_TOKENFLOW_FORMAT', message }));
    }

    it('a long run of almost-entries quickly', () => {
      const started = Date.now();
      assert.throws(() => decodeNpy(npy(`{'shape': (${'1,'.repeat(30_000)}`, 8)));
      assert.throws(() => decodeNpy(npy(`{${' '.repeat(60_000)}`, 8)));
      assert.ok(Date.now() - started < 1000);
    });

    it('paths that cannot be read or written, and arrays whose shape is another', () => {
      const nowhere = path.join(scratch.path, 'no', 'where.npy');
      assert.throws(() => readNpy(nowhere), { code: 'ERR_TOKENFLOW_IO' });
      assert.throws(() => writeNpy(nowhere, { shape: [1], data: new Uint8Array(1) }), {
        code: 'ERR_TOKENFLOW_IO',
      });
      assert.throws(() => encodeNpy({ shape: [3], data: new Uint8Array(2) }), {
        code: 'ERR_TOKENFLOW_INVALID_ARGUMENT',
        message: /3 elements, as its shape \[3\] says/,
      });
    });
  });
});

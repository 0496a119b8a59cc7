import assert from 'node:assert/strict';
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../lib/checkpoint/checkpoint.js';
import { isDangerous } from '../lib/checkpoint/torch-globals.js';
import {
  bytesOf,
  FIXTURES,
  pickle,
  pickledTensor,
  safetensors,
  scratchFolder,
  torchZip,
  zip,
} from './checkpoint-builders.js';

describe('broken and hostile checkpoints', () => {
  const scratch = scratchFolder();
  after(() => scratch.remove());

  /** Opens, reads everything, and must fail with words that match. */
  const refuses = (file: string, message: RegExp) => {
    const heapBefore = process.memoryUsage().rss;
    assert.throws(
      () => {
        const checkpoint = openCheckpoint(file);
        try {
          for (const name of checkpoint.tensors.keys()) checkpoint.read(name);
        } finally {
          checkpoint.close();
        }
      },
      { name: 'TokenFlowError', code: 'ERR_TOKENFLOW_CHECKPOINT', message },
    );
    assert.ok(process.memoryUsage().rss - heapBefore < 300e6, 'a broken file costs no memory');
  };
  const refusesBytes = (bytes: Uint8Array, message: RegExp) => refuses(scratch.write(bytes), message);
  const stateDict = (tensor: Buffer) => torchZip(pickle.program(pickle.dict([[pickle.str('w'), tensor]])));

  describe('as Python wrote them', () => {
    const cases: Record<string, RegExp> = {
      'refused_os_system.pt': /asks for 'posix\.system', .*Nothing was executed/,
      'refused_eval.pth': /asks for '__builtin__\.eval', .*Nothing was executed/,
      'refused_module.pt':
        /found an object of class torch\.nn\.modules\.linear\.Linear. Save the weights alone/,
      'refused_no_tensors.pt': /expected a state dict under 'ema', 'model' or 'state_dict'.*'epoch', 'lr'/,
      'refused_big_endian.pt': /byte order is 'big'/,
      'refused_missing_storage.pt': /storage '1' is missing/,
      'refused_compressed.pt': /is compressed; .*zip -0/,
      'refused_plain_pickle.pkl': /a Python pickle that torch\.save did not write/,
      'refused_arrays.npz': /no PyTorch checkpoint.*\.npz/,
    };
    for (const [name, message] of Object.entries(cases)) {
      it(name, () => refuses(path.join(FIXTURES, name), message));
    }
    after(() => assert.ok(!existsSync('owned'), 'a checkpoint ran a program'));
  });

  describe('files of other kinds', () => {
    const cases: [string, string | Uint8Array, RegExp][] = [
      ['empty', '', /an empty file/],
      ['a Git LFS pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:00\n', /git lfs pull/],
      ['a web page', '<!DOCTYPE html><html>404</html>', /a web page/],
      ['an array', readFileSync(path.join(FIXTURES, 'f4.npy')), /a NumPy array/],
      ['noise', bytesOf([1, 2, 3]), /something else/],
      ['other JSON', '{"a": 1}', /expected a safetensors index/],
    ];
    for (const [what, bytes, message] of cases) it(what, () => refuses(scratch.write(bytes), message));
  });

  describe('zip archives', () => {
    const good = readFileSync(path.join(FIXTURES, 'bare.pt'));

    it('truncated anywhere', () => {
      for (let length = 4; length < good.length; length += 97) {
        refusesBytes(good.subarray(0, length), /truncated|damaged/);
      }
    });

    it('with any bit of a weight flipped', () => {
      const at = good.indexOf(Buffer.from(new Float32Array([2.5]).buffer)); // the tensor 'scalar'
      assert.ok(at > 0);
      for (let bit = 0; bit < 32; bit++) {
        const flipped = Buffer.from(good);
        flipped[at + (bit >> 3)] ^= 1 << (bit & 7);
        refusesBytes(flipped, /checksum of 'bare\/data\/\d+' does not match.*copy it again/);
      }
    });

    it('with a flipped bit, when checksums are not asked for', () => {
      const flipped = Buffer.from(good);
      flipped[good.indexOf(Buffer.from(new Float32Array([2.5]).buffer))] ^= 1;
      const checkpoint = openCheckpoint(scratch.write(flipped), { checksums: false });
      assert.notEqual(checkpoint.read('scalar')[0], 2.5);
      checkpoint.close();
    });

    it('with entries that overlap, run out of the file, come twice, or are too many', () => {
      const archive = torchZip(pickle.program(pickle.dict([[pickle.str('w'), pickledTensor()]])));
      const central = archive.indexOf(bytesOf([0x50, 0x4b, 1, 2]));
      const second = archive.indexOf(bytesOf([0x50, 0x4b, 1, 2]), central + 4);
      const change = (edit: (bytes: Buffer) => void) => {
        const bytes = Buffer.from(archive);
        edit(bytes);
        return bytes;
      };
      refusesBytes(
        change((b) => b.writeUInt32LE(0, second + 42)),
        /overlap/,
      );
      refusesBytes(
        change((b) => {
          b.writeUInt32LE(0x7fffffff, central + 20);
          b.writeUInt32LE(0x7fffffff, central + 24);
        }),
        /past the end of the archive's data/,
      );
      refusesBytes(
        change((b) => b.writeUInt32LE(0xffffffff, central + 24)),
        /lacks its 64-bit sizes/,
      );
      refusesBytes(
        change((b) => b.writeUInt32LE(0x7ffffff0, central + 42)),
        /truncated or damaged/,
      );
      refusesBytes(
        change((b) => b.writeUInt16LE(0xffff, archive.length - 12)),
        /65535 entries in/,
      );
      const name = 'archive/data.pkl';
      refusesBytes(
        zip([
          { name, data: bytesOf('N.') },
          { name, data: bytesOf('N.') },
        ]),
        /'archive\/data\.pkl' twice/,
      );
    });

    it('with 64-bit sizes that are cut short', () => {
      const bytes = torchZip(pickle.program(pickle.dict([])), true);
      const name = 'archive/data.pkl';
      const extra = bytes.indexOf(bytesOf([0x50, 0x4b, 1, 2])) + 46 + name.length;
      for (const length of [0, 8, 23, 25, 0xffff]) {
        bytes.writeUInt16LE(length, extra + 2);
        refusesBytes(bytes, /'archive\/data\.pkl' lacks its 64-bit sizes/);
      }
    });

    it('with 64-bit sizes beyond all numbers', () => {
      const archive = torchZip(pickle.program(pickle.dict([])), true);
      const end64 = archive.indexOf(bytesOf([0x50, 0x4b, 6, 6]));
      for (const field of [32, 40, 48]) {
        const bytes = Buffer.from(archive);
        bytes.writeBigUInt64LE(2n ** 63n, end64 + field);
        refusesBytes(bytes, /damaged/);
        bytes.writeBigUInt64LE(2n ** 40n, end64 + field);
        refusesBytes(bytes, /damaged|truncated|more than/);
      }
    });
  });

  describe('tensors', () => {
    const huge = pickle.long(2n ** 62n);
    const cases: [string, Buffer, RegExp][] = [
      [
        'past their storage',
        pickledTensor({ offset: pickle.int(1) }),
        /tensor 'w' reaches past its storage of 16 bytes/,
      ],
      ['with strides past it', pickledTensor({ strides: [pickle.int(2)] }), /reaches past its storage/],
      ['with negative strides', pickledTensor({ strides: [pickle.int(-1)] }), /no proper offset or strides/],
      ['with a negative offset', pickledTensor({ offset: pickle.int(-4) }), /no proper offset or strides/],
      ['of negative size', pickledTensor({ shape: [pickle.int(-4)] }), /no proper shape/],
      ['of a size no number holds', pickledTensor({ shape: [huge, huge] }), /no proper shape/],
      ['of fewer strides than sizes', pickledTensor({ strides: [] }), /no proper shape/],
      ['of text for a size', pickledTensor({ shape: [pickle.str('4')] }), /no proper shape/],
      ['of huge storage', pickledTensor({ count: huge }), /storage '0' claims .* more than a file/],
      ['of negative storage', pickledTensor({ count: pickle.int(-1) }), /storage '0' claims/],
      [
        'of a storage size that differs',
        pickledTensor({ count: pickle.int(3), shape: [pickle.int(3)] }),
        /expect 12/,
      ],
      ['of a lost storage', pickledTensor({ key: '../data.pkl' }), /storage '\.\.\/data\.pkl' is missing/],
      [
        'of a storage class that is not known',
        pickledTensor({ storageType: pickle.global('torch', 'QInt8Storage') }),
        /tensor 'w' has a torch\.QInt8Storage, a type that is not supported/,
      ],
      [
        'expanded to fill memory',
        pickledTensor({
          shape: [pickle.int(1 << 20), pickle.int(1 << 20)],
          strides: [pickle.int(0), pickle.int(0)],
        }),
        /an expanded view that large/,
      ],
    ];
    for (const [what, tensor, message] of cases) it(what, () => refusesBytes(stateDict(tensor), message));
  });

  describe('pickles', () => {
    const beside = (value: Buffer) =>
      torchZip(
        pickle.program(
          pickle.dict([
            [pickle.str('w'), pickledTensor()],
            [pickle.str('x'), value],
          ]),
        ),
      );

    it('that name something dangerous, wherever and however', () => {
      const dangerous: [string, string][] = [
        ['os', 'system'],
        ['posix', 'system'],
        ['nt', 'system'],
        ['subprocess', 'Popen'],
        ['builtins', 'exec'],
        ['builtins', 'getattr'],
        ['__builtin__', 'eval'],
        ['builtins', '__import__'],
        ['torch.serialization', 'os.system'],
        ['collections', 'namedtuple.__globals__'],
        ['importlib', 'import_module'],
        ['pickle', 'loads'],
        ['shutil', 'rmtree'],
      ];
      for (const [module, name] of dangerous) {
        const words = new RegExp(`asks for '${module}\\.${name.replace('.', '\\.')}'`);
        const argument = pickle.str('touch owned');
        refusesBytes(beside(pickle.call(pickle.global(module, name), argument)), words);
        refusesBytes(beside(bytesOf(pickle.str(module), pickle.str(name), [0x93])), words); // STACK_GLOBAL, never called
        refusesBytes(beside(bytesOf('(', argument, `i${module}\n${name}\n`)), words); // INST
      }
      assert.ok(!existsSync('owned'));
    });

    it('that name other classes pass, and those become nothing', () => {
      const harmless: [string, string][] = [
        ['argparse', 'Namespace'],
        ['types', 'SimpleNamespace'],
        ['numpy.core.multiarray', 'scalar'],
        ['builtins', 'set'],
        ['omegaconf.dictconfig', 'DictConfig'],
        ['my.os', 'Thing'],
      ];
      for (const [module, name] of harmless) {
        assert.ok(!isDangerous(module, name));
        const state = pickle.dict([[pickle.str('a'), pickle.int(1)]]);
        const built = bytesOf(pickle.call(pickle.global(module, name)), state, 'b', '(', pickle.int(1), 'e');
        const checkpoint = openCheckpoint(scratch.write(beside(built)));
        assert.deepEqual([...checkpoint.tensors.keys()], ['w']);
        checkpoint.close();
      }
    });

    it('that make no sense to the machine', () => {
      const cases: [Buffer, RegExp][] = [
        [bytesOf('.'), /more from its stack/],
        [bytesOf('0'), /more from its stack/],
        [bytesOf('t.'), /mark is missing/],
        [bytesOf('(.'), /more from its stack/],
        [bytesOf('h\x05.'), /recalls value 5/],
        [bytesOf('NNR.'), /calls what cannot be called/],
        [bytesOf(pickle.global('collections', 'OrderedDict'), 'NR.'), /without a tuple/],
        [bytesOf('NNa.'), /appends to what is no list/],
        [bytesOf('NNNs.'), /sets items of what is no dict/],
        [bytesOf('}(Nu.'), /key without a value/],
        [bytesOf('NQ.'), /without a proper name/],
        [bytesOf('Ix\n.'), /integer is not one/],
        [bytesOf([0x82, 1], '.'), /opcode 0x82 at byte/],
        [bytesOf('X\xff\xff\xff\x7fabc.'), /ends in the middle/],
        [bytesOf([0x8e], '\xff\xff\xff\xff\xff\xff\xff\xff', '.'), /ends in the middle/],
        [bytesOf([0x8b], '\xff\xff\xff\x7f', '.'), /integer of 2147483647 bytes/],
        [bytesOf([0x80, 9], '.'), /protocol is newer/],
        [bytesOf('c', 'x'.repeat(5000), '\n'), /endless line/],
        [bytesOf('N'), /ends in the middle/],
      ];
      for (const [program, message] of cases) refusesBytes(torchZip(bytesOf([0x80, 2], program)), message);
    });

    it('that nest, recur or refer to themselves without end', () => {
      const depth = 400_000;
      const nested = bytesOf(Buffer.alloc(depth, '('), Buffer.alloc(depth, 't'));
      const recursive = bytesOf(']q\x01', Buffer.alloc(3000, 'h\x01a'));
      for (const value of [nested, recursive]) {
        const program = bytesOf(
          pickle.dict([[pickle.str('w'), pickledTensor()]]),
          bytesOf(pickle.str('x'), value, 's'),
        );
        const checkpoint = openCheckpoint(scratch.write(torchZip(pickle.program(program))));
        assert.deepEqual([...checkpoint.read('w')], [1, 2, 3, 4]);
        checkpoint.close();
      }
      // A dict that is its own key, and its own model.
      const program = pickle.program(bytesOf('}q\x01h\x01h\x01s', pickle.str('model'), 'h\x01s'));
      refusesBytes(torchZip(program), /expected a state dict/);
    });

    it('that build without measure', () => {
      refusesBytes(torchZip(bytesOf(Buffer.alloc(600_000, '}'), '.')), /more than 500000 containers/);
      refusesBytes(torchZip(bytesOf(Buffer.alloc(5_100_000, 'N'), '.')), /more than 5000000 steps/);
      const text = pickle.str('x'.repeat(4096));
      refusesBytes(torchZip(bytesOf(...new Array<Buffer>(4200).fill(text), '.')), /bytes of text/);
    });

    it('with long texts, and state dicts of types that are not read, beside the weights', () => {
      const long = pickle.str('x'.repeat(3_000_000));
      const quantised = pickle.dict([
        [pickle.str('q'), pickledTensor({ storageType: pickle.global('torch', 'QInt8Storage') })],
      ]);
      for (const value of [long, quantised]) {
        const checkpoint = openCheckpoint(scratch.write(beside(value)));
        assert.deepEqual([...checkpoint.read('w')], [1, 2, 3, 4]);
        checkpoint.close();
      }
    });
  });

  describe('legacy files', () => {
    const good = readFileSync(path.join(FIXTURES, 'bare.pth'));

    it('truncated anywhere', () => {
      for (let length = 30; length < good.length; length += 41) {
        refusesBytes(good.subarray(0, length), /truncated|damaged/);
      }
    });

    it('with bytes added, wrong lengths, or another byte order', () => {
      refusesBytes(bytesOf(good, [0]), /1 bytes follow its last storage/);
      const big = Buffer.from(good);
      const at = big.indexOf('little_endian');
      const flag = big.indexOf(0x88, at);
      big[flag] = 0x89;
      refusesBytes(big, /not written on a little-endian machine/);
      const scalar = good.indexOf(Buffer.from(new Float32Array([2.5]).buffer));
      for (const count of [-1n, 5n, 2n ** 62n]) {
        const bytes = Buffer.from(good);
        bytes.writeBigInt64LE(count, scalar - 8); // before the storage of the tensor 'scalar'
        refusesBytes(bytes, /has -?\d+ bytes, but its tensors expect 4/);
      }
    });
  });

  describe('safetensors', () => {
    const one = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
    const deep = `${'{"a":'.repeat(20)}1${'}'.repeat(20)}`;
    const cases: [string, Buffer, RegExp][] = [
      ['an empty header', safetensors('', 0, 0n), /something else|claims 0 bytes/],
      [
        'a header past the end',
        safetensors({ w: one }, 8, 10_000n),
        /header claims 10000 bytes, but the file has only/,
      ],
      ['a header of 2^40 bytes', safetensors({ w: one }, 8, 2n ** 40n), /header claims 1099511627776 bytes/],
      ['a header cut short', safetensors({ w: one }, 8, 20n), /not valid JSON/],
      ['a header that ends in a string', safetensors('{"abc', 8), /ends inside a string/],
      [
        'a header that is not UTF-8',
        safetensors(Buffer.from('{"\xff":1}', 'latin1').toString('latin1'), 8),
        /./,
      ],
      [
        'a name twice',
        safetensors(`{"w":${JSON.stringify(one)},"w":${JSON.stringify(one)}}`, 8),
        /key 'w' twice/,
      ],
      [
        'a name twice, spelled differently',
        safetensors(`{"w":${JSON.stringify(one)},"\\u0077":${JSON.stringify(one)}}`, 8),
        /key 'w' twice/,
      ],
      [
        'a dtype twice',
        safetensors('{"w":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', 8),
        /twice/,
      ],
      ['endless nesting', safetensors(deep), /nested more than 8 deep/],
      ['a tensor that is no object', safetensors({ w: [1] }), /described by no object/],
      ['an unknown type', safetensors({ w: { ...one, dtype: 'F4' } }, 8), /dtype "F4"; known are/],
      [
        'the type constructor',
        safetensors({ w: { ...one, dtype: 'constructor' } }, 8),
        /dtype "constructor"/,
      ],
      ['no shape', safetensors({ w: { ...one, shape: undefined } }, 8), /no proper shape/],
      ['a negative size', safetensors({ w: { ...one, shape: [-2] } }, 8), /no proper shape/],
      ['a fractional size', safetensors({ w: { ...one, shape: [2.5] } }, 8), /no proper shape/],
      [
        'a shape no number holds',
        safetensors({ w: { ...one, shape: [2 ** 40, 2 ** 40] } }, 8),
        /no proper shape/,
      ],
      [
        'a shape of 2^40',
        safetensors({ w: { ...one, shape: [2 ** 40] } }, 8),
        /needs 4398046511104 bytes, but has 8/,
      ],
      [
        'offsets past the end',
        safetensors({ w: { ...one, data_offsets: [0, 2 ** 50] } }, 8),
        /claims bytes 0 to/,
      ],
      ['offsets backwards', safetensors({ w: { ...one, data_offsets: [8, 0] } }, 8), /claims bytes 8 to 0/],
      [
        'three offsets',
        safetensors({ w: { ...one, data_offsets: [0, 4, 8] } }, 8),
        /no proper 'data_offsets'/,
      ],
      [
        'text for offsets',
        safetensors({ w: { ...one, data_offsets: ['0', '8'] } }, 8),
        /no proper 'data_offsets'/,
      ],
      [
        'overlap',
        safetensors({ w: one, v: { ...one, data_offsets: [4, 12] } }, 12),
        /tensors 'w' and 'v' overlap/,
      ],
      ['the same bytes twice', safetensors({ w: one, v: one }, 8), /overlap/],
      [
        'a hole',
        safetensors({ w: one, v: { ...one, data_offsets: [12, 20] } }, 20),
        /4 bytes between 'w' and 'v'/,
      ],
      ['bytes at the end', safetensors({ w: one }, 9), /1 bytes after 'w' belong to no tensor/],
      ['a truncated tensor', safetensors({ w: one }, 7), /claims bytes 0 to 8 of 7/],
      [
        'metadata that is not text',
        safetensors({ __metadata__: { a: 1 }, w: one }, 8),
        /map names to strings/,
      ],
    ];
    for (const [what, bytes, message] of cases) it(`with ${what}`, () => refusesBytes(bytes, message));

    it('keep a name like __proto__ to themselves', () => {
      const checkpoint = openCheckpoint(
        scratch.write(safetensors(`{"__proto__":${JSON.stringify(one)}}`, 8)),
      );
      assert.deepEqual([...checkpoint.read('__proto__')], [0, 0]);
      checkpoint.close();
    });

    it('with an index that reaches out of its folder', () => {
      for (const file of [
        '../bare.safetensors',
        '/etc/x.safetensors',
        'a\\b.safetensors',
        'shard.txt',
        7,
        null,
      ]) {
        const index = JSON.stringify({ weight_map: { w: file } });
        refuses(
          scratch.write(index, 'x.safetensors.index.json'),
          /expected the plain name of a file beside it/,
        );
      }
    });

    it('with an index that promises what its shard lacks', () => {
      scratch.write(safetensors({ w: one }, 8), 's.safetensors');
      const index = JSON.stringify({ weight_map: { w: 's.safetensors', v: 's.safetensors' } });
      refuses(
        scratch.write(index, 'y.safetensors.index.json'),
        /puts tensor 'v' in this file, which lacks it/,
      );
    });
  });

  it('a file that shrinks while it is open', () => {
    const file = scratch.write(safetensors({ w: { dtype: 'F32', shape: [2], data_offsets: [0, 8] } }, 8));
    const checkpoint = openCheckpoint(file);
    truncateSync(file, 40);
    assert.throws(() => checkpoint.read('w'), {
      code: 'ERR_TOKENFLOW_CHECKPOINT',
      message: /became shorter/,
    });
    writeFileSync(file, '');
    checkpoint.close();
  });
});

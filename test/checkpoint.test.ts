import assert from 'node:assert/strict';
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { type Checkpoint, openCheckpoint, saveAsSafetensors } from '../lib/checkpoint/checkpoint.js';
import { compareKeys } from '../lib/checkpoint/state-dict.js';
import { FIXTURES, pickle, pickledTensor, scratchFolder, torchZip } from './checkpoint-builders.js';

interface ExpectedCheckpoint {
  format: string;
  wrapper: string;
  tensors: Record<string, { dtype: string; shape: number[]; float32: string; raw: string }>;
}

const expected = JSON.parse(readFileSync(path.join(FIXTURES, 'expected.json'), 'utf8')) as Record<
  string,
  ExpectedCheckpoint
>;
const fixture = (name: string) => path.join(FIXTURES, name);
const base64 = (array: ArrayBufferView) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');

function assertHolds(checkpoint: Checkpoint, { tensors }: ExpectedCheckpoint): void {
  assert.deepEqual([...checkpoint.tensors.keys()].sort(), Object.keys(tensors).sort());
  for (const [name, tensor] of Object.entries(tensors)) {
    const info = checkpoint.tensors.get(name)!;
    assert.deepEqual(
      { dtype: info.dtype, shape: info.shape },
      { dtype: tensor.dtype, shape: tensor.shape },
      name,
    );
    assert.equal(info.byteLength, Buffer.from(tensor.raw, 'base64').length, name);
    assert.equal(base64(checkpoint.readRaw(name)), tensor.raw, name);
    const read = checkpoint.read(name);
    assert.equal(base64(read), tensor.float32, name);
    const target = new Float32Array(read.length).fill(7);
    checkpoint.readInto(name, target);
    assert.equal(base64(target), tensor.float32, name);
  }
}

describe('checkpoints', () => {
  const scratch = scratchFolder();
  after(() => scratch.remove());

  describe('hold what PyTorch reads from them', () => {
    for (const [name, content] of Object.entries(expected).filter(([name]) => !name.endsWith('.npy'))) {
      it(name, () => {
        const checkpoint = openCheckpoint(fixture(name));
        try {
          assert.equal(checkpoint.format, content.format);
          assert.equal(checkpoint.wrapper, content.wrapper);
          assertHolds(checkpoint, content);
        } finally {
          checkpoint.close();
        }
      });

      it(`${name}, saved as safetensors`, () => {
        const checkpoint = openCheckpoint(fixture(name));
        const file = path.join(scratch.path, `${name}.safetensors`);
        saveAsSafetensors(checkpoint, file, { metadata: { source: name } });
        checkpoint.close();
        const saved = openCheckpoint(file);
        assert.deepEqual(saved.metadata, { source: name });
        assertHolds(saved, content);
        saved.close();
      });
    }
  });

  it('tells formats by content, whatever the file is called', () => {
    for (const name of ['bare.pt', 'bare.pth', 'bare.safetensors']) {
      const file = path.join(scratch.path, `${name}.dat`);
      copyFileSync(fixture(name), file);
      const checkpoint = openCheckpoint(file);
      assert.equal(checkpoint.format, expected[name].format);
      checkpoint.close();
    }
  });

  it('names the keys of the state dict that hold no tensor', () => {
    const checkpoint = openCheckpoint(fixture('ema_none.pt'));
    assert.deepEqual(checkpoint.passedOver, ['version']);
    checkpoint.close();
  });

  it('reads zip64 archives', () => {
    const program = pickle.program(pickle.dict([[pickle.str('w'), pickledTensor()]]));
    const checkpoint = openCheckpoint(scratch.write(torchZip(program, true)));
    assert.deepEqual([...checkpoint.read('w')], [1, 2, 3, 4]);
    checkpoint.close();
  });

  it('reads untyped storages, whose tensors bring the type', () => {
    const id = pickle.tuple(
      ...[pickle.str('storage'), pickle.global('torch.storage', 'UntypedStorage'), pickle.str('0')],
      ...[pickle.str('cpu'), pickle.int(16)],
    );
    const tensor = pickle.call(
      pickle.global('torch._utils', '_rebuild_tensor_v3'),
      ...[
        Buffer.concat([id, Buffer.from('Q')]),
        pickle.int(2),
        pickle.tuple(pickle.int(2)),
        pickle.tuple(pickle.int(1)),
      ],
      ...[Buffer.from([0x89]), Buffer.from('N'), pickle.global('torch', 'uint16')],
    );
    const checkpoint = openCheckpoint(
      scratch.write(torchZip(pickle.program(pickle.dict([[pickle.str('w'), tensor]])))),
    );
    assert.equal(checkpoint.tensors.get('w')!.dtype, 'U16');
    assert.deepEqual([...checkpoint.read('w')], [0x0000, 0x4000]); // the halves of 2.0
    checkpoint.close();
  });

  describe('in a folder', () => {
    const folder = (name: string, files: Record<string, string>) => {
      const made = path.join(scratch.path, name);
      mkdirSync(made);
      for (const [target, from] of Object.entries(files))
        copyFileSync(fixture(from), path.join(made, target));
      return made;
    };
    const format = (folder: string) => {
      const checkpoint = openCheckpoint(folder);
      checkpoint.close();
      return [checkpoint.format, path.basename(checkpoint.path)];
    };

    it('takes model.safetensors first, then a single .pt', () => {
      const both = folder('both', { 'model.safetensors': 'bare.safetensors', 'other.pt': 'bare.pt' });
      assert.deepEqual(format(both), ['safetensors', 'model.safetensors']);
      assert.deepEqual(format(folder('one', { 'weights.pt': 'bare.pt' })), ['pytorch', 'weights.pt']);
    });

    it('asks which of two is meant', () => {
      const two = folder('two', { 'a.pt': 'bare.pt', 'b.pth': 'bare.pth' });
      assert.throws(() => openCheckpoint(two), {
        code: 'ERR_TOKENFLOW_CHECKPOINT',
        message: /2 checkpoints \(a\.pt, b\.pth\); name one/,
      });
    });

    it('says what it looked for when there is none', () => {
      assert.throws(() => openCheckpoint(folder('none', {})), {
        code: 'ERR_TOKENFLOW_CHECKPOINT',
        message: /holds no checkpoint: expected model\.safetensors/,
      });
    });

    it('names the shard that is missing', () => {
      const sharded = path.join(scratch.path, 'shard-lost');
      cpSync(fixture('sharded'), sharded, { recursive: true });
      unlinkSync(path.join(sharded, 'model-00002-of-00002.safetensors'));
      assert.throws(() => openCheckpoint(sharded), {
        code: 'ERR_TOKENFLOW_IO',
        message: /model-00002-of-00002/,
      });
    });
  });

  describe('used wrongly', () => {
    it('refuse paths that are none, or cannot be opened', () => {
      assert.throws(() => openCheckpoint(''), { code: 'ERR_TOKENFLOW_INVALID_ARGUMENT' });
      assert.throws(() => openCheckpoint(fixture('nowhere.pt')), {
        code: 'ERR_TOKENFLOW_IO',
        message: /nowhere\.pt/,
      });
      assert.throws(() => openCheckpoint('/dev/null'), {
        code: 'ERR_TOKENFLOW_IO',
        message: /not a regular file/,
      });
      assert.throws(
        () => openCheckpoint(fixture('bare.pt'), { checksum: true } as object),
        /did you mean 'checksums'/,
      );
    });

    it('refuse unknown names, wrong targets, and reading after close', () => {
      const checkpoint = openCheckpoint(fixture('bare.pt'));
      assert.throws(() => checkpoint.read('nothing'), {
        code: 'ERR_TOKENFLOW_CHECKPOINT',
        message: /no tensor 'nothing'/,
      });
      assert.throws(() => checkpoint.readInto('layer.weight', new Float32Array(11)), {
        code: 'ERR_TOKENFLOW_INVALID_ARGUMENT',
        message: /a Float32Array of 12 elements/,
      });
      checkpoint.close();
      checkpoint.close();
      assert.throws(() => checkpoint.read('layer.weight'), { code: 'ERR_TOKENFLOW_DISPOSED' });
    });

    it('leave no file open when they cannot be opened', () => {
      if (!existsSync('/proc/self/fd')) return;
      const open = () => readdirSync('/proc/self/fd').length;
      const before = open();
      for (const name of readdirSync(FIXTURES).filter((name) =>
        /^refused_.*\.(pt|pth|npz|pkl)$/.test(name),
      )) {
        assert.throws(() => openCheckpoint(fixture(name)));
      }
      openCheckpoint(fixture('sharded')).close();
      assert.equal(open(), before);
    });
  });
});

describe('compareKeys', () => {
  const shapes = (...names: string[]) => new Map(names.map((name) => [name, [2, 3]]));
  const tensors = (...names: string[]) =>
    new Map(names.map((name) => [name, { dtype: 'F32' as const, shape: [2, 3], byteLength: 24 }]));

  it('accepts exactly the expected tensors, and extra ones that may be', () => {
    compareKeys('m.pt', shapes('a', 'b'), tensors('b', 'a'));
    compareKeys('m.pt', shapes('a'), tensors('a', 'steps'), (name) => name === 'steps');
  });

  it('counts what is wrong and shows the first few with their shapes', () => {
    const found = tensors('a', 'x1', 'x2', 'x3', 'x4', 'x5');
    found.set('b', { dtype: 'F32', shape: [3, 2], byteLength: 24 });
    assert.throws(() => compareKeys('m.pt', shapes('a', 'b', 'c', 'd'), found), {
      code: 'ERR_TOKENFLOW_CHECKPOINT',
      message: [
        'm.pt does not hold the expected 4 tensors: 2 missing, 5 extra, 1 misshapen.',
        "  missing: 'c' [2, 3]; 'd' [2, 3]",
        "  extra: 'x1' [2, 3]; 'x2' [2, 3]; 'x3' [2, 3]; and 2 more",
        "  misshapen: 'b' expected [2, 3], found [3, 2]",
      ].join('\n'),
    });
  });

  it('recognises a prefix that a wrapper left', () => {
    assert.throws(
      () => compareKeys('m.pt', shapes('a.w', 'b.w'), tensors('module.a.w', 'module.b.w')),
      /Every name begins with 'module\.'/,
    );
  });
});

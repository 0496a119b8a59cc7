import assert from 'node:assert/strict';
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { openCheckpoint } from '../lib/checkpoint/checkpoint.js';
import { decodeNpy } from '../lib/checkpoint/npy.js';
import { TokenFlowError } from '../lib/errors.js';
import { FIXTURES, randomIntegers, scratchFolder } from './checkpoint-builders.js';

type Random = (limit: number) => number;

/** A copy with some bits flipped, bytes replaced, a piece cut out, doubled or moved, or the end cut off. */
function mutate(bytes: Buffer, random: Random): Buffer {
  let mutant = Buffer.from(bytes);
  for (let edits = 1 + random(3); edits > 0; edits--) {
    const at = random(mutant.length);
    const length = 1 + random(Math.min(64, mutant.length - at));
    const piece = mutant.subarray(at, at + length);
    switch (random(6)) {
      case 0:
        mutant[at] ^= 1 << random(8);
        break;
      case 1:
        mutant[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)];
        break;
      case 2:
        mutant = mutant.subarray(0, at);
        break;
      case 3:
        mutant = Buffer.concat([mutant.subarray(0, at), mutant.subarray(at + length)]);
        break;
      case 4:
        mutant = Buffer.concat([mutant.subarray(0, at), piece, mutant.subarray(at)]);
        break;
      case 5:
        mutant.copy(mutant, random(mutant.length), at, at + length);
        break;
    }
    if (mutant.length === 0) return mutant;
  }
  return mutant;
}

/** Mutates only the pickle of a zip, bytes replaced in place, and makes its checksum right again. */
function mutatePickle(bytes: Buffer, random: Random): Buffer {
  const mutant = Buffer.from(bytes);
  const central = mutant.indexOf('data.pkl', mutant.indexOf(Buffer.from('PK\x01\x02'))) - 46;
  const header = mutant.lastIndexOf(Buffer.from('PK\x01\x02'), central + 45);
  const local = mutant.readUInt32LE(header + 42);
  const begin = local + 30 + mutant.readUInt16LE(local + 26) + mutant.readUInt16LE(local + 28);
  const program = mutant.subarray(begin, begin + mutant.readUInt32LE(header + 24));
  mutate(program, random).copy(program);
  mutant.writeUInt32LE(crc32(program), header + 16);
  return mutant;
}

describe('mutated files', function () {
  this.timeout(120_000);
  const scratch = scratchFolder();
  after(() => {
    scratch.remove();
    assert.ok(!existsSync('owned'), 'a mutant ran a program');
  });

  const MUTANTS = Number(process.env.TOKENFLOW_FUZZ_MUTANTS ?? 100); // each file; more to hunt, fewer to pass by
  const SLOWEST_MS = 2000;
  const LARGEST_GROWTH = 400e6;

  /** Every mutant is read or refused with the package's own error, quickly and without memory. */
  function survive(
    bytes: Buffer,
    seed: number,
    mutation: typeof mutate,
    read: (mutant: Buffer) => void,
    codes = /^ERR_TOKENFLOW_(CHECKPOINT|FORMAT)$/,
  ): number {
    const random = randomIntegers(seed);
    const before = process.memoryUsage().rss;
    let refused = 0;
    for (let i = 0; i < MUTANTS; i++) {
      const mutant = mutation(bytes, random);
      const started = Date.now();
      try {
        read(mutant);
      } catch (error) {
        if (!(error instanceof TokenFlowError)) {
          throw new Error(`mutant ${i} of seed ${seed}: ${(error as Error).stack}`, { cause: error });
        }
        assert.match(error.code, codes);
        refused++;
      }
      assert.ok(Date.now() - started < SLOWEST_MS, `mutant ${i} of seed ${seed} took too long`);
    }
    assert.ok(process.memoryUsage().rss - before < LARGEST_GROWTH, 'memory grew');
    return refused;
  }

  const readAll = (checksums: boolean) => (mutant: Buffer) => {
    readFile(scratch.write(mutant, 'mutant'), checksums);
  };

  const readFile = (file: string, checksums: boolean) => {
    const checkpoint = openCheckpoint(file, { checksums });
    try {
      for (const name of checkpoint.tensors.keys()) checkpoint.read(name);
    } finally {
      checkpoint.close();
    }
  };

  const checkpoints = readdirSync(FIXTURES).filter((name) => /\.(pt|pth|safetensors)$/.test(name));
  checkpoints.forEach((name, index) => {
    const bytes = readFileSync(path.join(FIXTURES, name));
    it(name, () => {
      const refused = survive(bytes, 1000 + index, mutate, readAll(true));
      assert.ok(refused > MUTANTS / 10, `only ${refused} mutants were refused`);
    });
    if (!name.endsWith('.pt') || name === 'refused_compressed.pt') return;
    it(`${name}, its pickle under a right checksum`, () => {
      const refused = survive(bytes, 2000 + index, mutatePickle, readAll(false));
      assert.ok(refused > MUTANTS / 10, `only ${refused} mutants were refused`);
    });
  });

  it('an index of shards', () => {
    cpSync(path.join(FIXTURES, 'sharded'), scratch.path, { recursive: true });
    const index = 'model.safetensors.index.json';
    const bytes = readFileSync(path.join(scratch.path, index));
    const refused = survive(
      bytes,
      4000,
      mutate,
      (mutant) => readFile(scratch.write(mutant, index), true),
      /^ERR_TOKENFLOW_(CHECKPOINT|IO)$/, // a mutant may name a shard that is not there
    );
    assert.ok(refused > MUTANTS / 10, `only ${refused} mutants were refused`);
  });

  readdirSync(FIXTURES)
    .filter((name) => name.endsWith('.npy'))
    .forEach((name, index) => {
      it(name, () => {
        const bytes = readFileSync(path.join(FIXTURES, name));
        survive(bytes, 3000 + index, mutate, (mutant) => decodeNpy(mutant));
      });
    });
});

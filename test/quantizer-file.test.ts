import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { writeNpy } from '../lib/checkpoint/npy.js';
import {
  Codebook,
  DualCodebook,
  loadCodebook,
  loadPartedCodebook,
  type Metric,
  saveCodebook,
} from '../lib/codebook/index.js';
import { packageRoot } from '../lib/native.js';
import { random, randomFloats } from './support/random.js';
import { refused } from './support/refused.js';

describe('codebooks in files', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tokenflow-codebook-'));
  after(() => fs.rmSync(folder, { recursive: true }));
  const at = (name: string) => path.join(folder, name);
  const all = (size: number) => Int32Array.from({ length: size }, (_, j) => j);

  it('come back bit for bit, and so do their answers', () => {
    const property = fc.property(
      fc.integer(),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 50 }),
      fc.constantFrom<Metric>('l2', 'cosine', 'ip'),
      fc.boolean(),
      fc.constantFrom('safetensors', 'npy'),
      fc.boolean(),
      (seed, dim, size, metric, normalize, extension, odd) => {
        const next = random(seed);
        const codes = randomFloats(size * dim, next, 9);
        if (odd) {
          // zero, without a length, and without one that can be squared
          for (let j = 0; j < size; j++)
            if (next() < 0.3)
              codes.fill([0, Number.NaN, 3e38][Math.floor(next() * 3)], j * dim, j * dim + dim);
        }
        const saved = new Codebook(codes, { dim, metric, normalize });
        const file = at(`codes.${extension}`);
        saveCodebook(saved, file);
        const unit = normalize || metric === 'cosine';
        const loaded = loadCodebook(file, extension === 'npy' ? { metric, unit } : {});
        assert.deepEqual(loaded.toJSON(), saved.toJSON());
        assert.deepEqual(loaded.lookup(all(size)), saved.lookup(all(size)));
        const queries = randomFloats(20 * dim, next, 9);
        const k = Math.min(size, 3);
        assert.deepEqual(loaded.nearestSync(queries, { k }), saved.nearestSync(queries, { k }));
      },
    );
    fc.assert(property, { numRuns: 80 });
  });

  it('keep their parts', () => {
    const next = random(1);
    const dual = new DualCodebook(
      [
        { vectors: randomFloats(6 * 3, next), dim: 3, normalize: false },
        { vectors: randomFloats(6 * 2, next), dim: 2, normalize: true },
      ],
      { metric: 'l2' },
    );
    const file = at('dual.safetensors');
    saveCodebook(dual, file);
    const loaded = loadPartedCodebook(file);
    assert.deepEqual([loaded.dims, loaded.size, loaded.metric], [[3, 2], 6, 'l2']);
    const queries = randomFloats(10 * 5, next, 5);
    const options = { k: 4, partDistances: true, weights: [1, 0.7] };
    assert.deepEqual(loaded.nearestSync(queries, options), dual.nearestSync(queries, options));
    assert.deepEqual(loaded.lookup(all(6)), dual.lookup(all(6)));
    const pixel = loadCodebook(file, { tensor: 'codebook.1' });
    assert.deepEqual(pixel.toJSON().parts, [{ dim: 2, normalize: true }]);
    assert.deepEqual(
      loadCodebook(file, { tensor: 'codebook.1', normalize: false }).toJSON().parts[0].normalize,
      false,
    );
    assert.throws(() => loadCodebook(file), refused(/loadPartedCodebook/, 'ERR_TOKENFLOW_CHECKPOINT'));
    assert.throws(() => saveCodebook(dual, at('dual.npy')), refused(/one part for \.npy but it has 2/));
    const semantic = loadCodebook(file, { tensor: 'codebook.0' });
    assert.deepEqual([semantic.dim, semantic.metric], [3, 'l2']);
  });

  it('are read out of checkpoints of models', () => {
    const file = path.join(packageRoot(), 'test', 'fixtures', 'checkpoint', 'bare.pt');
    assert.throws(() => loadCodebook(file), refused(/name another with tensor/, 'ERR_TOKENFLOW_CHECKPOINT'));
    writeNpy(at('wide.npy'), { shape: [2, 2], data: Float64Array.of(1, 2, 3, 4) });
    assert.deepEqual(loadCodebook(at('wide.npy')).lookup([1]), Float32Array.of(3, 4));
  });

  it('say what is wrong with bad input', () => {
    const codebook = new Codebook(Float32Array.of(1, 2), { dim: 2 });
    assert.throws(() => saveCodebook(codebook, at('codes.bin')), refused(/\.safetensors or \.npy/));
    assert.throws(() => saveCodebook({} as never, at('codes.npy')), refused(/a Codebook/));
    assert.throws(
      () => saveCodebook(codebook, at('no/such.npy')),
      refused(/Cannot write/, 'ERR_TOKENFLOW_IO'),
    );
    assert.throws(() => loadCodebook(at('absent.safetensors')), refused(/Cannot open/, 'ERR_TOKENFLOW_IO'));
    assert.throws(() => loadCodebook(at('x.npy'), { dim: 2 } as never), refused(/'dim'/));
    writeNpy(at('flat.npy'), { shape: [4], data: new Float32Array(4) });
    assert.throws(
      () => loadCodebook(at('flat.npy')),
      refused(/\[size, dim\], found/, 'ERR_TOKENFLOW_FORMAT'),
    );
    saveCodebook(codebook, at('plain.safetensors'));
    assert.throws(
      () => loadCodebook(at('plain.safetensors'), { tensor: 'weight' }),
      refused(/'weight'/, 'ERR_TOKENFLOW_CHECKPOINT'),
    );
    codebook.dispose();
    assert.throws(
      () => saveCodebook(codebook, at('codes.npy')),
      refused(/disposed/, 'ERR_TOKENFLOW_DISPOSED'),
    );
  });
});

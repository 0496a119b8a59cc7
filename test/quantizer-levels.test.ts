/** Learning and encoding give the same bits at every instruction-set level. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { native } from '../lib/native.js';

const SCRIPT = `
  const { createHash } = require('node:crypto');
  const library = require(process.argv[1]);
  const { Codebook, EmaCodebook, kMeansSync, MultiScaleQuantizer, ProductQuantizer, ResidualQuantizer } = library;
  const { random, randomFloats } = require(process.argv[2]);
  const next = random(1);
  const vectors = randomFloats(3000 * 12, next);
  const hash = createHash('sha256');
  const put = (array) => hash.update(new Uint8Array(array.buffer));
  const stages = ['l2', 'cosine'].map((metric) => {
    const { codes } = kMeansSync(vectors, { dim: 12, size: 100, metric, maxIterations: 5 });
    put(codes);
    return new Codebook(codes, { dim: 12, metric });
  });
  const residual = new ResidualQuantizer(stages).encodeSync(vectors, { beam: 4 });
  for (const array of Object.values(residual)) put(array);
  const halves = new ProductQuantizer([stages[0], stages[0]]);
  const { indices } = halves.encodeSync(vectors);
  put(indices);
  const found = halves.searchSync(vectors.slice(0, 240), indices, { k: 7 });
  put(found.indices);
  put(found.distances);
  const kernels = [0, 1].map(() => ({ weight: randomFloats(12 * 12 * 9, next, 0.3) }));
  const scales = new MultiScaleQuantizer(stages[0], { scales: [1, 3, 5], phi: { kernels } });
  for (const array of Object.values(scales.encodeSync(vectors.slice(0, 40 * 25 * 12)))) put(array);
  const ema = new EmaCodebook(stages[0].lookup(Int32Array.from({ length: 100 }, (_, j) => j)), { dim: 12 });
  ema.updateSync(vectors, stages[0].nearestSync(vectors).indices);
  for (const array of [ema.codes, ema.counts, ema.sums]) put(array);
  console.log(hash.digest('hex'));
`;

describe('quantisers at every instruction-set level', () => {
  it('give the same bits', () => {
    const features = native().cpuFeatures();
    const levels = ['scalar', ...(features.avx2 ? ['avx2'] : []), ...(features.avx512 ? ['avx512'] : [])];
    const library = path.join(__dirname, '..', 'lib', 'codebook', 'index.js');
    const support = path.join(__dirname, 'support', 'random.js');
    const digests = levels.map((level) => {
      const run = spawnSync(process.execPath, ['-e', SCRIPT, library, support], {
        encoding: 'utf8',
        env: { ...process.env, TOKENFLOW_SIMD: level },
      });
      assert.equal(run.status, 0, run.stderr);
      assert.match(run.stdout, /^[0-9a-f]{64}\n$/);
      return run.stdout;
    });
    assert.deepEqual(new Set(digests).size, 1, `${levels}: ${digests}`);
  });
});

/** The tests that must hold at every instruction-set level, run once more at each level but the one in force. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { native, packageRoot } from '../lib/native.js';

const FILES = [
  'codebook',
  'codebook-exact',
  'codebook-multiscale',
  'kmeans',
  'kmeans-averages',
  'quantizer-product',
  'quantizer-residual',
  'quantizer-scalar',
];

describe('every instruction-set level', () => {
  const features = native().cpuFeatures();
  const levels = ['scalar', ...(features.avx2 ? ['avx2'] : []), ...(features.avx512 ? ['avx512'] : [])];
  for (const level of levels.filter((l) => l !== native().simdLevel())) {
    it(`${level} passes ${FILES.join(', ')}`, () => {
      const files = FILES.map((file) => path.join(__dirname, `${file}.test.js`));
      const mocha = path.join(packageRoot(), 'node_modules', 'mocha', 'bin', 'mocha.js');
      const run = spawnSync(process.execPath, [mocha, '--no-config', '--timeout', '300000', ...files], {
        encoding: 'utf8',
        env: { ...process.env, TOKENFLOW_SIMD: level },
      });
      assert.equal(run.status, 0, run.stdout + run.stderr);
      assert.match(run.stdout, new RegExp(`exact lookup at level ${level}`));
      assert.match(run.stdout, /[1-9]\d* passing/);
    }).timeout(300_000);
  }
});

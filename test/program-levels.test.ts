/** The ops of graphs at every instruction-set level but the one in force. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { native, packageRoot } from '../lib/native.js';

describe('graph ops at every instruction-set level', () => {
  const features = native().cpuFeatures();
  const levels = ['scalar', ...(features.avx2 ? ['avx2'] : []), ...(features.avx512 ? ['avx512'] : [])];
  for (const level of levels.filter((l) => l !== native().simdLevel())) {
    it(level, () => {
      const mocha = path.join(packageRoot(), 'node_modules', 'mocha', 'bin', 'mocha.js');
      const files = ['program-ops', 'program'].map((name) => path.join(__dirname, `${name}.test.js`));
      const run = spawnSync(process.execPath, [mocha, '--no-config', '--timeout', '300000', ...files], {
        encoding: 'utf8',
        env: { ...process.env, TOKENFLOW_SIMD: level },
      });
      assert.equal(run.status, 0, run.stdout + run.stderr);
      assert.match(run.stdout, new RegExp(`graph ops at level ${level}`));
      assert.match(run.stdout, /[1-9]\d* passing/);
    }).timeout(300_000);
  }
});

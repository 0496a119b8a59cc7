import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';

// test/native/*_test.cc: kernels checked without Node around them, at every level this processor offers.
describe('native programs', () => {
  const folder = path.join(packageRoot(), 'build', 'native_tests');
  const levels = ['scalar', 'avx2', 'avx512'];

  for (const name of readdirSync(folder).filter((file) => file.endsWith('_test'))) {
    for (const level of levels) {
      it(`${name} at level ${level}`, function () {
        this.timeout(300_000);
        const { status, signal, stdout, stderr } = spawnSync(path.join(folder, name), {
          encoding: 'utf8',
          env: { ...process.env, TOKENFLOW_SIMD: level },
        });
        if (status === 2) this.skip(); // the processor lacks the level
        assert.equal(status, 0, `${signal ?? ''}\n${stdout}\n${stderr}`);
      });
    }
  }
});

// The golden cases at the instruction-set levels below the machine's own, in processes of their own.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { native, packageRoot } from '../lib/native.js';

const LEVELS = ['scalar', 'avx2', 'avx512'] as const;

describe('golden cases at every instruction-set level', function () {
  this.timeout(600_000);
  const features = native().cpuFeatures();
  const present = { scalar: true, avx2: features.avx2, avx512: features.avx512 };

  for (const level of LEVELS) {
    it(level, function () {
      if (level === native().simdLevel()) {
        console.log('      skipped: the level of this process, which golden.test runs at');
        return this.skip();
      }
      if (!present[level]) {
        console.log(`      skipped: this processor has no ${level}`);
        return this.skip();
      }
      const mocha = path.join(packageRoot(), 'node_modules', 'mocha', 'bin', 'mocha.js');
      const files = ['golden.test.js', 'golden-resize.test.js'].map((file) => path.join(__dirname, file));
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        [mocha, '--no-config', '--timeout', '300000', '--reporter', 'dot', ...files],
        { cwd: packageRoot(), encoding: 'utf8', env: { ...process.env, TOKENFLOW_SIMD: level } },
      );
      assert.equal(status, 0, stdout + stderr);
      assert.match(stdout, /[1-9]\d* passing/);
    });
  }
});

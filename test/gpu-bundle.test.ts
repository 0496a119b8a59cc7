import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';

/** The first folder of PATH that has the program. */
const which = (program: string) =>
  process.env.PATH!.split(path.delimiter).find((folder) => existsSync(path.join(folder, program)));

describe('the bundle for a GPU machine', function () {
  this.timeout(300_000);
  let folder: string;
  const inside = (command: string, args: string[], env: NodeJS.ProcessEnv = {}) =>
    spawnSync(command, args, {
      cwd: path.join(folder, 'tokenflow'),
      encoding: 'utf8',
      // Neither node nor anything else.
      env: { PATH: '/nonexistent', HOME: folder, ...env },
    });

  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64' || !which('strip')) {
      console.log('    skipped: the bundle is made on x86-64 Linux, with strip');
      return this.skip();
    }
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-bundle-test-'));
    const script = path.join(packageRoot(), 'tools', 'gpu', 'bundle.mjs');
    const made = spawnSync(process.execPath, [script, '--without-library', '--folder', folder], {
      encoding: 'utf8',
    });
    assert.equal(made.status, 0, made.stderr);
  });
  after(() => {
    if (folder) rmSync(folder, { recursive: true });
  });

  it('without a GPU and without Node.js: the report says so, writes nothing and ends well', () => {
    const run = inside(path.join(folder, 'tokenflow', 'report.sh'), [], { TOKENFLOW_CUDA: 'off' });
    assert.equal(run.status, 0, run.stderr);
    assert.match(run.stderr, /no GPU was used: .*Nothing was measured and no file was written/);
    assert.equal(existsSync(path.join(folder, 'tokenflow', 'docs')), false);
  });

  it('has all that its tests need', () => {
    const tests = readdirSync(path.join(folder, 'tokenflow', 'dist-test', 'test')).filter((file) =>
      file.endsWith('.test.js'),
    );
    assert.ok(tests.length > 20);
    for (const file of tests) {
      const script = `global.describe = () => {}; require('./dist-test/test/${file}')`;
      const run = inside(path.join(folder, 'tokenflow', 'node'), ['-e', script]);
      // What reads the repository's own files as it loads is not run there (tools/gpu/sections/tests.mjs).
      if (/^(package|setup|readme|demo)\./.test(file)) continue;
      assert.equal(run.status, 0, `${file}: ${run.stderr}`);
    }
  });
});

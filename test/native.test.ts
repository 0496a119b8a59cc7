import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { native, packageRoot } from '../lib/native.js';

describe('the native addon', () => {
  const child = (script: string, env: NodeJS.ProcessEnv = {}) =>
    spawnSync(process.execPath, ['-e', script], {
      encoding: 'utf8',
      cwd: packageRoot(),
      env: { ...process.env, ...env },
    });

  it('loads and names its instruction set', () => {
    assert.match(native().simdLevel(), /^(scalar|avx2|avx512)$/);
    assert.ok(native().threads() >= 1);
  });

  it('obeys TOKENFLOW_SIMD and refuses an unknown level', () => {
    const script = `console.log(require('./dist/native.js').native().simdLevel())`;
    assert.equal(child(script, { TOKENFLOW_SIMD: 'scalar' }).stdout.trim(), 'scalar');
    const refused = child(script, { TOKENFLOW_SIMD: 'sse9' });
    assert.notEqual(refused.status, 0);
    assert.match(refused.stderr, /Expected scalar, avx2 or avx512 for TOKENFLOW_SIMD but received 'sse9'/);
  });

  it('explains what was tried when it cannot load', () => {
    const missing = path.join(mkdtempSync(path.join(os.tmpdir(), 'tokenflow-')), 'nowhere.node');
    const script = `try { require('./dist/native.js').native() } catch (e) { console.log(JSON.stringify({ code: e.code, message: e.message, attempts: e.attempts })) }`;
    const output = JSON.parse(
      execFileSync(process.execPath, ['-e', script], {
        encoding: 'utf8',
        cwd: packageRoot(),
        env: { ...process.env, TOKENFLOW_NATIVE_PATH: missing },
      }),
    );
    assert.equal(output.code, 'ERR_TOKENFLOW_NATIVE_LOAD');
    assert.equal(output.attempts[0].path, missing);
    assert.match(output.message, /Possible solutions/);
  });
});

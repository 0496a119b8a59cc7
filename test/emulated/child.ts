/** Scripts in a process of their own, over the emulated machine: a lost device stays lost. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { native, packageRoot } from '../../lib/native.js';

const { TOKENFLOW_DEVICE: _, ...WITHOUT_DEVICE } = process.env;

/** Whether this process has the emulated machine; says so where it has not. */
export function emulated(): boolean {
  if (native().cudaStatus().devices[0]?.name === 'Emulated card') return true;
  console.log('    skipped: no emulated card here; npm run test:simt runs these');
  return false;
}

/** What the body of an async function returns, after a prelude, as JSON carries it. */
export function inChild(prelude: string, body: string, env: NodeJS.ProcessEnv = {}) {
  const script = `${prelude}
    (async () => { ${body} })().then((result) => console.log(JSON.stringify(result)));`;
  const result = spawnSync(process.execPath, ['--expose-gc', '-e', script], {
    encoding: 'utf8',
    cwd: packageRoot(),
    env: { ...WITHOUT_DEVICE, ...env },
  });
  assert.equal(result.status, 0, `status ${result.status}, signal ${result.signal}: ${result.stderr}`);
  return JSON.parse(result.stdout.trim().split('\n').pop()!);
}

// compute-sanitizer over small cases of every op, where it is installed.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { device, failure, found, root } from '../section.mjs';

const mocha = path.join(root, 'node_modules', 'mocha', 'bin', 'mocha.js');
const cases = ['--grep', '768 to 100|24 channels|groups|50 tokens|encodes', '--timeout', '0'];
if (spawnSync('compute-sanitizer', ['--version'], { stdio: 'ignore' }).status !== 0) {
  found({ note: 'compute-sanitizer is not installed' });
} else {
  for (const tool of ['memcheck', 'racecheck']) {
    const run = spawnSync(
      'compute-sanitizer',
      [
        ...['--tool', tool, '--error-exitcode', '9', process.execPath, mocha],
        ...['dist-test/test/program-ops.test.js', ...cases],
      ],
      { cwd: root, env: { ...process.env, TOKENFLOW_DEVICE: device }, encoding: 'utf8', maxBuffer: 1 << 28 },
    );
    found({ [tool]: run.status === 0 ? 'clean' : run.status === 9 ? 'errors' : `ended with ${run.status}` });
    if (run.status !== 0) failure(`${tool}: ${`${run.stdout}${run.stderr}`.slice(-2000)}`);
  }
}

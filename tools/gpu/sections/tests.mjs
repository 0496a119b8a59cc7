// The test suite with TOKENFLOW_DEVICE on the card: first what runs on a device, then the rest. Tests of the repository
// itself (its packages, set-up, documents, compilers, job queue) and of the CPU's instruction sets say nothing about a card
// and are left out.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { device, failure, found, rehearse, root } from '../section.mjs';

const OF_A_DEVICE = /^(program|golden|tokenizer|codebook|quantizer|kmeans)/;
const NOT_OF_A_CARD =
  /^(package|setup|readme|demo|errors|queue|evaluate-tiny|native-programs|cuda-library|gpu-bundle|.*-levels)\./;

const tests = readdirSync(path.join(root, 'dist-test', 'test')).filter(
  (file) => file.endsWith('.test.js') && !NOT_OF_A_CARD.test(file),
);
const ordered = [
  ...tests.filter((file) => OF_A_DEVICE.test(file)),
  ...tests.filter((file) => !OF_A_DEVICE.test(file)),
];
const chosen = rehearse ? ['program-ops.test.js'] : ordered;
const options = ['--reporter', 'json-stream', '--timeout', '60000'];
if (rehearse) options.push('--grep', 'slices|768 to 100');
// Weights that do not fit into the bundle, and the tests that read them.
const READERS = {
  clipb_enhanced: 'clipb_enhanced:',
  siglip: 'siglip(: |\\.(pt|safetensors):)|that are not used are never read',
};
const missing = Object.keys(READERS).filter(
  (name) => !existsSync(path.join(root, 'test', 'golden', name, 'checkpoint.pt')),
);
if (missing.length > 0) {
  if (!rehearse) options.push('--grep', missing.map((name) => READERS[name]).join('|'), '--invert');
  found({ withoutGoldenCases: missing.join(', ') });
}

const mocha = path.join(root, 'node_modules', 'mocha', 'bin', 'mocha.js');
const run = spawn(
  process.execPath,
  [mocha, ...chosen.map((file) => path.join('dist-test', 'test', file)), ...options],
  {
    cwd: root,
    env: { ...process.env, TOKENFLOW_DEVICE: device },
    stdio: ['ignore', 'pipe', 'ignore'],
  },
);
let passed = 0;
let failed = 0;
let ended = false;
for await (const line of readline.createInterface({ input: run.stdout })) {
  if (!/^\["(pass|fail|end)",/.test(line)) continue; // what the tests print themselves
  const [event, test] = JSON.parse(line);
  if (event === 'pass') passed++;
  if (event === 'fail') {
    failed++;
    failure(`${test.fullTitle}: ${test.err}`);
  }
  ended ||= event === 'end';
  found({ passed, failed, ...(event === 'end' ? { skipped: test.pending } : {}) });
}
if (!ended) failure(`the tests ended early (${passed} had passed)`);
if (passed === 0) failure('not one test passed');

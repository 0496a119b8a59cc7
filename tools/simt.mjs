// Runs the CUDA backend on the CPU (test/simt): builds with the host compiler, runs every test program of the kernels, then
// the JavaScript tests of programs and models with the whole backend as the addon loads it, over the emulated machine. Prints
// "N passed, N failed". `--asan` builds with AddressSanitizer and UndefinedBehaviorSanitizer; `--filter=WORD` runs the
// cases whose names contain it; `--program=NAME` runs one program; `--fail-fast` ends a program at its first failure;
// `--source=DIR` takes the kernels from another native/ folder, `--build=DIR` builds elsewhere.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: {
    asan: { type: 'boolean', default: false },
    filter: { type: 'string', multiple: true, default: [] },
    source: { type: 'string', default: path.join(root, 'native') },
    build: { type: 'string' },
    program: { type: 'string', multiple: true, default: [] },
    'fail-fast': { type: 'boolean', default: false },
  },
});
const build = values.build ?? path.join(root, 'build', values.asan ? 'simt-asan' : 'simt');

function must(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (result.status === 0) return;
  process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}${result.error ?? ''}\n`);
  process.stderr.write(`simt: '${command} ${args.join(' ')}' did not succeed\n`);
  process.exit(2);
}

must('cmake', [
  ...['-S', path.join(root, 'test', 'simt'), '-B', build, '-DCMAKE_BUILD_TYPE=None'],
  ...[`-DSIMT_ASAN=${values.asan ? 'ON' : 'OFF'}`, `-DSIMT_NATIVE=${path.resolve(values.source)}`],
]);
const jobs = Math.min(2, os.availableParallelism());
must('cmake', [
  ...['--build', build, '--parallel', String(jobs)],
  ...values.program.flatMap((name) => ['--target', name]),
]);

const programs = readdirSync(path.join(root, 'test', 'simt'))
  .filter((file) => file.endsWith('_test.cc'))
  .map((file) => file.replace(/\.cc$/, ''))
  .filter((name) => values.program.length === 0 || values.program.includes(name));
const env = {
  ...process.env,
  ...(values['fail-fast'] ? { SIMT_FAIL_FAST: '1' } : {}),
  ASAN_OPTIONS: `detect_leaks=0:${process.env.ASAN_OPTIONS ?? ''}`,
};
let passed = 0;
let failed = 0;
for (const name of programs) {
  const file = path.join(build, name);
  if (!existsSync(file)) throw new Error(`${file} was not built`);
  process.stdout.write(`${name}\n`);
  const result = spawnSync(file, values.filter, { encoding: 'utf8', maxBuffer: 1 << 28, env });
  process.stdout.write(result.stdout);
  const summary = /^(\d+) passed, (\d+) failed$/m.exec(result.stdout);
  if (!summary) {
    // It ended before its summary: whatever stopped it counts as one failure.
    process.stdout.write(
      `  ${name} ended early (status ${result.status}, signal ${result.signal})\n${result.stderr}\n`,
    );
    failed++;
    continue;
  }
  passed += Number(summary[1]);
  failed += Number(summary[2]);
}

// Whole programs, where everything is run: what passes on the CPU has to pass there too.
const SUITES = [
  ['program-ops'],
  ['golden-resize'],
  [
    'program',
    '--grep',
    'cut short|share packed|random graphs|what ran before|detached|more memory|\\(bf16\\)',
  ],
  ['golden', '--grep', '(clipb|siglip): pt, batch 2|clipb_enhanced: both|small trained'],
  ['emulated/cuda-device'],
  ['emulated/group-norm-fusion'],
  ['emulated/gpu-report'],
  ['emulated/codebook-device'],
  ['emulated/learning-device'],
];
const whole = !values.asan && values.filter.length === 0 && values.program.length === 0;
for (const [suite, ...options] of whole ? SUITES : []) {
  const file = path.join(root, 'dist-test', 'test', `${suite}.test.js`);
  if (!existsSync(file)) throw new Error(`${file} was not built; type: npm run test:simt`);
  const args = [path.join(root, 'node_modules', 'mocha', 'bin', 'mocha.js'), file, '--timeout', '120000'];
  const result = spawnSync(process.execPath, [...args, ...options], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    cwd: root,
    env: {
      ...process.env,
      TOKENFLOW_DEVICE: 'cuda',
      TOKENFLOW_CUDA_PATH: path.join(build, 'tokenflow_cuda.so'),
    },
  });
  process.stdout.write(result.stdout);
  const count = (word) => Number(new RegExp(`^ +(\\d+) ${word}`, 'm').exec(result.stdout)?.[1] ?? 0);
  passed += count('passing');
  failed += count('failing');
  if (result.status !== 0 && count('failing') === 0) {
    process.stdout.write(
      `  ${suite} ended early (status ${result.status}, signal ${result.signal})\n${result.stderr}\n`,
    );
    failed++;
  }
}
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);

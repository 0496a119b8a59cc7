// The native tests under the sanitizers of the compiler: `npm run test:sanitize [-- address|thread]`. Each sanitizer has a
// build of its own in build/sanitize-*, and any report is a failure. Addresses and undefined behaviour are watched at every
// instruction-set level that the processor has, threads at its best: the levels share their threads.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

const LEVELS = ['scalar', 'avx2', 'avx512'];
const LACKS_LEVEL = 2; // exit code of a test whose level the processor lacks

const SANITIZERS = {
  address: {
    flags: 'address,undefined',
    levels: LEVELS,
    env: { ASAN_OPTIONS: 'detect_leaks=1:strict_string_checks=1' },
  },
  thread: { flags: 'thread', levels: [''], env: { TSAN_OPTIONS: 'halt_on_error=1' } },
};

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.error) throw result.error;
  return result;
}

function build(name, flags) {
  const folder = path.join(root, 'build', `sanitize-${name}`);
  const steps = [
    ['-S', root, '-B', folder, `-DTOKENFLOW_SANITIZE=${flags}`],
    ['--build', folder, '--target', 'native_tests', '--parallel', '2'],
  ];
  for (const args of steps) {
    const { status, stdout, stderr } = run('cmake', args);
    if (status !== 0) throw new Error(`cmake ${args.join(' ')}\n${stdout}\n${stderr}`);
  }
  return path.join(folder, 'native_tests');
}

const asked = process.argv.slice(2);
for (const name of asked) {
  if (!(name in SANITIZERS))
    throw new Error(`Expected ${Object.keys(SANITIZERS).join(' or ')} but received '${name}'`);
}
let failures = 0;
for (const name of asked.length > 0 ? asked : Object.keys(SANITIZERS)) {
  const { flags, levels, env } = SANITIZERS[name];
  let started = Date.now();
  const took = () => `${((Date.now() - started) / 1000).toFixed(1)} s`;
  process.stdout.write(`${flags}: build ... `);
  const folder = build(name, flags);
  console.log(took());
  for (const test of readdirSync(folder).filter((file) => file.endsWith('_test'))) {
    for (const level of levels) {
      started = Date.now();
      const { status, signal, stdout, stderr } = run(path.join(folder, test), [], {
        env: { ...process.env, ...env, TOKENFLOW_SIMD: level },
      });
      if (status === LACKS_LEVEL) continue;
      if (status === 0) {
        console.log(`${flags}: ${test} at ${level || 'the best level'}: clean, ${took()}`);
      } else {
        failures++;
        console.log(
          `${flags}: ${test} at ${level || 'the best level'}: FAILED (${signal ?? status})\n${stdout}${stderr}`,
        );
      }
    }
  }
}
process.exit(failures === 0 ? 0 : 1);

// Brings a clone to a state in which everything runs: node modules, native build, TypeScript build.
// Each step is skipped when its inputs have not changed since it last succeeded. `--test` also builds the tests.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const stampFolder = path.join(root, 'build');

function fail(message) {
  process.stderr.write(`setup: ${message}\n`);
  process.exit(1);
}

function run(title, command, args, options = {}) {
  const started = Date.now();
  process.stderr.write(`setup: ${title} ... `);
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.status !== 0) {
    process.stderr.write('failed\n');
    process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}${result.error ?? ''}\n`);
    fail(`'${command} ${args.join(' ')}' did not succeed`);
  }
  process.stderr.write(`${((Date.now() - started) / 1000).toFixed(1)} s\n`);
}

function* filesUnder(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) =>
    a.name < b.name ? -1 : 1,
  )) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesUnder(full);
    else yield full;
  }
}

function fingerprint(inputs) {
  const hash = createHash('sha256').update(process.version);
  for (const input of inputs) {
    const full = path.join(root, input);
    if (!existsSync(full)) continue;
    for (const file of statSync(full).isDirectory() ? filesUnder(full) : [full]) {
      hash.update(path.relative(root, file)).update('\0').update(readFileSync(file)).update('\0');
    }
  }
  return hash.digest('hex');
}

/** Runs `work` unless `inputs` are as they were and `outputs` exist. */
function step(name, inputs, outputs, work) {
  const stamp = path.join(stampFolder, `.setup-${name}`);
  const now = fingerprint(inputs);
  const fresh = existsSync(stamp) && readFileSync(stamp, 'utf8') === now;
  if (fresh && outputs.every((output) => existsSync(path.join(root, output)))) return;
  work();
  mkdirSync(stampFolder, { recursive: true });
  writeFileSync(stamp, now);
}

function requireTool(command, hint) {
  if (spawnSync(command, ['--version']).status !== 0) fail(`${command} is missing. Type: ${hint}`);
}

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19))
  fail(`Node.js 20.19 or newer is needed, this is ${process.version}`);

step('modules', ['package-lock.json'], ['node_modules'], () =>
  run('npm ci', 'npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'skip' },
  }),
);
step('native', ['native', 'CMakeLists.txt', 'package-lock.json'], ['build/Release/tokenflow.node'], () => {
  requireTool('g++', 'sudo apt-get install g++');
  requireTool('cmake', 'sudo apt-get install cmake');
  run('native build', 'node', ['node_modules/cmake-js/bin/cmake-js', 'build', '--parallel', '2']);
});
step('typescript', ['lib', 'tsconfig.json', 'package-lock.json'], ['dist/index.js'], () =>
  run('typescript build', 'node', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']),
);
if (process.argv.includes('--test')) {
  step('native-tests', ['native', 'test/native', 'CMakeLists.txt'], ['build/native_tests'], () =>
    run('native test build', 'cmake', ['--build', 'build', '--target', 'native_tests', '--parallel', '2']),
  );
  step('tests', ['lib', 'test', 'tsconfig.json', 'package-lock.json'], ['dist-test/test'], () => {
    rmSync(path.join(root, 'dist-test'), { recursive: true, force: true }); // a test that was deleted must not run
    run('test build', 'node', ['node_modules/typescript/bin/tsc', '-p', 'test/tsconfig.json']);
  });
}

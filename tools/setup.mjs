// Brings a clone to a state in which everything runs: node modules, native build, TypeScript build.
// Each step is skipped when its inputs have not changed since it last succeeded. `--test` also builds the tests.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
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

const hasTool = (command) => spawnSync(command, ['--version']).status === 0;

function requireTool(command, hint) {
  if (!hasTool(command)) fail(`${command} is missing. Type: ${hint}`);
}

/**
 * CMake refuses a build folder that was configured for another generator (cmake-js takes Ninja as soon as there is one)
 * or for a clone that lay elsewhere. What such a folder remembers is thrown away, and the build begins anew.
 */
function forgetStaleConfiguration() {
  const cache = path.join(stampFolder, 'CMakeCache.txt');
  if (process.platform === 'win32' || !existsSync(cache)) return;
  const text = readFileSync(cache, 'utf8');
  const remembered = (name) => text.match(new RegExp(`^${name}:\\w+=(.*)$`, 'm'))?.[1];
  const generator = hasTool('ninja') ? 'Ninja' : 'Unix Makefiles';
  const source = remembered('CMAKE_HOME_DIRECTORY');
  const samePlace = source !== undefined && existsSync(source) && realpathSync(source) === realpathSync(root);
  if (samePlace && remembered('CMAKE_GENERATOR') === generator) return;
  rmSync(cache);
  rmSync(path.join(stampFolder, 'CMakeFiles'), { recursive: true, force: true });
}

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19))
  fail(`Node.js 20.19 or newer is needed, this is ${process.version}`);

step('modules', ['package-lock.json'], ['node_modules'], () =>
  run('npm ci', 'npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'skip' },
  }),
);
const built = ['build/Release/tokenflow.node', 'build/CMakeCache.txt'];
step('native', ['native', 'CMakeLists.txt', 'package-lock.json'], built, () => {
  requireTool('g++', 'sudo apt-get install g++');
  requireTool('cmake', 'sudo apt-get install cmake');
  forgetStaleConfiguration();
  run('native build (about a minute on two cores)', 'node', [
    'node_modules/cmake-js/bin/cmake-js',
    'build',
    '--parallel',
    '2',
  ]);
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

/**
 * One archive with all that `report.mjs` needs on a GPU machine without network or Node.js:
 * `npm run gpu:bundle -- [--out build/tokenflow-gpu.tar.xz] [--without-library]`. There: unpack it and run ./report.sh, which
 * ends as the report does and leaves its files in docs/gpu. x86-64 Linux, under 60 MB. `--without-library` leaves out
 * tokenflow_cuda.so, to try the archive on a machine that could not build it.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

const root = path.resolve(import.meta.dirname, '..', '..');
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: path.join(root, 'build', 'tokenflow-gpu.tar.xz') },
    'without-library': { type: 'boolean', default: false },
  },
});
const LARGEST = 60e6;

function fail(why) {
  process.stderr.write(`gpu-bundle: ${why}\n`);
  process.exit(1);
}

function must(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26, ...options });
  if (result.status !== 0)
    fail(`'${command} ${args.join(' ')}' did not succeed: ${result.stderr ?? result.error}`);
  return result.stdout;
}

const library = path.join(root, 'build', 'Release', 'tokenflow_cuda.so');
if (!values['without-library'] && !existsSync(library)) {
  fail(
    'tokenflow_cuda.so is not built; type: npx cmake-js build --CDTOKENFLOW_CUDA=ON, or add --without-library',
  );
}

/** What the tests need at run time: the named packages and what those depend on, as npm lists them. */
function modules(names) {
  const found = new Set();
  const visit = (folder) => {
    const file = path.join(folder, 'package.json');
    if (found.has(folder) || !existsSync(file)) return;
    found.add(folder);
    const { dependencies = {}, optionalDependencies = {} } = JSON.parse(readFileSync(file, 'utf8'));
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      for (let at = folder; at.startsWith(root); at = path.dirname(at)) {
        const next = path.join(at, 'node_modules', name);
        if (!existsSync(next)) continue;
        visit(next);
        break;
      }
    }
  };
  for (const name of names) visit(path.join(root, 'node_modules', name));
  return [...found].map((folder) => path.relative(root, folder));
}

const stage = path.join(root, 'build', 'gpu-bundle', 'tokenflow');
rmSync(path.dirname(stage), { recursive: true, force: true });
mkdirSync(stage, { recursive: true });
const carry = [
  ...['package.json', 'bin', 'dist', 'dist-test', 'models', 'samples', 'test/golden', 'test/fixtures'],
  ...['tools/gpu', 'build/Release/tokenflow.node', 'build/native_tests'],
  ...(values['without-library'] ? [] : ['build/Release/tokenflow_cuda.so']),
  ...modules(['mocha', 'fast-check', 'commander', 'bindings', 'sharp']),
];
for (const entry of carry) {
  const from = path.join(root, entry);
  if (existsSync(from)) cpSync(from, path.join(stage, entry), { recursive: true, dereference: true });
}
cpSync(process.execPath, path.join(stage, 'node'));
must('strip', ['--strip-unneeded', path.join(stage, 'node')]);
writeFileSync(
  path.join(stage, 'report.sh'),
  '#!/bin/sh\ncd "$(dirname "$0")" && PATH="$PWD:$PATH" exec ./node tools/gpu/report.mjs "$@"\n',
  { mode: 0o755 },
);
mkdirSync(path.dirname(values.out), { recursive: true });
must('tar', ['-C', path.dirname(stage), '-cJf', path.resolve(values.out), 'tokenflow'], {
  env: { ...process.env, XZ_OPT: '-6 -T2' },
});
const { size } = statSync(values.out);
process.stdout.write(
  `${values.out}: ${(size / 1e6).toFixed(1)} MB${values['without-library'] ? ', without tokenflow_cuda.so' : ''}\n`,
);
if (size > LARGEST) fail(`an archive under ${LARGEST / 1e6} MB was wanted`);

/**
 * One archive with all that `report.mjs` needs on a GPU machine without network or Node.js:
 * `npm run gpu:bundle -- [--out build/tokenflow-gpu.tar.xz]`. There: unpack it and run ./report.sh, which ends as the report
 * does and leaves its files in docs/gpu. x86-64 Linux, under 60 MB.
 *
 * What makes up the size is Node.js itself (24 MB, stripped and compressed), random and trained weights (no compression finds
 * much in those) and the image library. The weights of two golden cases are left out; the report says so.
 * `--without-library` leaves out tokenflow_cuda.so, to try the rest on a machine that could not build it; `--folder` makes a
 * folder instead of an archive.
 */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

const root = path.resolve(import.meta.dirname, '..', '..');
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: path.join(root, 'build', 'tokenflow-gpu.tar.xz') },
    'without-library': { type: 'boolean', default: false },
    folder: { type: 'string' },
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
    fail(`'${command} ${args.join(' ')}' did not succeed: ${result.stderr || result.error}`);
  return result.stdout;
}

const library = 'build/Release/tokenflow_cuda.so';
if (!values['without-library'] && !existsSync(path.join(root, library))) {
  fail(
    'tokenflow_cuda.so is not built; type: npx cmake-js build --CDTOKENFLOW_CUDA=ON, or add --without-library',
  );
}

/** The folders of the named packages and of all they depend on, as Node.js finds them. */
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

const { dependencies, optionalDependencies } = JSON.parse(
  readFileSync(path.join(root, 'package.json'), 'utf8'),
);
const carry = [
  ...['package.json', 'bin', 'dist', 'dist-test', 'models', 'samples', 'test/fixtures', 'test/golden'],
  ...['tools/gpu', 'build/Release/tokenflow.node', ...(values['without-library'] ? [] : [library])],
  ...modules([...Object.keys({ ...dependencies, ...optionalDependencies }), 'mocha', 'fast-check']),
];
const LEFT_OUT = [
  /test\/golden\/(clipb_enhanced|siglip)\/checkpoint\.pt$/, // sections/tests.mjs knows
  /node_modules\/bare-/, // for another runtime
  /\.d\.[cm]?ts$|\.map$/,
];

const scratch = values.folder ?? mkdtempSync(path.join(os.tmpdir(), 'tokenflow-bundle-'));
if (!values.folder) process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const stage = path.join(scratch, 'tokenflow');
mkdirSync(stage, { recursive: true });
for (const entry of carry) {
  cpSync(path.join(root, entry), path.join(stage, entry), {
    recursive: true,
    dereference: true,
    filter: (from) => !LEFT_OUT.some((pattern) => pattern.test(from)),
  });
}
cpSync(process.execPath, path.join(stage, 'node'));
const binaries = ['node', 'build/Release/tokenflow.node', ...(values['without-library'] ? [] : [library])];
must('strip', ['--strip-unneeded', ...binaries], { cwd: stage });
writeFileSync(
  path.join(stage, 'report.sh'),
  `#!/bin/sh
case $0 in */*) cd "\${0%/*}" ;; esac
PATH="$PWD:$PATH" exec ./node tools/gpu/report.mjs "$@"
`,
  { mode: 0o755 },
);
if (values.folder) process.exit(0);
const out = path.resolve(values.out);
mkdirSync(path.dirname(out), { recursive: true });
// lp=2: arrays of four-byte numbers, 4 MB less. A higher preset takes minutes for 1 MB.
const xz = 'xz --x86 --lzma2=preset=2,lc=2,lp=2,pb=2';
must('tar', ['-C', scratch, '--sort=name', '-I', xz, '-cf', out, 'tokenflow']);
const { size } = statSync(out);
process.stdout.write(
  `${values.out}: ${(size / 1e6).toFixed(1)} MB${values['without-library'] ? ', without tokenflow_cuda.so' : ''}\n`,
);
if (size > LARGEST) fail(`an archive under ${LARGEST / 1e6} MB was wanted`);

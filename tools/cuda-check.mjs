// Compiles every kernel of native/cuda for every architecture, without a GPU, and fails on: a register spill, any other
// local memory, more registers than native/cuda/kernels.json allows the kernel, static shared memory over 48 KB, a kernel
// that file does not name, a name there that no kernel has. Writes the table of docs/cuda.md.
// `--arch=80,90` and `--file=nearest` narrow it (and leave the document alone). What the compiler said of a file is kept in
// build/cuda-check and asked again only when a source, a flag or the compiler has changed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const folder = path.join(root, 'native', 'cuda');
const architectures = ['75', '80', '86', '89', '90', '90a', '100', '120'];

// Per multiprocessor, from the CUDA C++ programming guide's table of compute capabilities: resident threads, bytes of
// shared memory, and bytes the system takes from each block. All have 65536 registers, handed out 256 at a time to a warp.
const multiprocessors = {
  75: { threads: 1024, shared: 64 << 10, reserved: 0 },
  80: { threads: 2048, shared: 164 << 10, reserved: 1 << 10 },
  86: { threads: 1536, shared: 100 << 10, reserved: 1 << 10 },
  89: { threads: 1536, shared: 100 << 10, reserved: 1 << 10 },
  90: { threads: 2048, shared: 228 << 10, reserved: 1 << 10 },
  '90a': { threads: 2048, shared: 228 << 10, reserved: 1 << 10 },
  100: { threads: 2048, shared: 228 << 10, reserved: 1 << 10 },
  120: { threads: 1536, shared: 100 << 10, reserved: 1 << 10 },
};

function occupancy(architecture, { registers, shared }, threads) {
  const m = multiprocessors[architecture];
  const warps = threads / 32;
  const registersPerWarp = Math.ceil((registers * 32) / 256) * 256;
  const blocks = Math.min(
    Math.floor(65536 / (registersPerWarp * warps)),
    Math.floor(m.threads / threads),
    shared === 0 ? Number.POSITIVE_INFINITY : Math.floor(m.shared / (shared + m.reserved)),
  );
  return { blocks, share: (blocks * threads) / m.threads };
}

/** `Name<first template argument>` of a demangled kernel, without namespaces and casts. */
function kernelName(demangled) {
  const bare = demangled
    .replaceAll('(anonymous namespace)::', '')
    .replace(/tokenflow::cuda::/g, '')
    .replace(/^void /, '');
  const open = bare.search(/[<(]/);
  const name = bare.slice(0, open);
  if (bare[open] !== '<') return { name, parameters: '' };
  let depth = 0;
  let end = open;
  for (; end < bare.length; end++) {
    if (bare[end] === '<') depth++;
    if (bare[end] === '>' && --depth === 0) break;
  }
  return { name, parameters: bare.slice(open, end + 1) };
}

/** Enumerators come demangled as (Keep)0; give them their names back. */
function readEnumerators() {
  const enumerators = new Map();
  for (const file of readdirSync(folder)) {
    const text = readFileSync(path.join(folder, file), 'utf8').replace(/\/\/.*$/gm, '');
    for (const [, type, body] of text.matchAll(/enum class (\w+)[^{]*\{([^}]*)\}/g)) {
      const names = body.split(',').map((name) => name.trim());
      names.filter(Boolean).forEach((name, value) => {
        enumerators.set(`(${type})${value}`, name);
      });
    }
  }
  return enumerators;
}

function compile(file, chosen) {
  const flags = readFlags();
  const hostOnly = !readFileSync(path.join(root, file), 'utf8').includes('__global__');
  const codes = (hostOnly ? chosen.slice(0, 1) : chosen).flatMap((a) => [
    '-gencode',
    `arch=compute_${a},code=sm_${a}`,
  ]);
  const args = [...flags, ...codes, '-Xptxas', '-v', '--threads', '2', '-c', '-o', '/dev/null', file];
  const result = spawnSync('nvcc', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  const text = `${result.stdout}${result.stderr}`;
  if (result.status !== 0) throw new Error(`nvcc ${args.join(' ')}\n${text}`);
  const demangled = spawnSync('cu++filt', { input: text, encoding: 'utf8', maxBuffer: 1 << 28 });
  return demangled.status === 0
    ? demangled.stdout
    : spawnSync('c++filt', { input: text, encoding: 'utf8', maxBuffer: 1 << 28 }).stdout;
}

/** A source and everything of ours that it includes. */
function* withIncludes(file, seen = new Set()) {
  if (seen.has(file)) return;
  seen.add(file);
  yield file;
  for (const [, name] of readFileSync(file, 'utf8').matchAll(/^#include "(.+)"/gm)) {
    const found = [path.dirname(file), folder, path.dirname(folder)].map((at) => path.join(at, name));
    const include = found.find((candidate) => existsSync(candidate));
    if (include) yield* withIncludes(include, seen);
  }
}

/** As `compile`, remembered for as long as the file and everything it includes are what they were. */
function compiled(file, chosen, compiler) {
  const hash = createHash('sha256').update(compiler).update(chosen.join()).update(readFlags().join());
  for (const part of withIncludes(path.join(root, file))) {
    hash.update(path.relative(root, part)).update(readFileSync(part));
  }
  const kept = path.join(
    root,
    'build',
    'cuda-check',
    `${path.basename(file)}-${hash.digest('hex').slice(0, 16)}.txt`,
  );
  if (existsSync(kept)) return readFileSync(kept, 'utf8');
  const text = compile(file, chosen);
  mkdirSync(path.dirname(kept), { recursive: true });
  writeFileSync(kept, text);
  return text;
}

/** The flags the library itself is built with: one list, in native/cuda/flags.txt. */
function readFlags() {
  return readFileSync(path.join(folder, 'flags.txt'), 'utf8').split('\n').filter(Boolean);
}

function parse(text, enumerators) {
  const kernels = [];
  const entry =
    /Compiling entry function '(.+)' for 'sm_(\w+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers([^\n]*)/g;
  for (const [, mangled, architecture, stack, stores, loads, registers, rest] of text.matchAll(entry)) {
    let { name, parameters } = kernelName(mangled);
    for (const [code, word] of enumerators) parameters = parameters.replaceAll(code, word);
    parameters = parameters.replace(/\((?:int|bool)\)/g, '');
    kernels.push({
      name: `${name}${parameters}`,
      architecture,
      stack: Number(stack),
      spills: Number(stores) + Number(loads),
      registers: Number(registers),
      staticShared: Number(/(\d+) bytes smem/.exec(rest)?.[1] ?? 0),
    });
  }
  return kernels;
}

const { values } = parseArgs({ options: { arch: { type: 'string' }, file: { type: 'string' } } });
const nvcc = spawnSync('nvcc', ['--version'], { encoding: 'utf8' });
if (nvcc.status !== 0) {
  process.stdout.write(
    'cuda-check: nvcc is not here, so no kernel was compiled. Everything else builds without it.\n',
  );
  process.exit(0);
}
const chosen = values.arch ? values.arch.split(',') : architectures;
const bounds = JSON.parse(readFileSync(path.join(folder, 'kernels.json'), 'utf8'));
const enumerators = readEnumerators();
const files = readdirSync(folder).filter(
  (f) => f.endsWith('.cu') && (!values.file || f.startsWith(values.file)),
);
const complaints = [];
const rows = new Map();
for (const file of files) {
  const started = Date.now();
  const kernels = parse(compiled(path.join('native', 'cuda', file), chosen, nvcc.stdout), enumerators);
  process.stderr.write(
    `cuda-check: ${file}: ${kernels.length / chosen.length} kernels, ${((Date.now() - started) / 1000).toFixed(0)} s\n`,
  );
  for (const kernel of kernels) {
    const bound = bounds[kernel.name];
    const where = `${file}: ${kernel.name} for sm_${kernel.architecture}`;
    if (!bound) {
      complaints.push(`${where}: native/cuda/kernels.json states no bound`);
      continue;
    }
    if (kernel.spills) complaints.push(`${where}: ${kernel.spills} bytes of spills`);
    if (kernel.stack) complaints.push(`${where}: ${kernel.stack} bytes of local memory`);
    if (kernel.registers > bound.registers)
      complaints.push(`${where}: ${kernel.registers} registers, ${bound.registers} are allowed`);
    if (kernel.staticShared > 48 << 10)
      complaints.push(`${where}: ${kernel.staticShared} bytes of static shared memory`);
    const shared = bound.shared + kernel.staticShared;
    const { blocks, share } = occupancy(
      kernel.architecture,
      { registers: kernel.registers, shared },
      bound.threads,
    );
    if (blocks === 0 && !(bound.from > Number.parseInt(kernel.architecture, 10)))
      complaints.push(`${where}: not one block of it fits on a multiprocessor`);
    const row = rows.get(kernel.name) ?? { file, threads: bound.threads, shared, cells: {} };
    row.cells[kernel.architecture] = `${kernel.registers} / ${blocks} / ${Math.round(share * 100)} %`;
    rows.set(kernel.name, row);
  }
}
if (!values.file) {
  for (const name of Object.keys(bounds)) {
    if (!rows.has(name)) complaints.push(`native/cuda/kernels.json names ${name}, which no file has`);
  }
}

const table = [
  `| kernel | file | threads | shared bytes | ${chosen.map((a) => `sm_${a}`).join(' | ')} |`,
  `|${' --- |'.repeat(4 + chosen.length)}`,
  ...[...rows].map(
    ([name, row]) =>
      `| \`${name}\` | ${row.file} | ${row.threads} | ${row.shared} | ${chosen.map((a) => row.cells[a] ?? '').join(' | ')} |`,
  ),
].join('\n');
process.stdout.write(`${table}\n`);
if (!values.file && !values.arch && complaints.length === 0) {
  const document = path.join(root, 'docs', 'cuda.md');
  const text = readFileSync(document, 'utf8');
  const [begin, end] = ['<!-- cuda-check: begin -->', '<!-- cuda-check: end -->'];
  const from = text.indexOf(begin);
  const to = text.indexOf(end);
  if (from < 0 || to < 0) throw new Error(`${document} has lost its cuda-check marks`);
  writeFileSync(document, `${text.slice(0, from + begin.length)}\n\n${table}\n\n${text.slice(to)}`);
}
for (const complaint of complaints) process.stdout.write(`cuda-check: ${complaint}\n`);
process.stdout.write(
  `cuda-check: ${rows.size} kernels, ${chosen.length} architectures, ${complaints.length} complaints. Compiled only: not yet run on a GPU.\n`,
);
process.exit(complaints.length === 0 ? 0 : 1);

/**
 * What can only be known on a card, in at most eight minutes: `npm run gpu:report -- [--minutes 8] [--out docs/gpu]`.
 *
 * Compares a million lookups with the CPU's to the bit, runs the tests with TOKENFLOW_DEVICE on the card, takes times with
 * CUDA events and PyTorch's beside them, lets compute-sanitizer watch small cases where it is installed, and writes <card>.md
 * and <card>.json. Each part is a process (sections/) that is stopped when its share of the time is used up; what it found
 * until then counts, and what it leaves over goes to the later ones. Without a card it says why, writes nothing and ends with
 * 0; it ends with 1 when a test or a comparison failed.
 *
 * `--rehearse` runs every line of it at small sizes, for machines where the card is an emulated one (test/emulated).
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { parseArgs } from 'node:util';
import { documentOf } from './document.mjs';
import { Rival } from './rival.mjs';

const root = path.resolve(import.meta.dirname, '..', '..');
const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '8' },
    out: { type: 'string' },
    rehearse: { type: 'boolean', default: false },
  },
});
const out =
  options.out ?? path.join(root, ...(options.rehearse ? ['build', 'gpu-rehearsal'] : ['docs', 'gpu']));
const deadline = performance.now() + Number(options.minutes) * 60_000;
if (!(Number(options.minutes) > 0)) {
  process.stderr.write(`gpu-report: expected minutes above 0 but received '${options.minutes}'\n`);
  process.exit(2);
}
const say = (text) => process.stderr.write(`gpu-report: ${text}\n`);

const require = createRequire(path.join(root, 'dist-test', 'package.json'));

function endWithoutCard(why) {
  say(`no GPU was used: ${why}. Nothing was measured and no file was written.`);
  process.exit(0);
}

/** The library for the cards of this machine, built where that was left out and a compiler is here. */
function buildLibrary() {
  if (spawnSync('nvidia-smi', [], { stdio: 'ignore' }).status !== 0) return 'nvidia-smi finds no card';
  if (spawnSync('nvcc', ['--version'], { stdio: 'ignore' }).status !== 0) {
    return 'tokenflow_cuda.so was not built, and nvcc is not here to build it';
  }
  say('building tokenflow_cuda.so for the cards of this machine');
  const cmake = ['node_modules/cmake-js/bin/cmake-js', 'build', '--parallel', '16', '--CDTOKENFLOW_CUDA=ON'];
  const built = spawnSync(process.execPath, [...cmake, '--CDCMAKE_CUDA_ARCHITECTURES=native'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return built.status === 0 ? null : 'tokenflow_cuda.so could not be built';
}

if (!existsSync(path.join(root, 'dist-test', 'lib', 'index.js'))) {
  say('the tests were not built; type: node tools/setup.mjs --test');
  process.exit(1);
}
const { listBackends, explainBackend, resolveDevice } = require('./lib/backends.js');
const cuda = listBackends()[1];
if (cuda.reason === 'not-built') {
  const why = buildLibrary();
  if (why !== null) endWithoutCard(why);
  // The answer is remembered by the process, so a new one asks again.
  const again = spawnSync(process.execPath, process.argv.slice(1), { stdio: 'inherit' });
  process.exit(again.status ?? 1);
}
if (!cuda.available) {
  endWithoutCard(`${explainBackend(cuda.reason)}${cuda.detail ? ` (${cuda.detail})` : ''}`);
}

const device = resolveDevice('cuda');
const card = cuda.devices.find(({ id }) => id === device);
const report = {
  card: card.name,
  computeCapability: card.computeCapability,
  memoryBytes: card.memoryBytes,
  date: new Date().toISOString(),
  node: process.version,
  version: require(path.join(root, 'package.json')).version,
  torch: await aboutTorch(),
  rehearsal: options.rehearse,
  failures: [],
  leftOut: [],
  sections: {},
};

async function aboutTorch() {
  const rival = Rival.find(device, options.rehearse);
  const about = rival === null ? null : await rival.ask({ do: 'about' });
  rival?.end();
  return about;
}

// What matters most comes first. A share is of the time that is left to a section and those after it.
const SECTIONS = [
  { file: 'lookup-equal', title: 'Lookups equal to the CPU', share: 40 },
  { file: 'tests', title: 'Tests', share: 110 },
  { file: 'ceilings', title: 'Ceilings', share: 20 },
  { file: 'models', title: 'Models', share: 170 },
  { file: 'lookup-times', title: 'Lookup times', share: 80 },
  { file: 'bf16-tokens', title: 'Tokens changed by bf16', share: 20 },
  { file: 'sanitizer', title: 'compute-sanitizer', share: 40 },
];

/** Runs one section for at most so many seconds. */
async function run({ file, title }, seconds) {
  const section = { title, found: {}, rows: new Map(), failures: [] };
  const args = [path.join(import.meta.dirname, 'sections', `${file}.mjs`), '--device', device];
  const child = spawn(process.execPath, [...args, ...(options.rehearse ? ['--rehearse'] : [])], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true, // a group of its own, so that what it started ends with it
  });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    process.kill(-child.pid, 'SIGKILL');
  }, seconds * 1000);
  let words = '';
  child.stderr.on('data', (data) => {
    words = `${words}${data}`.slice(-2000);
  });
  const closed = once(child, 'close');
  for await (const line of readline.createInterface({ input: child.stdout })) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      continue; // the line it was writing when it was stopped
    }
    if (message.found) Object.assign(section.found, message.found);
    if (message.failure) section.failures.push(message.failure);
    if (message.row) {
      const { key, fields } = message.row;
      section.rows.set(key, { ...section.rows.get(key), ...fields });
    }
  }
  const [status, signal] = await closed;
  clearTimeout(timer);
  if (late) section.cutShort = Math.round(seconds);
  else if (status !== 0) section.failures.push(`ended with ${signal ?? status}: ${words.trim()}`);
  return section;
}

for (const [i, section] of SECTIONS.entries()) {
  const left = (deadline - performance.now()) / 1000;
  const shares = SECTIONS.slice(i).reduce((sum, { share }) => sum + share, 0);
  const seconds = (left * section.share) / shares;
  if (seconds < 1) {
    report.leftOut.push(section.title);
    continue;
  }
  say(`${section.title} (at most ${seconds.toFixed(0)} s)`);
  const { rows, failures, ...rest } = await run(section, seconds);
  report.sections[section.file] = { ...rest, ...(rows.size > 0 ? { rows: [...rows.values()] } : {}) };
  for (const failure of failures) {
    report.failures.push(`${section.title}: ${failure}`);
    say(`${section.title}: ${failure}`);
  }
}

const file = path.join(out, report.card.replaceAll(/[^A-Za-z0-9]+/g, '-').toLowerCase());
mkdirSync(out, { recursive: true });
writeFileSync(`${file}.md`, documentOf(report));
writeFileSync(`${file}.json`, `${JSON.stringify(report, null, 2)}\n`);
say(`wrote ${path.relative(process.cwd(), file)}.md and .json; ${report.failures.length} failures`);
process.exit(report.failures.length === 0 ? 0 : 1);

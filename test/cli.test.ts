// The command line as a user runs it: child processes, exit codes, what goes to stdout and what to stderr.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { decodeNpy, readNpy, writeNpy } from '../lib/checkpoint/npy.js';
import { ImageProcessor } from '../lib/image/processor.js';
import { loadSharp } from '../lib/image/sharp.js';
import { packageRoot } from '../lib/native.js';
import { floats, integers, relativeError } from './support/arrays.js';

const root = packageRoot();
const program = path.join(root, 'bin', 'tokenflow.js');
const golden = path.join(root, 'test', 'golden');
const clipb = path.join(golden, 'clipb');
const samples = ['chelsea-cat.jpg', 'raccoon.jpg'].map((name) => path.join(root, 'samples', name));
const COMMANDS = [
  ...['encode', 'decode', 'reconstruct', 'tokenize', 'verify', 'detokenize'],
  ...['inspect', 'convert', 'doctor'],
];

describe('the command line', function () {
  this.timeout(120_000);
  let folder: string;
  const inFolder = (...names: string[]) => path.join(folder, ...names);
  before(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-cli-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  function run(args: string[], { input, env = {} }: { input?: Buffer; env?: NodeJS.ProcessEnv } = {}) {
    const result = spawnSync(process.execPath, [program, ...args], {
      cwd: folder,
      input,
      env: { ...process.env, ...env },
      maxBuffer: 1 << 28,
    });
    return { code: result.status, stdout: result.stdout, stderr: result.stderr.toString() };
  }

  /** Runs what must succeed. */
  function succeed(args: string[], options: Parameters<typeof run>[1] = {}) {
    const result = run(args, options);
    assert.equal(result.code, 0, `tokenflow ${args.join(' ')}: ${result.stderr}`);
    return result;
  }

  const json = (args: string[]) => JSON.parse(succeed([...args, '--json']).stdout.toString());

  it('explains every option with an example', () => {
    for (const args of [['--help'], ...COMMANDS.map((command) => [command, '--help'])]) {
      const text = succeed(args).stdout.toString();
      const options = text.match(/^ {2}-[-\w]/gm)!.length;
      assert.equal(text.match(/\(e\.g\.\s/g)!.length, options, `${args.join(' ')}:\n${text}`);
      assert.match(text, /Examples?:\n {2}tokenflow /);
    }
    const text = succeed(['--help']).stdout.toString();
    for (const command of COMMANDS) assert.match(text, new RegExp(`^ {2}${command} `, 'm'));
    const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
    assert.equal(succeed(['--version']).stdout.toString().trim(), version);
  });

  it('doctor reports the installation, however quietly', () => {
    assert.match(succeed(['doctor', '--quiet']).stdout.toString(), /^backends:\n {2}cpu:/m);
    const report = json(['doctor']);
    assert.deepEqual(
      report.backends.map((backend: object) => Object.keys(backend)),
      [
        ['name', 'available', 'reason', 'devices'],
        ['name', 'available', 'reason', 'devices'],
      ],
    );
    assert.equal(report.backends[0].name, 'cpu');
    assert.equal(report.backends[0].available, true);
    assert.match(report.addon.path, /tokenflow\.node$/);
    assert.ok(report.addon.threads >= 1);
    const text = succeed(['doctor'], { env: { TOKENFLOW_SIMD: 'scalar' } }).stdout.toString();
    assert.match(text, /instruction set: scalar/);
    assert.match(text, /TOKENFLOW_SIMD=scalar/);
    const broken = run(['doctor'], { env: { TOKENFLOW_NATIVE_PATH: inFolder('none.node') } });
    assert.equal(broken.code, 1);
    assert.match(broken.stdout.toString(), /Node\.js/);
    assert.match(
      broken.stderr,
      /none\.node: there is no such file\n[\s\S]*Possible solutions:\n( {2}- .+\n)+$/,
    );
  });

  for (const name of ['clipb', 'siglip']) {
    for (const format of ['pt', 'safetensors']) {
      it(`${name}.${format}: arrays in and out, as another implementation computes them`, () => {
        const target = inFolder(`${name}-${format}`);
        mkdirSync(target);
        let model = path.join(golden, name);
        if (format === 'safetensors') {
          succeed(['convert', model, '--out', path.join(target, 'model')]);
          model = path.join(target, 'model');
          assert.deepEqual(readdirSync(model).sort(), ['config.json', 'model.safetensors']);
        }
        const at = (file: string) => path.join(target, file);
        const input = path.join(golden, name, 'input.npy');
        const common = ['--model', model, '--batch', '1'];
        const files = ['--out', at('tokens.npy'), '--features', at('features.npy')];
        const encoded = succeed(['encode', '--tensor', input, ...files, ...common]);
        assert.equal(encoded.stdout.length, 0);
        assert.match(encoded.stderr, /^2 images, 30 tokens each .*tokens\.npy\n$/);
        const expected = integers(path.join(golden, name, 'indices.npy'));
        assert.deepEqual(integers(at('tokens.npy')), expected);

        const outputs = ['pixels', 'semantic', 'features'];
        succeed([
          'decode',
          at('tokens.npy'),
          ...['--tensor', at('pixels.npy'), '--semantic', at('semantic.npy')],
          ...['--features', at('decoded-features.npy'), ...common],
        ]);
        for (const output of [...outputs, 'decoded-features']) {
          const array = output.endsWith('features') ? 'quantized' : output;
          const wanted = floats(path.join(golden, name, `${array}.npy`));
          const found = floats(at(`${output}.npy`));
          assert.deepEqual(found.shape, wanted.shape, output);
          assert.ok(relativeError(found.data, wanted.data) < 1e-4, output);
        }
      });
    }
  }

  it('encodes photographs to a file, to stdout and into JSON, all alike', () => {
    const toFile = succeed(['encode', ...samples, '--out', inFolder('tokens.npy'), '--model', clipb]);
    assert.equal(toFile.stdout.length, 0);
    const tokens = integers(inFolder('tokens.npy'));
    assert.deepEqual(tokens.shape, [2, 30]);
    const toStdout = succeed(['encode', ...samples, '--out', '-', '--model', clipb, '--quiet']);
    assert.equal(toStdout.stderr, '');
    assert.deepEqual(decodeNpy(toStdout.stdout), tokens);
    const report = json(['encode', ...samples, '--model', clipb]);
    assert.deepEqual(report.tokens.flat(), [...tokens.data]);
    assert.deepEqual(report.shape, [2, 30]);
    assert.deepEqual(report.scales, [1, 2, 3, 4]);
    assert.ok(report.memory.resident > report.memory.weights && report.memory.weights > 0);
    const squashed = json(['encode', samples[0], '--fit', 'squash', '--model', clipb]);
    assert.notDeepEqual(squashed.tokens[0], report.tokens[0]);
  });

  it('decodes tokens from a file or stdin to PNGs', async () => {
    const tokens = readFileSync(path.join(clipb, 'indices.npy'));
    succeed(['decode', path.join(clipb, 'indices.npy'), '--out', inFolder('a'), '--model', clipb]);
    succeed(['decode', '-', '--out', inFolder('b'), '--model', clipb], { input: tokens });
    succeed(['decode', '-', '--out', inFolder('c'), '--scales', '2', '--model', clipb], { input: tokens });
    const wide = BigInt64Array.from(integers(path.join(clipb, 'indices.npy')).data.subarray(0, 30), BigInt);
    writeNpy(inFolder('one.npy'), { data: wide, shape: [30] });
    succeed(['decode', inFolder('one.npy'), '--out', inFolder('d'), '--model', clipb]);
    assert.deepEqual(readdirSync(inFolder('a')), ['0000.png', '0001.png']);
    const pixels = (file: string) => loadSharp()(inFolder(file)).raw().toBuffer({ resolveWithObject: true });
    const first = await pixels('a/0000.png');
    assert.deepEqual([first.info.width, first.info.height, first.info.channels], [64, 64, 3]);
    assert.deepEqual((await pixels('b/0000.png')).data, first.data);
    assert.deepEqual((await pixels('d/0000.png')).data, first.data);
    assert.notDeepEqual((await pixels('c/0000.png')).data, first.data);
  });

  it('takes an image from stdin and gives a picture on stdout', async () => {
    const photo = readFileSync(samples[0]);
    const piped = succeed(['encode', '-', '--out', '-', '--model', clipb], { input: photo });
    const file = json(['encode', samples[0], '--model', clipb]);
    const tokens = decodeNpy(piped.stdout);
    assert.deepEqual([...(tokens.data as Int32Array)], file.tokens[0]);
    const png = succeed(['decode', '-', '--out', '-', '--model', clipb], { input: piped.stdout });
    succeed(['decode', '-', '--out', 'one.png', '--model', clipb], { input: piped.stdout });
    assert.deepEqual(readFileSync(inFolder('one.png')), png.stdout);
    const { width, format } = await loadSharp()(png.stdout).metadata();
    assert.deepEqual([width, format], [64, 'png']);
    const beside = succeed(['reconstruct', '-', '--out', '-', '--model', clipb], { input: photo });
    assert.equal((await loadSharp()(beside.stdout).metadata()).width, 128);
    const none = run(['encode', '-', '--out', '-', '--model', clipb], { input: Buffer.alloc(0) });
    assert.equal(none.code, 1);
    assert.match(none.stderr, /stdin is empty\n$/);
  });

  it('takes tokens from a pipe that a shell made', function () {
    if (spawnSync('bash', ['-c', 'true']).status !== 0) return this.skip();
    const tokens = path.join(clipb, 'indices.npy');
    const line = `"${process.execPath}" "${program}" decode <(cat "${tokens}") --out piped --model "${clipb}"`;
    const result = spawnSync('bash', ['-c', line], { cwd: folder, encoding: 'utf8' });
    assert.equal(result.status, 0, result.stderr);
    assert.deepEqual(readdirSync(inFolder('piped')), ['0000.png', '0001.png']);
  });

  it('notices before any work that a result cannot be written', () => {
    const model = inFolder('no-model'); // would be the next thing to fail
    for (const args of [
      ['encode', samples[0], '--out', 'nowhere/x.npy'],
      ['decode', path.join(clipb, 'indices.npy'), '--tensor', 'nowhere/x.npy'],
      ['decode', path.join(clipb, 'indices.npy'), '--out', `${program}/x`],
      ['reconstruct', samples[0], '--out', `${program}/x`],
    ]) {
      const result = run([...args, '--model', model]);
      assert.equal(result.code, 1);
      assert.match(result.stderr, /^tokenflow: Cannot (write|make the folder) /);
    }
    assert.match(run(['convert', model, '--out', `${program}/x`]).stderr, /Cannot make the folder/);
  });

  it('says when the disk is full, without a stack', function () {
    if (process.platform !== 'linux') return this.skip();
    const full = run(['encode', samples[0], '--out', '/dev/full', '--model', clipb, '--quiet']);
    assert.deepEqual(
      [full.code, full.stderr],
      [1, "tokenflow: Cannot write '/dev/full': no space left on the disk\n"],
    );
    for (const args of [
      ['encode', samples[0], '--out', '-', '--model', clipb, '--quiet'],
      ['inspect', clipb],
    ]) {
      const words = args.map((arg) => `"${arg}"`).join(' ');
      const line = `"${process.execPath}" "${program}" ${words} > /dev/full`;
      const result = spawnSync('sh', ['-c', line], { cwd: folder, encoding: 'utf8' });
      assert.deepEqual(
        [result.status, result.stderr],
        [1, "tokenflow: Cannot write 'stdout': no space left on the disk\n"],
      );
    }
  });

  it('sets images beside their reconstructions, and measures them', async () => {
    mkdirSync(inFolder('twin'));
    writeFileSync(inFolder('twin', 'raccoon.jpg'), readFileSync(samples[0]));
    const images = [samples[1], inFolder('twin', 'raccoon.jpg')];
    const report = json(['reconstruct', ...images, '--out', inFolder('r')]);
    assert.deepEqual(readdirSync(inFolder('r')).sort(), ['raccoon-2.png', 'raccoon.png']);
    for (const { psnr, ssim } of report.images) {
      assert.ok(psnr > 15 && psnr < 60, `${psnr}`);
      assert.ok(ssim > 0.2 && ssim < 1, `${ssim}`);
    }
    const { data, info } = await loadSharp()(inFolder('r', 'raccoon.png'))
      .raw()
      .toBuffer({ resolveWithObject: true });
    assert.equal(info.width, 2 * info.height);
    const original = await new ImageProcessor({ size: info.height }).prepare(samples[1]);
    const row = info.height * 3;
    for (let y = 0; y < info.height; y++) {
      assert.deepEqual(
        new Uint8Array(data.subarray(2 * y * row, (2 * y + 1) * row)),
        original.data.subarray(y * row, (y + 1) * row),
      );
    }
    const text = succeed(['reconstruct', samples[1], '--out', inFolder('r2')]);
    assert.equal(text.stdout.length, 0);
    assert.match(text.stderr, /raccoon\.jpg: PSNR \d+\.\d\d dB, SSIM 0\.\d{4} -> .*raccoon\.png\n$/);
  });

  it('inspects checkpoints and tokens', () => {
    const model = json(['inspect', clipb]);
    assert.equal(model.kind, 'checkpoint');
    assert.equal(model.format, 'pytorch');
    assert.equal(model.wrapper, 'model');
    assert.equal(model.tensors, 438);
    assert.equal(model.model.tokens, 30);
    const text = succeed(['inspect', path.join(clipb, 'checkpoint.pt'), '--tensors']).stdout.toString();
    assert.match(text, /512 codes of 32 semantic and 8 pixel dimensions/);
    assert.match(text, /^ {2}decoder\.conv_in\.weight F32 \[64, 64, 3, 3\]$/m);
    const tokens = json(['inspect', path.join(clipb, 'indices.npy')]);
    assert.deepEqual(tokens.shape, [2, 30]);
    assert.ok(tokens.least >= 0 && tokens.most < 512 && tokens.distinct > 10);
    const array = succeed(['inspect', path.join(clipb, 'input.npy')]).stdout.toString();
    assert.match(array, /input\.npy: an array of type f4 and shape \[2, 3, 64, 64\]\n$/);
    const other = json(['inspect', path.join(clipb, 'checkpoint.pt'), '--config', 'siglip']);
    assert.equal(other.model, null);
    assert.match(other.reason, /siglip_384/);
  });

  it('converts once, and again when told; half precision halves the file', () => {
    const out = inFolder('converted');
    const first = json(['convert', clipb, '--out', out]);
    assert.equal(first.tensors, 438);
    const again = run(['convert', clipb, '--out', out]);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /^tokenflow: .*model\.safetensors is there already.*--force\n$/);
    succeed(['convert', clipb, '--out', inFolder('half'), '--dtype', 'f16', '--quiet']);
    const size = (name: string) => readFileSync(inFolder(name, 'model.safetensors')).length;
    assert.ok(size('half') < 0.6 * size('converted'));
    succeed(['convert', clipb, '--out', out, '--force']);
    const itself = run(['convert', out, '--out', out, '--force']);
    assert.equal(itself.code, 2);
    assert.match(itself.stderr, /is read by this command/);
    const config = JSON.parse(readFileSync(inFolder('converted', 'config.json'), 'utf8'));
    const golden = JSON.parse(readFileSync(path.join(clipb, 'config.json'), 'utf8'));
    assert.deepEqual(config, golden);
  });

  describe('says in a line what is wrong', () => {
    before(() => {
      writeFileSync(inFolder('text.jpg'), 'not a picture');
      writeFileSync(inFolder('empty.pt'), '');
      writeFileSync(inFolder('cut.pt'), readFileSync(path.join(clipb, 'checkpoint.pt')));
      truncateSync(inFolder('cut.pt'), 1_000_000);
      writeFileSync(inFolder('bad.json'), '{');
      writeFileSync(inFolder('a.bmp'), 'BM and so on');
      writeFileSync(inFolder('photo.png'), readFileSync(samples[0]));
      mkdirSync(inFolder(folderName));
      writeFileSync(inFolder('full.npy'), readFileSync(path.join(clipb, 'indices.npy')));
      writeNpy(inFolder('floats.npy'), { data: new Float32Array(30), shape: [1, 30] });
      writeNpy(inFolder('large.npy'), { data: new Int32Array(30).fill(512), shape: [1, 30] });
      writeNpy(inFolder('short.npy'), { data: new Int32Array(29), shape: [1, 29] });
    });

    const out = ['--out', 'x.npy'];
    const folderName = 'pictures';
    const cases: [name: string, args: string[], code: number, message: RegExp][] = [
      ['no image', ['encode', ...out], 2, /at least one image/],
      ['no output', ['encode', samples[0]], 2, /--out tokens\.npy/],
      ['images and an array', ['encode', samples[0], '--tensor', 'a.npy', ...out], 2, /not both/],
      [
        'two results on stdout',
        ['encode', samples[0], '--out', '-', '--json'],
        2,
        /--out - and --json would/,
      ],
      ['a misspelt option', ['encode', samples[0], '--outt', 'x'], 2, /unknown option '--outt'.*--out/],
      ['a misspelt command', ['encod'], 2, /unknown command 'encod'.*encode/],
      ['a wrong number', ['encode', samples[0], ...out, '--batch', '0'], 2, /--batch.*whole number from 1/],
      ['a wrong choice', ['encode', samples[0], ...out, '--fit', 'stretch'], 2, /crop, squash, pad/],
      ['a wrong device', ['encode', samples[0], ...out, '--device', 'gpu'], 2, /cuda:n/],
      ['a missing argument', ['decode'], 2, /missing required argument 'tokens'/],
      ['nothing to make', ['decode', 'x.npy'], 2, /--out folder/],
      ['a missing option', ['convert', clipb], 2, /--out/],
      ['a missing image', ['encode', 'no.jpg', ...out], 1, /no\.jpg/],
      ['no picture', ['encode', 'text.jpg', ...out], 1, /text\.jpg/],
      ['a missing model', ['encode', samples[0], ...out, '--model', 'no.pt'], 1, /no\.pt/],
      ['an empty model', ['encode', samples[0], ...out, '--model', 'empty.pt'], 1, /an empty file/],
      ['a cut model', ['encode', samples[0], ...out, '--model', 'cut.pt'], 1, /cut\.pt/],
      ['no model', ['encode', samples[0], ...out, '--model', 'floats.npy'], 1, /a NumPy array/],
      ['a missing config', ['encode', samples[0], ...out, '--config', 'no.json'], 1, /no\.json/],
      ['a broken config', ['encode', samples[0], ...out, '--config', 'bad.json'], 1, /bad\.json is not JSON/],
      ['the wrong variant', ['encode', samples[0], ...out, '--config', 'siglip'], 1, /siglip_384/],
      [
        'a missing folder',
        ['encode', samples[0], '--out', 'no/x.npy'],
        1,
        /'no\/x\.npy': there is no folder .*no$/m,
      ],
      ['a folder for a file', ['encode', samples[0], '--out', '.'], 1, /'\.': it is a folder/],
      [
        'the same file twice',
        ['encode', samples[0], ...out, '--features', './x.npy'],
        2,
        /--out and --features name the/,
      ],
      [
        'an image written over',
        ['encode', 'text.jpg', '--out', 'text.jpg'],
        2,
        /text\.jpg is read by this command/,
      ],
      [
        'tokens written over',
        ['decode', 'short.npy', '--tensor', './short.npy'],
        2,
        /short\.npy is read by this/,
      ],
      [
        'a picture written over',
        ['reconstruct', 'photo.png', '--out', '.'],
        2,
        /photo\.png is read by this command/,
      ],
      [
        'two images for a file',
        ['reconstruct', ...samples, '--out', 'a.png'],
        2,
        /a\.png takes one picture, .* are 2/,
      ],
      ['stdin twice', ['encode', '-', '-', ...out], 2, /stdin can be read once/],
      ['one dash for two', ['encode', samples[0], '-out', 'x.npy'], 2, /'-out'; did you mean --out\?/],
      [
        'an option of another command',
        ['encode', samples[0], '--scales', '3'],
        2,
        /see tokenflow encode --help/,
      ],
      [
        'too many threads',
        ['encode', samples[0], ...out, '--threads', '1025'],
        2,
        /whole number from 1 to 1024/,
      ],
      [
        'too many scales',
        ['decode', 'full.npy', '--out', 'x', '--scales', '12', '--model', clipb],
        2,
        /from 1 to 4, .* 1, 2, 3, 4, .* 12/,
      ],
      [
        'a model without a name',
        ['encode', samples[0], ...out, '--model', ''],
        1,
        /a path for the checkpoint/,
      ],
      [
        'a missing image among others',
        ['encode', samples[0], 'no.jpg', ...out, '--model', 'no.pt'],
        1,
        /no\.jpg/,
      ],
      ['a BMP image', ['encode', 'a.bmp', ...out], 1, /it is a BMP image; JPEG, PNG, WebP/],
      [
        'a folder for an image',
        ['encode', folderName, ...out],
        2,
        /is a folder; name its images .*tokenflow tokenize/,
      ],
      [
        'a picture for an array',
        ['encode', samples[0], '--out', 'x.PNG'],
        2,
        /x\.PNG is named like a picture/,
      ],
      ['an empty stdin for an image', ['encode', '-', ...out], 1, /stdin is empty/],
      ['an empty stdin for tokens', ['decode', '-', '--out', 'x'], 1, /stdin is empty/],
      [
        'a misspelt variant',
        ['encode', samples[0], ...out, '--config', 'clipd'],
        2,
        /Did you mean 'clipb'\?/,
      ],
      [
        'a variant that does not fit',
        ['encode', samples[0], ...out, '--config', 'clipb'],
        1,
        /'clipb' does not fit this checkpoint: /,
      ],
      ['help of nothing', ['help', 'nothing'], 2, /unknown command 'nothing'; there are encode, /],
      ['missing tokens', ['decode', 'no.npy', '--out', 'x'], 1, /no\.npy/],
      ['no tokens', ['decode', 'floats.npy', '--out', 'x'], 1, /expected tokens/],
      ['tokens out of range', ['decode', 'large.npy', '--out', 'x', '--model', clipb], 1, /0 to 511 .* 512/],
      ['too few tokens', ['decode', 'short.npy', '--out', 'x', '--model', clipb], 1, /30 per image .* 29/],
      ['no tensor', ['encode', '--tensor', 'floats.npy', ...out], 1, /\[B, 3, 128, 128\]/],
      [
        'a file for a folder',
        ['decode', path.join(clipb, 'indices.npy'), '--out', 'text.jpg/x', '--model', clipb],
        1,
        /text\.jpg/,
      ],
      ['nothing to inspect', ['inspect', 'no.pt'], 1, /no\.pt/],
      ['not a checkpoint', ['inspect', 'text.jpg'], 1, /text\.jpg/],
    ];
    for (const [name, args, code, message] of cases) {
      it(name, () => {
        const result = run(args);
        assert.match(result.stderr, message);
        assert.equal(result.code, code, result.stderr);
        assert.match(result.stderr, /^tokenflow: [^\n]+\n$/, 'one line');
        assert.doesNotMatch(result.stderr, /\bE[A-Z]{3,}\b(?!_)|no such file or directory/, 'plain words');
        if (code === 2) assert.match(result.stderr, /\(see tokenflow( [a-z]+)? --help\)\n$/);
        assert.equal(result.stdout.length, 0);
      });
    }

    it('no picture on stdin, by that name', () => {
      const { code, stderr } = run(['encode', '-', '--out', 'x.npy'], { input: Buffer.from('text') });
      assert.match(stderr, /^tokenflow: [^\n]*stdin[^\n]*\n$/);
      assert.equal(code, 1);
    });

    it('a device that is not there', () => {
      const [, cuda] = JSON.parse(run(['doctor', '--json']).stdout.toString()).backends;
      if (cuda.available) return;
      const result = run(['encode', samples[0], ...out, '--device', 'cuda']);
      assert.equal(result.code, 1);
      assert.match(
        result.stderr,
        new RegExp(`^tokenflow: Device 'cuda' is not available: .*${cuda.reason}.*\n$`),
      );
    });
  });

  /** Waits until a process has a file open: it is at work then. */
  async function untilOpen(pid: number, name: string): Promise<void> {
    const open = () => {
      const folder = `/proc/${pid}/fd`;
      return readdirSync(folder).some((fd) => {
        try {
          return readlinkSync(path.join(folder, fd)).endsWith(name);
        } catch {
          return false; // closed meanwhile
        }
      });
    };
    const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    if (!existsSync('/proc/self/fd')) return void (await pause(2000));
    while (!open()) await pause(20);
  }

  it('stops cleanly on Ctrl-C', async () => {
    const images = Array.from({ length: 400 }, (_, i) => samples[i % 2]);
    const child = spawn(
      process.execPath,
      [program, 'encode', ...images, '--out', 'never.npy', '--batch', '1'],
      {
        cwd: folder,
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    let stderr = '';
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
    await untilOpen(child.pid!, 'model.safetensors');
    child.kill('SIGINT');
    assert.deepEqual(await ended, { code: 130, signal: null });
    assert.equal(stderr, 'tokenflow: interrupted\n');
    assert.equal(existsSync(inFolder('never.npy')), false);
  });

  it('ends quietly when nobody reads its output', async () => {
    const child = spawn('sh', ['-c', `"${process.execPath}" "${program}" encode --help | head -c 1`], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    await new Promise((resolve) => child.once('exit', resolve));
    assert.equal(stderr, '');
  });

  it('works on when nobody reads what it says', () => {
    // The reader of stderr is gone before the first word.
    const command = `{ sleep 0.5; "${process.execPath}" "${program}" encode "${samples[0]}" --out unheard.npy; } 2>&1 >/dev/null | true`;
    const { status } = spawnSync('bash', ['-c', `set -o pipefail; ${command}`], { cwd: folder });
    assert.equal(status, 0);
    assert.deepEqual(readNpy(inFolder('unheard.npy')).shape, [1, 817]);
  });

  it('reads what numpy writes and is read by it', function () {
    const check = spawnSync('/usr/bin/python3', ['-c', 'import numpy']);
    if (check.status !== 0) {
      console.log('      skipped: no /usr/bin/python3 with numpy');
      return this.skip();
    }
    const script =
      'import numpy,sys; a=numpy.load(sys.argv[1]); numpy.save(sys.argv[2], a.astype("<u2")); print(a.shape, a.dtype)';
    succeed(['encode', ...samples, '--out', inFolder('py.npy'), '--model', clipb]);
    const result = spawnSync('/usr/bin/python3', ['-c', script, inFolder('py.npy'), inFolder('u2.npy')], {
      encoding: 'utf8',
    });
    assert.equal(result.stdout.trim(), '(2, 30) int32');
    succeed(['decode', inFolder('u2.npy'), '--features', inFolder('u2-features.npy'), '--model', clipb]);
    assert.deepEqual(readNpy(inFolder('u2-features.npy')).shape, [2, 40, 4, 4]);
  });
});

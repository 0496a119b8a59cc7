// `tokenflow tokenize`, `verify` and `detokenize`: whole runs, and runs that are disturbed.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import * as fc from 'fast-check';
import { readNpy } from '../lib/checkpoint/npy.js';
import { openShard, readShard, type TokenFormat, type TokenRecord } from '../lib/dataset/sink.js';
import { isPart, PendingFile } from '../lib/dataset/sinks/pending-file.js';
import { loadSharp } from '../lib/image/sharp.js';
import { packageRoot } from '../lib/native.js';
import { ImageNames } from '../lib/run/detokenize.js';
import { RunFolder } from '../lib/run/run-folder.js';
import { prepareRun, tokenizeRun } from '../lib/run/tokenize-run.js';
import { verifyRun } from '../lib/run/verify.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';
import { Command, fail, program, run, succeed } from './support/command.js';
import { contentOf, packTar, picture, writePictures } from './support/dataset.js';

const root = packageRoot();
const tiny = path.join(root, 'models', 'tokenflow-tiny');
const fixtures = path.join(root, 'test', 'fixtures', 'image');
const INTERNAL = /^\.tokenflow/;

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

describe('a run over a dataset', function () {
  this.timeout(180_000);
  let folder: string;
  let photos: string;
  const at = (...names: string[]) => path.join(folder, ...names);
  const manifestOf = (out: string) => JSON.parse(readFileSync(path.join(out, 'manifest.json'), 'utf8'));
  const errorsOf = (out: string): { id: string; code: string; message: string }[] =>
    readFileSync(path.join(out, 'errors.jsonl'), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const recordsOf = (out: string, format: TokenFormat, shard: number) =>
    collect(readShard(format, path.join(out, `shard-${String(shard).padStart(6, '0')}`)));

  before(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-run-'));
    photos = at('photos');
    await writePictures(photos, 23);
    await succeed(['tokenize', photos, '--out', at('reference'), '--shard-size', '4']);
  });
  after(() => rmSync(folder, { recursive: true }));

  /** That a folder is that of the undisturbed run, byte for byte, with nothing left lying about. */
  const sameAsReference = (out: string) => {
    assert.deepEqual(contentOf(out, INTERNAL), contentOf(at('reference'), INTERNAL));
    assert.deepEqual(readdirSync(out).sort(), readdirSync(at('reference')).sort());
    assert.deepEqual(contentOf(path.join(out, '.tokenflow')), contentOf(at('reference', '.tokenflow')));
  };

  describe('from images to tokens', () => {
    it('gives every image the tokens that encode gives it, in natural order', async () => {
      await using tokenizer = await TokenFlow.load(tiny);
      const files = Array.from({ length: 23 }, (_, i) => path.join(photos, `${i}.png`));
      const { tokens, shape } = await tokenizer.encode(files);
      const found: TokenRecord[] = [];
      for (let shard = 0; shard < 6; shard++) found.push(...(await recordsOf(at('reference'), 'npy', shard)));
      assert.deepEqual(
        found.map(({ id }) => id),
        Array.from({ length: 23 }, (_, i) => `${i}.png`),
      );
      for (const [i, record] of found.entries()) {
        assert.deepEqual(record.tokens, tokens.slice(i * shape[1], (i + 1) * shape[1]));
        assert.deepEqual([record.width, record.height], [24, 24]);
      }
      assert.deepEqual(readNpy(at('reference', 'shard-000005.npy')).shape, [3, shape[1]]);
    });

    it('says what it did in a manifest', () => {
      const manifest = manifestOf(at('reference'));
      assert.equal(manifest.complete, true);
      assert.equal(manifest.images, 23);
      assert.equal(manifest.errors, 0);
      assert.match(manifest.model.sha256, /^[0-9a-f]{64}$/);
      assert.deepEqual(manifest.settings, { format: 'npy', precision: 'f32', fit: 'crop' });
      assert.deepEqual(
        manifest.shards.map(({ images }: { images: number }) => images),
        [4, 4, 4, 4, 4, 3],
      );
      for (const { files } of manifest.shards) {
        for (const { name, bytes } of files) assert.equal(readFileSync(at('reference', name)).length, bytes);
      }
    });

    it('does not depend on batches, workers, threads, or the order of shards', async () => {
      const common = [photos, '--shard-size', '4'];
      await succeed(['tokenize', ...common, '--out', at('batch'), '--batch', '1', '--threads', '1']);
      sameAsReference(at('batch'));
      await succeed(['tokenize', ...common, '--out', at('workers'), '--workers', '3', '--batch', '3']);
      sameAsReference(at('workers'));
      await succeed(['tokenize', ...common, '--out', at('parts'), '--shard', '2/2']);
      assert.equal(manifestOf(at('parts')).complete, false);
      assert.deepEqual(
        manifestOf(at('parts')).shards.map(({ name }: { name: string }) => name),
        [...['shard-000001', 'shard-000003', 'shard-000005']],
      );
      await succeed(['tokenize', ...common, '--out', at('parts'), '--shard', '1/2']);
      sameAsReference(at('parts'));
    });

    for (const format of ['jsonl', 'parquet', 'webdataset', 'safetensors'] as const) {
      it(`writes ${format} that verifies and decodes`, async () => {
        const request = { sources: [photos], shardSize: 12, settings: { format }, model: tiny };
        const prepared = await prepareRun(at(format), request, false);
        const { manifest } = await tokenizeRun(prepared, { load: {} });
        assert.equal(manifest.complete, true);
        const { problems, images } = await verifyRun(new RunFolder(at(format)));
        assert.deepEqual(problems, []);
        assert.equal(images, 23);
        const records = await recordsOf(at(format), format, 1);
        const expected = [
          ...(await recordsOf(at('reference'), 'npy', 3)),
          ...(await recordsOf(at('reference'), 'npy', 4)),
        ];
        assert.deepEqual(
          records.slice(0, 8).map(({ tokens }) => tokens),
          expected.map(({ tokens }) => tokens),
        );
      });
    }

    it('reads lists from stdin, tars and Parquet files, with what goes along', async () => {
      const list = '3.png\n1.png\n';
      const listed = ['tokenize', '-', '--out', at('listed'), '--format', 'jsonl', '--json'];
      const { stdout, stderr } = await succeed([...listed, '--quiet'], { cwd: photos, input: list });
      assert.equal(stderr, '');
      assert.equal(JSON.parse(stdout).images, 2);
      assert.deepEqual(
        (await recordsOf(at('listed'), 'jsonl', 0)).map(({ id }) => id),
        ['3.png', '1.png'],
      );

      const tar = [0, 1, 2].flatMap((i): [string, Uint8Array][] => [
        [`${i}.png`, readFileSync(path.join(photos, `${i}.png`))],
        [`${i}.cls`, Buffer.from(`${i}`)],
      ]);
      mkdirSync(at('tars'));
      writeFileSync(at('tars', 's-{1}.tar'), await packTar(tar));
      await succeed([
        'tokenize',
        at('tars'),
        '--out',
        at('from-tar'),
        '--format',
        'webdataset',
        '--shard-size',
        '2',
      ]);
      const records = [
        ...(await recordsOf(at('from-tar'), 'webdataset', 0)),
        ...(await recordsOf(at('from-tar'), 'webdataset', 1)),
      ];
      assert.deepEqual(
        records.map(({ id, meta }) => [id, meta]),
        [
          ['0', { cls: 0 }],
          ['1', { cls: 1 }],
          ['2', { cls: 2 }],
        ],
      );

      const { parquetWriteBuffer } = await import('hyparquet-writer');
      const columnData = [
        { name: 'image', data: [await picture(0), await picture(1)], type: 'BYTE_ARRAY' as const },
        { name: 'label', data: [5, 6], type: 'INT32' as const },
      ];
      writeFileSync(at('hub.parquet'), Buffer.from(parquetWriteBuffer({ columnData })));
      await succeed(['tokenize', at('hub.parquet'), '--out', at('from-hub'), '--format', 'parquet']);
      const [first, second] = await recordsOf(at('from-hub'), 'parquet', 0);
      assert.deepEqual([first.id, first.meta, second.id], ['hub/0', { label: 5 }, 'hub/1']);
      const [expected] = await recordsOf(at('reference'), 'npy', 0);
      assert.deepEqual(first.tokens, expected.tokens);
    });
  });

  describe('of images that are not what they should be', () => {
    const GOOD = [
      'cmyk.jpg',
      'rgb16.png',
      'rgba16.png',
      'palette.png',
      'palette.gif',
      'animated.gif',
      'exif-6.jpg',
      '1x1.png',
      '1x20000.png',
    ];

    before(async () => {
      mkdirSync(at('hostile'));
      for (const name of [...GOOD, 'bomb.png']) copyFileSync(path.join(fixtures, name), at('hostile', name));
      writeFileSync(at('hostile', 'empty.jpg'), '');
      writeFileSync(at('hostile', 'text.png'), 'this is a text file');
      const whole = readFileSync(path.join(root, 'samples', 'chelsea-cat.jpg'));
      writeFileSync(at('hostile', 'cut.jpg'), whole.subarray(0, whole.length / 2));
    });

    it('gives tokens to those that can be read, and the others to errors.jsonl', async () => {
      const args = ['tokenize', at('hostile'), '--out', at('hostile-out'), '--shard-size', '5'];
      const { stderr } = await succeed(args);
      assert.match(stderr, /9 images, 4 errors \(errors\.jsonl\)/);
      const errors = errorsOf(at('hostile-out'));
      assert.deepEqual(
        errors.map(({ id, code }) => [id, code]),
        ['bomb.png', 'cut.jpg', 'empty.jpg', 'text.png'].map((id) => [id, 'ERR_TOKENFLOW_IMAGE']),
      );
      for (const { id, message } of errors) assert.ok(message.includes(`'${id}'`), message);
      const found: TokenRecord[] = [];
      for (let shard = 0; shard < 3; shard++)
        found.push(...(await recordsOf(at('hostile-out'), 'npy', shard)));
      assert.deepEqual(found.map(({ id }) => id).sort(), [...GOOD].sort());
      await using tokenizer = await TokenFlow.load(tiny);
      for (const { id, tokens } of found) {
        const { tokens: expected } = await tokenizer.encode(at('hostile', id));
        assert.deepEqual(tokens, expected, id);
      }
      const size = (id: string) =>
        found.filter((record) => record.id === id).map(({ width, height }) => [width, height])[0];
      assert.deepEqual(size('1x20000.png'), [1, 20000]);
      assert.deepEqual((await verifyRun(new RunFolder(at('hostile-out')))).problems, []);
    });

    it('takes the pixel limit from an option', async () => {
      await succeed([
        'tokenize',
        at('hostile'),
        '--out',
        at('limit'),
        '--max-pixels',
        '10000',
        '--format',
        'jsonl',
      ]);
      assert.ok(
        errorsOf(at('limit')).some(({ id, message }) => id === '1x20000.png' && /10000 pixels/.test(message)),
      );
    });

    it('stops at the first with --strict, and keeps the shards before it', async () => {
      const args = ['tokenize', at('hostile'), '--out', at('strict'), '--shard-size', '3', '--strict'];
      await fail(args, 1, /^tokenflow: .*'bomb\.png'/m);
      assert.deepEqual(
        manifestOf(at('strict')).shards.map(({ name }: { name: string }) => name),
        ['shard-000000'],
      );
      assert.deepEqual(
        readdirSync(at('strict')).filter((name) => name.startsWith('.')),
        ['.tokenflow'],
      );
    });

    it('makes no files for a shard of none but errors', async () => {
      mkdirSync(at('bad'));
      writeFileSync(at('bad', 'a.jpg'), '');
      await fail(
        ['tokenize', at('bad'), '--out', at('bad-out')],
        1,
        /none of 1 image could be read.*'a\.jpg'/,
      );
      assert.deepEqual(readdirSync(at('bad-out')).sort(), ['.tokenflow', 'errors.jsonl', 'manifest.json']);
      assert.deepEqual((await verifyRun(new RunFolder(at('bad-out')))).problems, []);
    });

    it('goes on past a tar that is cut off, and says so; it can be mended', async () => {
      const tar = (from: number) =>
        packTar(
          [0, 1, 2].map(
            (i) => [`${from + i}.png`, readFileSync(path.join(photos, `${from + i}.png`))] as const,
          ),
        );
      mkdirSync(at('cut'));
      const whole = await tar(0);
      writeFileSync(at('cut', 'a.tar'), whole.subarray(0, 2000));
      writeFileSync(at('cut', 'b.tar'), await tar(3));
      const args = ['tokenize', at('cut'), '--out', at('cut-out')];
      const { stderr } = await fail(
        args,
        1,
        /shard-000000 cannot be made: .*a\.tar.*[\s\S]*1 of 2 shards could not be made/,
      );
      assert.match(stderr, /3 images/);
      assert.ok(
        existsSync(at('cut-out', 'shard-000001.npy')) && !existsSync(at('cut-out', 'shard-000000.npy')),
      );
      writeFileSync(at('cut', 'a.tar'), whole);
      await succeed([...args, '--resume']);
      assert.equal(manifestOf(at('cut-out')).images, 6);
      assert.equal((await recordsOf(at('cut-out'), 'npy', 0)).length, 3);
    });
  });

  describe('that is disturbed', () => {
    const args = (out: string, ...more: string[]) => [
      'tokenize',
      photos,
      '--out',
      out,
      '--shard-size',
      '4',
      ...more,
    ];

    it('killed at twenty random moments, ends with the same bytes', async () => {
      const reference = contentOf(at('reference'), INTERNAL);
      let out = at('killed-0');
      for (let kills = 0; kills < 20; ) {
        const command = new Command(args(out, '--resume'));
        await Promise.race([delay(150 + 1350 * Math.random()), command.ended()]);
        command.process.kill('SIGKILL');
        const { signal, code, stderr } = await command.ended();
        const there = existsSync(out) ? contentOf(out, /^\.|^(manifest|errors)\./) : [];
        for (const [name, content] of there) {
          assert.equal(content, reference.get(name), `${name} is there, but not whole`);
        }
        if (signal === 'SIGKILL') kills++;
        else {
          assert.equal(code, 0, stderr);
          sameAsReference(out);
          out = at(`killed-${kills}`);
        }
      }
      await succeed(args(out, '--resume'));
      sameAsReference(out);
    });

    it('with worker processes that die, goes on with others', async () => {
      const command = new Command(args(at('orphans'), '--workers', '2'));
      let killed = 0;
      while (killed < 2 && command.process.exitCode === null) {
        const { stdout } = spawnSync('pgrep', ['-P', String(command.process.pid)], { encoding: 'utf8' });
        const [child] = stdout.split('\n').filter(Boolean);
        if (child) {
          await delay(300);
          try {
            process.kill(Number(child), 'SIGKILL');
            killed++;
          } catch (error) {
            assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH');
          }
        }
        await delay(20);
      }
      const { code, stderr } = await command.ended();
      assert.equal(code, 0, stderr);
      assert.equal(killed, 2);
      sameAsReference(at('orphans'));
    });

    it('by one Ctrl-C, finishes the shard that was begun', async () => {
      const command = new Command(args(at('stopped')));
      await command.says(/shard-000000/);
      command.process.kill('SIGINT');
      const { code, stderr } = await command.ended();
      assert.equal(code, 130, stderr);
      assert.match(stderr, /finishing the shard[\s\S]*go on with: tokenflow tokenize --resume --out /);
      const { shards, complete } = manifestOf(at('stopped'));
      assert.equal(complete, false);
      assert.ok(shards.length >= 1 && shards.length < 6);
      const incomplete = await run(['verify', at('stopped')]);
      assert.equal(incomplete.code, 1);
      assert.match(
        incomplete.stderr,
        /^\d of 6 shards are there and whole, \d not made yet; add (it|them) with --resume$/m,
      );
      await succeed(['tokenize', '--resume', '--out', at('stopped')]);
      sameAsReference(at('stopped'));
    });

    for (const workers of ['1', '2']) {
      it(`by two, stops at once (${workers} processes)`, async () => {
        const whole = [
          'tokenize',
          photos,
          '--out',
          at(`ended-${workers}`),
          '--shard-size',
          '12',
          '--workers',
          workers,
        ];
        const command = new Command([...whole, '--threads', '1', '--batch', '1']);
        while (
          !existsSync(at(`ended-${workers}`)) ||
          !readdirSync(at(`ended-${workers}`)).some((name) => /^\.shard-.*\.part$/.test(name))
        ) {
          await delay(5);
        }
        command.process.kill('SIGINT');
        await command.says(/finishing the shard/);
        command.process.kill('SIGINT');
        const { code, stderr } = await command.ended();
        assert.equal(code, 130, stderr);
        assert.match(stderr, /tokenflow: interrupted\n$/);
        assert.deepEqual(readdirSync(at(`ended-${workers}`)).sort(), [
          '.tokenflow',
          'errors.jsonl',
          'manifest.json',
        ]);
        await succeed([...whole, '--resume']);
      });
    }

    it('leaves alone what another process is writing, and removes what a dead one left', async () => {
      const out = at('beside');
      await succeed([...args(out), '--shard', '1/2']);
      const living = await PendingFile.create(path.join(out, 'shard-000001.npy'));
      const died = spawnSync(process.execPath, [
        '-e',
        `const { PendingFile } = require(${JSON.stringify(path.join(root, 'dist-test/lib/dataset/sinks/pending-file.js'))});
        PendingFile.create(process.argv[1]).then(() => process.kill(process.pid, 'SIGKILL'));`,
        path.join(out, 'shard-000003.npy'),
      ]);
      assert.equal(died.signal, 'SIGKILL');
      const parts = () => readdirSync(out).filter(isPart);
      assert.equal(parts().length, 2);
      await succeed([...args(out, '--resume'), '--shard', '1/2']);
      assert.deepEqual(
        parts().map((name) => name.slice(0, 13)),
        ['.shard-000001'],
      );
      await living.discard();
      await succeed(args(out, '--resume'));
      sameAsReference(out);
    });

    it('by a file that could not be read, tries it again when asked to', async () => {
      const away = at('away.png');
      const list = at('some.txt');
      const names = Array.from({ length: 23 }, (_, i) => path.join(photos, `${i}.png`));
      writeFileSync(list, names.join('\n'));
      renameSync(names[5], away);
      const out = at('again');
      try {
        await succeed(['tokenize', list, '--out', out, '--shard-size', '4']);
      } finally {
        renameSync(away, names[5]);
      }
      assert.deepEqual(
        errorsOf(out).map(({ code }) => code),
        ['ERR_TOKENFLOW_IO'],
      );
      await fail(['tokenize', '--out', out, '--retry-errors', list], 2, /--retry-errors goes with --resume/);
      await succeed(['tokenize', '--out', out, '--resume']);
      assert.equal(errorsOf(out).length, 1);
      const { stdout } = await succeed(['tokenize', '--out', out, '--resume', '--retry-errors', '--json']);
      const { made, images, errors, complete } = JSON.parse(stdout);
      assert.deepEqual(
        { made, images, errors, complete },
        { made: 1, images: 23, errors: 0, complete: true },
      );
      assert.equal(errorsOf(out).length, 0);
      const bytes = (folder: string) => readFileSync(path.join(folder, 'shard-000001.npy'));
      assert.deepEqual(bytes(out), bytes(at('reference')));
      await succeed(['verify', out]);
    });

    it('by a full disk, says so, keeps what is there, and goes on when there is room', async function () {
      const disk = at('disk');
      mkdirSync(disk);
      const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=48k', 'tmpfs', disk]);
      if (mounted.status !== 0) {
        console.log('        not run: a small file system could not be mounted (needs root)');
        this.skip();
      }
      try {
        const out = path.join(disk, 'out');
        await fail(args(out), 1, /^tokenflow: Cannot write .*: no space left on the disk$/m);
        const reference = contentOf(at('reference'), INTERNAL);
        const there = [...contentOf(out, /^\.|^(manifest|errors)\./)];
        assert.ok(there.length > 0);
        for (const [name, content] of there) assert.equal(content, reference.get(name));
        execFileSync('mount', ['-o', 'remount,size=10m', disk]);
        await succeed(args(out, '--resume'));
        sameAsReference(out);
      } finally {
        execFileSync('umount', ['-l', disk]);
      }
    });

    it('by a limit on the size of files, says so', () => {
      const limited = `trap '' XFSZ; ulimit -f 4; exec "$0" "$@"`; // in KiB
      const whole = ['tokenize', photos, '--out', at('small'), '--format', 'jsonl'];
      const result = spawnSync('bash', ['-c', limited, process.execPath, program, ...whole], {
        encoding: 'utf8',
      });
      assert.equal(result.status, 1, result.stderr);
      assert.match(result.stderr, /^tokenflow: Cannot write .*: the file would be larger than .* allows$/m);
      assert.deepEqual(
        readdirSync(at('small')).filter((name) => name.startsWith('shard')),
        [],
      );
    });

    it('by a folder that is read-only, says so', async function () {
      const place = at('locked');
      mkdirSync(place);
      const superuser = process.getuid?.() === 0;
      if (!superuser) chmodSync(place, 0o555);
      else if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'tmpfs', place]).status !== 0) {
        console.log('        not run: a read-only file system could not be mounted');
        this.skip();
      }
      try {
        await fail(
          args(path.join(place, 'out')),
          1,
          /^tokenflow: Cannot make the folder .*out': (the file system is read-only|permission denied)/m,
        );
      } finally {
        if (superuser) execFileSync('umount', [place]);
        else chmodSync(place, 0o755);
      }
    });
  });

  describe('into a folder that is taken', () => {
    const base = ['tokenize', '--out'];
    const refused = async (args: string[], message: RegExp) => {
      const before = contentOf(at('taken'));
      await fail(args, 1, message);
      assert.deepEqual(contentOf(at('taken')), before);
    };

    before(() => cpSync(at('reference'), at('taken'), { recursive: true }));

    it('refuses what is another run, or this run without --resume', async () => {
      const same = [...base, at('taken'), photos, '--shard-size', '4'];
      await refused(same, /holds this run already, which is complete/);
      await refused(
        [...same, '--resume', '--fit', 'pad'],
        /holds another run: its fit is crop, this one's pad/,
      );
      await refused([...same, '--resume', '--format', 'jsonl'], /its format is npy, this one's jsonl/);
      await refused(
        [...base, at('taken'), photos, '--resume'],
        /its source is .*6 shards.*this one's .*1 shards/,
      );
      const other = path.join(root, 'test', 'golden', 'clipb');
      await refused([...same, '--resume', '--model', other], /its model is the one of sha256/);
      await refused([...base, at('taken'), '--resume', '--model', other], /its model is the one of sha256/);
      await succeed([...same, '--resume']);
      sameAsReference(at('taken'));
    });

    it('goes on with the model it was begun with', async () => {
      const other = path.join(root, 'test', 'golden', 'clipb');
      const begun = ['tokenize', photos, '--out', at('others'), '--shard-size', '4', '--model', other];
      await succeed([...begun, '--shard', '1/2']);
      await succeed(['tokenize', '--resume', '--out', at('others')]);
      await succeed([...begun.slice(0, 3), at('others-whole'), ...begun.slice(4)]);
      assert.deepEqual(contentOf(at('others')), contentOf(at('others-whole')));
    });

    it('makes again what was lost', async () => {
      rmSync(at('taken', 'shard-000002.npy'));
      rmSync(at('taken', '.tokenflow', 'shards', 'shard-000004.json'));
      await succeed(['tokenize', '--resume', '--out', at('taken')]);
      sameAsReference(at('taken'));
    });

    it('refuses a folder of other things, a file, and nothing to do', async () => {
      mkdirSync(at('other'));
      writeFileSync(at('other', 'thesis.tex'), '');
      await fail([...base, at('other'), photos], 1, /is not empty \(thesis\.tex\) and holds no run/);
      assert.deepEqual(readdirSync(at('other')), ['thesis.tex']);
      await fail(
        [...base, at('other', 'thesis.tex'), photos],
        1,
        /Cannot write into .*thesis\.tex': it is a file, not a folder/,
      );
      await fail([...base, at('fresh')], 2, /name a source/);
      await fail([...base, at('fresh'), '--resume'], 1, /there is no folder .*fresh/);
      await fail([...base, at('fresh'), at('nowhere')], 1, /there is no '.*nowhere'/);
      await fail(['tokenize', photos], 2, /--out/);
      await fail([...base, at('fresh'), photos, '--shard', '3/2'], 2, /i\/n/);
      assert.ok(!existsSync(at('fresh')));
    });
  });

  describe('verify', () => {
    let copies = 0;
    const problemsOf = async (change: (out: string) => void | Promise<void>) => {
      const out = at(`copy-${copies++}`);
      cpSync(at('reference'), out, { recursive: true });
      await change(out);
      const result = await run(['verify', out, '--json']);
      const { problems } = JSON.parse(result.stdout);
      assert.equal(result.code, problems.length > 0 ? 1 : 0);
      return problems.join('\n');
    };
    const edit = (file: string, change: (content: Buffer) => Uint8Array) =>
      writeFileSync(file, change(readFileSync(file)));
    const editManifest = (out: string, change: (manifest: ReturnType<typeof manifestOf>) => void) => {
      const manifest = manifestOf(out);
      change(manifest);
      writeFileSync(path.join(out, 'manifest.json'), JSON.stringify(manifest));
    };

    it('finds what is damaged, missing or too much', async () => {
      assert.equal(await problemsOf(() => {}), '');
      const flip = (out: string) =>
        edit(path.join(out, 'shard-000001.npy'), (bytes) => {
          bytes[bytes.length - 7] ^= 1;
          return bytes;
        });
      assert.match(await problemsOf(flip), /^shard-000001: shard-000001\.npy is damaged[^\n]*$/);
      const cut = (out: string) => edit(path.join(out, 'shard-000003.npy'), (bytes) => bytes.subarray(0, -1));
      assert.match(
        await problemsOf(cut),
        /^shard-000003: .* bytes instead of \d+; make it again with --resume$/,
      );
      const lose = (out: string) => rmSync(path.join(out, 'shard-000000.ids.jsonl'));
      assert.match(
        await problemsOf(lose),
        /^shard-000000: shard-000000\.ids\.jsonl is missing; make it again with --resume$/,
      );
      const forget = (out: string) => editManifest(out, (manifest) => manifest.shards.splice(2, 1));
      assert.match(await problemsOf(forget), /^manifest\.json lists 5 of the 6 shards that are there/);
      const drop = (out: string) => {
        forget(out);
        rmSync(path.join(out, '.tokenflow', 'shards', 'shard-000002.json'));
      };
      assert.match(await problemsOf(drop), /^5 of 6 shards are there and whole, 1 not made yet/);
      const miscount = (out: string) =>
        editManifest(out, (manifest) => {
          manifest.shards[0].images = 5;
        });
      assert.match(await problemsOf(miscount), /holds 4 images instead of 5\n.*4 images were planned, but 5/);
      const complain = (out: string) => writeFileSync(path.join(out, 'errors.jsonl'), '{}\n');
      assert.match(
        await problemsOf(complain),
        /^errors\.jsonl has 1 line instead of 0; make it again with --resume$/,
      );
    });

    it('finds tokens out of range, whatever the checksums say', async () => {
      const overwrite = async (out: string) => {
        const records = await recordsOf(out, 'npy', 0);
        records[1].tokens[7] = 9000;
        const writer = await openShard('npy', path.join(out, 'shard-000000'), {
          tokensPerImage: 817,
          codebookSize: 10_000,
        });
        for (const record of records) await writer.write(record);
        const files = await writer.finish();
        editManifest(out, (manifest) => {
          manifest.shards[0].files = files.map(({ path: file, bytes, sha256 }) => ({
            name: path.basename(file),
            bytes,
            sha256,
          }));
        });
      };
      assert.match(
        await problemsOf(overwrite),
        /^shard-000000: '1\.png' has the token 9000, out of 0 to 8191$/,
      );
    });

    it('needs a run', async () => {
      await fail(['verify', photos], 1, /has no manifest\.json/);
      writeFileSync(at('copy-0', 'manifest.json'), '{"version":1}');
      await fail(['verify', at('copy-0')], 1, /holds something else/);
    });
  });

  describe('detokenize', () => {
    it('gives the images that decode gives', async () => {
      await succeed(['detokenize', at('reference'), '--out', at('images'), '--batch', '5']);
      assert.equal(readdirSync(at('images')).length, 23);
      await using tokenizer = await TokenFlow.load(tiny);
      for (const i of [0, 22]) {
        const { tokens } = await tokenizer.encode(path.join(photos, `${i}.png`));
        const { data } = await tokenizer.decode(tokens);
        const written = await loadSharp()(at('images', `${i}.png`))
          .raw()
          .toBuffer();
        assert.deepEqual(new Uint8Array(written), data);
      }
      const { stdout } = await succeed([
        'detokenize',
        at('reference'),
        '--out',
        at('few'),
        '--limit',
        '3',
        '--scales',
        '2',
        '--json',
      ]);
      assert.equal(JSON.parse(stdout).images, 3);
      assert.deepEqual(readdirSync(at('few')), ['0.png', '1.png', '2.png']);
      const other = ['--model', path.join(root, 'test', 'golden', 'clipb'), '--config', 'clipb'];
      await fail(['detokenize', at('reference'), '--out', at('x'), ...other], 1, /./);
    });

    it('names files so that they stay below the folder, each once', () => {
      const names = new ImageNames();
      const ids = [
        'a/b.jpg',
        '/etc/passwd',
        '../../x.png',
        'a/b.png',
        'A/B',
        '..',
        '',
        'C:\\nul.gif',
        'n\0ul',
        'v1.5/x.y',
      ];
      assert.deepEqual(
        ids.map((id) => names.nameOf(id)),
        [
          ...[
            'a/b.png',
            'etc/passwd.png',
            '_/_/x.png',
            'a/b-2.png',
            'A/B-3.png',
            '_.png',
            '_-2.png',
            'C_/nul.png',
            'n_ul.png',
          ],
          'v1.5/x.y.png',
        ],
      );
      fc.assert(
        fc.property(fc.array(fc.string({ unit: 'binary', maxLength: 300 }), { maxLength: 8 }), (list) => {
          const fresh = new ImageNames();
          const found = list.map((id) => fresh.nameOf(id));
          assert.equal(new Set(found).size, found.length);
          for (const name of found) {
            assert.ok(!path.relative('/out', path.join('/out', name)).startsWith('..'));
            assert.ok(name.split('/').every((part) => Buffer.byteLength(part) <= 255));
          }
        }),
        { numRuns: 50 },
      );
    });
  });
});

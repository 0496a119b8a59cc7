// What a run refuses, reports and mends: the folder of a run is to be trusted, and so is what is said of it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
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
import { packageRoot } from '../lib/native.js';
import { RunFolder } from '../lib/run/run-folder.js';
import { prepareRun, tokenizeRun } from '../lib/run/tokenize-run.js';
import { verifyRun } from '../lib/run/verify.js';
import { Command, fail, program, succeed } from './support/command.js';
import { contentOf, packTar, picture, writePictures } from './support/dataset.js';

const root = packageRoot();
const tiny = path.join(root, 'models', 'tokenflow-tiny');

describe('what a run is trusted for', function () {
  this.timeout(120_000);
  let folder: string;
  let photos: string;
  let copies = 0;
  const at = (...names: string[]) => path.join(folder, ...names);
  const manifestOf = (out: string) => JSON.parse(readFileSync(path.join(out, 'manifest.json'), 'utf8'));
  const copyOfRun = () => {
    const copy = at(`copy-${copies++}`);
    cpSync(at('run'), copy, { recursive: true });
    return copy;
  };

  /** Flips a bit of a file, which keeps its size. */
  const damage = (file: string) => {
    const bytes = readFileSync(file);
    bytes[bytes.length - 7] ^= 1;
    writeFileSync(file, bytes);
  };

  before(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-trust-'));
    photos = at('photos');
    await writePictures(photos, 6);
    await succeed(['tokenize', photos, '--out', at('run'), '--shard-size', '2']);
  });
  after(() => rmSync(folder, { recursive: true }));

  describe('the model of the tokens', () => {
    /** A model of the same shape with other weights. */
    let other: string;

    before(() => {
      other = at('other');
      cpSync(tiny, other, { recursive: true });
      const [weights] = readdirSync(other).filter((name) => name.endsWith('.safetensors'));
      const bytes = readFileSync(path.join(other, weights));
      bytes[bytes.length - 4] ^= 1;
      writeFileSync(path.join(other, weights), bytes);
    });

    it('is the only one that detokenize takes, unless told otherwise', async () => {
      const [made] = [manifestOf(at('run')).model.sha256.slice(0, 12)];
      const args = ['detokenize', at('run'), '--out', at('images'), '--model', other];
      const { stderr } = await fail(args, 1, /^tokenflow: .*other.* sha256 [0-9a-f]{12}/m);
      assert.ok(stderr.includes(made), `names the model of the tokens: ${stderr}`);
      assert.ok(!existsSync(at('images')));
      await succeed([...args, '--other-model', '--limit', '1']);
      assert.equal(readdirSync(at('images')).length, 1);
    });

    it('is found by the manifest, and checked, when none is named', async () => {
      await succeed(['tokenize', photos, '--out', at('by-other'), '--model', other]);
      await succeed(['detokenize', at('by-other'), '--out', at('by-other-images'), '--limit', '1']);
      damage(path.join(other, readdirSync(other).find((name) => name.endsWith('.safetensors'))!));
      await fail(['detokenize', at('by-other'), '--out', at('x')], 1, /sha256/);
      renameSync(other, at('moved'));
      await fail(['detokenize', at('by-other'), '--out', at('x')], 1, /not there.*--model/);
      assert.ok(!existsSync(at('x')));
    });

    it('is the bundled one where the tokens are of it, wherever it was then', async () => {
      const out = copyOfRun();
      const manifest = manifestOf(out);
      manifest.model.path = '/nowhere/tokenflow-tiny';
      writeFileSync(path.join(out, 'manifest.json'), JSON.stringify(manifest));
      await succeed(['detokenize', out, '--out', at('bundled'), '--limit', '1']);
    });
  });

  describe('the errors of images', () => {
    it('are the same bytes in every run, whatever else is decoded at the time', async () => {
      const whole = readFileSync(path.join(root, 'samples', 'chelsea-cat.jpg'));
      mkdirSync(at('cut'));
      for (let i = 0; i < 60; i++) {
        writeFileSync(at('cut', `${i}.jpg`), whole.subarray(0, Math.floor((whole.length * (i + 2)) / 64)));
      }
      writeFileSync(at('cut', 'whole.jpg'), whole);
      const runs = await Promise.all(
        [0, 1, 2, 3].map(async (i) => {
          const request = { sources: [at('cut')], shardSize: 20, settings: {}, model: tiny };
          const prepared = await prepareRun(at(`cut-${i}`), request, false);
          await tokenizeRun(prepared, { load: { threads: 1 } });
          return at(`cut-${i}`);
        }),
      );
      const lines = readFileSync(path.join(runs[0], 'errors.jsonl'), 'utf8').trim().split('\n');
      assert.ok(lines.length >= 50, `${lines.length} errors`);
      for (const line of lines) {
        const { id, code, message } = JSON.parse(line);
        assert.equal(code, 'ERR_TOKENFLOW_IMAGE');
        assert.equal(message, `Cannot decode '${id}': the file is damaged or cut off`);
      }
      for (const other of runs.slice(1)) assert.deepEqual(contentOf(other), contentOf(runs[0]));
    });

    it('end a run with an error where they are all that came of it, and the first is told', async () => {
      mkdirSync(at('bad'));
      writeFileSync(at('bad', '1.png'), 'no image');
      writeFileSync(at('bad', '2.png'), '');
      const args = ['tokenize', at('bad'), '--out', at('bad-out')];
      const told =
        /^tokenflow: .*none of 2 images.*Cannot decode '1\.png': it is in no format that can be read/m;
      const { stdout } = await fail([...args, '--json'], 1, told);
      assert.equal(JSON.parse(stdout).errors, 2);
      await fail([...args, '--resume'], 1, told);
    });

    it('name the members that a tar has, where the wanted one is not among them', async () => {
      writeFileSync(
        at('pair.tar'),
        await packTar([
          ['a.png', await picture(0)],
          ['a.cls', '1'],
        ]),
      );
      const args = ['tokenize', at('pair.tar'), '--image', 'jpg', '--out', at('pair-out')];
      await fail(args, 1, /no member \.jpg; its members are \.png, \.cls/);
    });
  });

  describe('a run that is not finished', () => {
    /** As after `kill -9`: the records are there, the manifest is that of the beginning. */
    const killed = (done: number) => {
      const out = copyOfRun();
      const manifest = manifestOf(out);
      const gone = { ...manifest, complete: false, images: 0, errors: 0, shards: [] };
      writeFileSync(path.join(out, 'manifest.json'), JSON.stringify(gone));
      rmSync(path.join(out, 'errors.jsonl'));
      for (const name of readdirSync(path.join(out, '.tokenflow', 'shards'))
        .sort()
        .slice(done)) {
        rmSync(path.join(out, '.tokenflow', 'shards', name));
        for (const file of ['npy', 'ids.jsonl']) rmSync(path.join(out, `${path.parse(name).name}.${file}`));
      }
      return out;
    };

    it('is verified by what is finished of it', async () => {
      const out = killed(2);
      const { stdout, stderr } = await fail(
        ['verify', out, '--json'],
        1,
        /^2 of 3 shards are there and whole, 1 not made yet; add it with --resume$/m,
      );
      assert.doesNotMatch(stderr, /ENOENT/);
      const { problems, shards, images } = JSON.parse(stdout);
      assert.deepEqual([problems.length, shards, images], [1, 2, 4]);
      damage(path.join(out, 'shard-000001.npy'));
      await fail(
        ['verify', out],
        1,
        /^1 of 3 shards are there and whole, 1 not made yet[\s\S]*shard-000001\.npy is damaged/m,
      );
      await succeed(['tokenize', '--resume', '--out', out]);
      assert.deepEqual(contentOf(out), contentOf(at('run')));
    });

    it('has a manifest that lags behind, even with every shard there', async () => {
      const out = killed(3);
      await fail(['verify', out], 1, /manifest\.json lists 0 of the 3 shards.*--resume/);
      const images = at('unsummarized');
      await succeed(['detokenize', out, '--out', images]);
      assert.equal(readdirSync(images).length, 6);
    });
  });

  describe('a damaged shard', () => {
    let out: string;
    before(() => {
      out = copyOfRun();
      damage(path.join(out, 'shard-000001.npy'));
    });

    it('is found by verify, which says how to mend it', async () => {
      await fail(
        ['verify', out],
        1,
        /^shard-000001: shard-000001\.npy is damaged: .*make it again with --resume$/m,
      );
    });

    it('is not decoded', async () => {
      const args = ['detokenize', out, '--out', at('damaged')];
      await fail(args, 1, /^tokenflow: .*shard-000001\.npy is damaged: .*tokenize --resume --out/m);
      await succeed([...args, '--limit', '2']); // before it
    });

    it('is made again by --resume, which says so', async () => {
      const args = ['tokenize', '--resume', '--out', out];
      const { stderr } = await succeed(args);
      assert.match(stderr, /shard-000001 is damaged .* made again/);
      assert.deepEqual(contentOf(out), contentOf(at('run')));
    });
  });

  it('a file that a pattern over the folder would load, but is not of the run, is reported', async () => {
    const out = copyOfRun();
    copyFileSync(path.join(out, 'shard-000000.npy'), path.join(out, 'shard-000099.npy'));
    const { problems } = await verifyRun(new RunFolder(out));
    assert.equal(problems.length, 1);
    assert.match(problems[0], /^shard-000099\.npy is not of this run.*remove it/);
    writeFileSync(path.join(out, 'notes.npy'), ''); // what no pattern for shards matches
    assert.equal((await verifyRun(new RunFolder(out))).problems.length, 1);
  });

  describe('columns', () => {
    let hub: string;
    const write = async (name: string, ids: string[]) => {
      const { parquetWriteBuffer } = await import('hyparquet-writer');
      const columnData = [
        { name: 'image', data: [await picture(0), await picture(1)], type: 'BYTE_ARRAY' as const },
        { name: 'key', data: ids, type: 'STRING' as const },
      ];
      writeFileSync(at('hub', name), Buffer.from(parquetWriteBuffer({ columnData })));
    };
    before(async () => {
      hub = at('hub');
      mkdirSync(hub);
      await write('a.parquet', ['x', 'y']);
      await write('b.parquet', ['z', 'x']);
    });

    it('that are misspelt are refused before there is a folder', async () => {
      const args = ['tokenize', hub, '--out', at('hub-out')];
      for (const wrong of [
        ['--image', 'img'],
        ['--id', 'kye'],
      ]) {
        await fail([...args, ...wrong], 2, /^tokenflow: .*'(img|kye)'.*its columns are 'image', 'key'/m);
        assert.ok(!existsSync(at('hub-out')));
      }
    });

    it('whose ids are not unique in the run give a warning', async () => {
      const args = ['tokenize', hub, '--id', 'key', '--out', at('repeated')];
      const { stderr } = await succeed(args);
      assert.match(stderr, /1 id stands for more than one image.*'x'/);
      const { stderr: without } = await succeed(['tokenize', hub, '--out', at('unique')]);
      assert.doesNotMatch(without, /more than one image/);
    });
  });

  it('goes on when nobody reads what it says any more', async () => {
    const args = ['tokenize', photos, '--out', at('unheard'), '--shard-size', '2'];
    const command = `"$0" "$@" 2>&1 | head -1; exit \${PIPESTATUS[0]}`;
    const { status } = spawnSync('bash', ['-c', command, process.execPath, program, ...args]);
    assert.equal(status, 0);
    assert.deepEqual(contentOf(at('unheard')), contentOf(at('run')));
    const closed = new Command(['verify', at('unheard')]);
    closed.process.stderr!.destroy();
    assert.equal((await closed.ended()).code, 0);
  });

  it('says in plain words what cannot be', async () => {
    const out = ['--out', at('words')];
    await fail(
      ['tokenize', photos, ...out, '--dtype', 'uint16', '--format', 'parquet'],
      2,
      /^tokenflow: --dtype goes with npy, webdataset and safetensors; parquet /m,
    );
    writeFileSync(at('afile'), '');
    await fail(['tokenize', photos, '--out', at('afile')], 1, /afile': it is a file, not a folder/);
    await fail(
      ['tokenize', photos, '--out', at('afile', 'out')],
      1,
      /afile.out': a part of the path is a file/,
    );
    for (const command of ['verify', 'detokenize']) {
      const more = command === 'verify' ? [] : out;
      await fail([command, at('nothere'), ...more], 1, /there is no folder .*nothere/);
    }
    for (const wrong of ['nonsense', 'http://127.0.0.1', 'redis://']) {
      await fail(['queue', 'status', '--out', at('run'), '--redis', wrong], 2, /--redis.*redis:\/\//);
    }
    assert.ok(!existsSync(at('words')));
    mkdirSync(at('one'));
    writeFileSync(at('one', 'a.png'), await picture(0));
    writeFileSync(at('one', 'b.png'), '');
    const { stderr } = await succeed(['tokenize', at('one'), '--out', at('one-out')]);
    assert.match(stderr, /^1 of 1 shard, 1 image, 1 error \(errors\.jsonl\)/m);
    assert.match((await succeed(['verify', at('one-out')])).stderr, /: 1 shard, 1 image, 1 error;/);
    assert.match(
      (await succeed(['detokenize', at('one-out'), '--out', at('one-images')])).stderr,
      /^1 image,/m,
    );
  });
});

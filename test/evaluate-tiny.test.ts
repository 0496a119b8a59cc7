// tools/evaluate-tiny.mjs: what it says before it downloads, and when it takes what is there.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { writeNpy } from '../lib/checkpoint/npy.js';
import { ImageProcessor } from '../lib/image/processor.js';
import { packageRoot } from '../lib/native.js';

const root = packageRoot();

describe('the evaluation of the bundled model', function () {
  this.timeout(120_000);
  let cache: string;
  before(async () => {
    cache = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-cache-'));
    mkdirSync(path.join(cache, 'heldout'));
    const photo = path.join(root, 'samples', 'raccoon.jpg');
    const { data } = await new ImageProcessor({ size: 128 }).prepare(photo);
    writeNpy(path.join(cache, 'heldout', 'images.npy'), { shape: [1, 128, 128, 3], data });
  });
  after(() => rmSync(cache, { recursive: true }));

  function evaluate() {
    // Without a PATH nothing can be downloaded, so that it ends where the download would begin.
    const env = { PATH: '/nonexistent', TOKENFLOW_TRAIN_CACHE: cache };
    const args = [path.join(root, 'tools', 'evaluate-tiny.mjs')];
    return spawnSync(process.execPath, args, { env, encoding: 'utf8' });
  }

  it('says how much it is about to download, from where and to where', () => {
    const { status, stderr } = evaluate();
    assert.equal(status, 1);
    const [announcement] = stderr.split('\n');
    assert.match(
      announcement,
      /^evaluate:tiny: downloading about \d+ MB with apt-get, .*held-out.*gcompris-qt-data/,
    );
    assert.ok(announcement.includes(cache));
    assert.match(stderr, /fetch\.py did not succeed/);
  });

  it('leaves out what is there', () => {
    mkdirSync(path.join(cache, 'packages', 'gcompris-qt-data'), { recursive: true });
    const { stderr } = evaluate();
    assert.doesNotMatch(stderr.split('\n')[0], /gcompris/);
    const megabytes = (text: string) => Number(/about (\d+) MB/.exec(text)?.[1]);
    rmSync(path.join(cache, 'packages'), { recursive: true });
    assert.ok(megabytes(stderr) < megabytes(evaluate().stderr));
  });

  it('takes prepared photographs only while their list is the one they were made from', () => {
    const list = readFileSync(path.join(root, 'tools', 'train', 'heldout.json'));
    const stamp = path.join(cache, 'heldout', 'heldout.sha256');
    writeFileSync(stamp, createHash('sha256').update(list).digest('hex'));
    const fresh = evaluate();
    assert.equal(fresh.status, 0, fresh.stderr);
    assert.equal(fresh.stderr, '');
    assert.match(fresh.stdout, /^1 held-out photographs at 128 px/);
    assert.match(fresh.stdout, /^PSNR 2\d\.\d\d dB/m);
    writeFileSync(stamp, createHash('sha256').update('another list').digest('hex'));
    const stale = evaluate();
    assert.equal(stale.status, 1);
    assert.match(stale.stderr, /downloading/);
  });
});

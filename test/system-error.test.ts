// What the operating system refuses reads as plain words, whatever part of the package asked.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { openCheckpoint } from '../lib/checkpoint/checkpoint.js';
import { readNpy, writeNpy } from '../lib/checkpoint/npy.js';
import { writePng } from '../lib/image/png.js';
import { systemError, systemReason } from '../lib/system-error.js';
import { readConfig } from '../lib/tokenizer/config.js';

describe('errors of the operating system', () => {
  let folder: string;
  const at = (...names: string[]) => path.join(folder, ...names);
  before(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-io-'));
    writeFileSync(at('file'), 'x');
  });
  after(() => rmSync(folder, { recursive: true }));

  const plain = (message: RegExp) => (error: Error & { code?: string }) => {
    assert.equal(error.code, 'ERR_TOKENFLOW_IO');
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /E[A-Z]{3,}|errno|syscall/);
    assert.ok(error.cause instanceof Error, 'the cause is kept');
    return true;
  };
  const array = { shape: [1], data: new Int32Array(1) };

  it('name the path and the reason', async () => {
    assert.throws(
      () => openCheckpoint('nothere'),
      plain(/^Cannot open 'nothere': there is no such file \(looked for \/.*nothere\)$/),
    );
    assert.throws(() => readNpy(at('none.npy')), plain(/^Cannot open '.*none\.npy': there is no such file$/));
    assert.throws(() => readNpy(at('file', 'x.npy')), plain(/a part of the path is a file, not a folder$/));
    assert.throws(() => readConfig(folder), plain(/^Cannot read '.*': it is a folder$/));
    assert.throws(() => writeNpy(folder, array), plain(/^Cannot write '.*': it is a folder$/));
    assert.throws(
      () => writeNpy(at('no', 'x.npy'), array),
      plain(/^Cannot write '.*': there is no folder \/.*\/no$/),
    );
    const image = { data: new Uint8Array(3), width: 1, height: 1 };
    await assert.rejects(writePng(at('no', 'x.png'), image), plain(/^Cannot write '.*': there is no folder/));
  });

  it('say when a disk is full', function () {
    if (process.platform !== 'linux') return this.skip();
    assert.throws(
      () => writeNpy('/dev/full', array),
      plain(/^Cannot write '\/dev\/full': no space left on the disk$/),
    );
  });

  it('say when permission is denied', function () {
    if (process.getuid?.() === 0) {
      console.log('      skipped: root may do everything');
      return this.skip();
    }
    mkdirSync(at('locked'));
    chmodSync(at('locked'), 0o500);
    assert.throws(() => writeNpy(at('locked', 'x.npy'), array), plain(/permission denied$/));
  });

  it("keep the system's own words where there are no plainer ones", () => {
    const cause = Object.assign(new Error('something rare'), { code: 'ERARE' });
    assert.equal(systemReason('read', 'a', cause), 'something rare');
    assert.equal(
      systemError('write', 'a', Object.assign(new Error('x'), { code: 'EACCES' })).message,
      "Cannot write 'a': permission denied",
    );
  });
});

// `tokenflow inspect` of what `tokenflow tokenize` writes.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { TOKEN_FORMATS } from '../lib/dataset/sink.js';
import { packageRoot } from '../lib/native.js';
import { prepareRun, tokenizeRun } from '../lib/run/tokenize-run.js';
import { run } from './support/command.js';
import { packTar, writePictures } from './support/dataset.js';

const tiny = path.join(packageRoot(), 'models', 'tokenflow-tiny');

describe('inspect of a run', function () {
  this.timeout(120_000);
  let folder: string;
  const at = (...names: string[]) => path.join(folder, ...names);
  const sha256Of = (out: string) =>
    JSON.parse(readFileSync(path.join(out, 'manifest.json'), 'utf8')).model.sha256;
  const inspect = async (file: string, ...more: string[]) => {
    const { code, stdout, stderr } = await run(['inspect', file, ...more]);
    assert.equal(code, 0, stderr);
    return stdout;
  };

  before(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-inspect-'));
    await writePictures(at('photos'), 3);
    for (const format of TOKEN_FORMATS) {
      const request = { sources: [at('photos')], shardSize: 2, settings: { format }, model: tiny };
      await tokenizeRun(await prepareRun(at(format), request, false), { load: {} });
    }
  });
  after(() => rmSync(folder, { recursive: true }));

  it('says what the folder is', async () => {
    const found = JSON.parse(await inspect(at('npy'), '--json'));
    const { kind, complete, images, errors, shards, plannedShards, model, settings } = found;
    assert.deepEqual([kind, complete, images, errors, shards, plannedShards], ['run', true, 3, 0, 2, 2]);
    assert.deepEqual([model.tokensPerImage, model.sha256], [817, sha256Of(at('npy'))]);
    assert.equal(settings.format, 'npy');
    const text = await inspect(at('npy'), '--quiet'); // the answer is no chatter
    assert.match(
      text,
      /a run of tokenflow .*complete\n {2}3 images of 817 tokens each, 0 errors\n {2}2 of 2 shards, npy/,
    );
    assert.ok(text.includes(sha256Of(at('npy'))));
  });

  it('says what a shard of each format is, and of which model', async () => {
    const files = {
      npy: '.ids.jsonl',
      jsonl: '.jsonl',
      parquet: '.parquet',
      webdataset: '.tar',
      safetensors: '.safetensors',
    };
    for (const format of TOKEN_FORMATS) {
      const found = JSON.parse(await inspect(at(format, `shard-000000${files[format]}`), '--json'));
      const { kind, images, tokensPerImage, model } = found;
      assert.deepEqual([kind, found.format, images, tokensPerImage], ['shard', format, 2, [817]]);
      assert.equal(model.sha256, sha256Of(at(format)));
    }
    const text = await inspect(at('webdataset', 'shard-000001.tar'));
    assert.match(text, /a shard of tokens \(webdataset\), 1 image, 817 tokens each\n {2}values \d+ to \d+/);
    const array = JSON.parse(await inspect(at('npy', 'shard-000000.npy'), '--json'));
    assert.deepEqual(
      [array.kind, array.shape, array.model.sha256],
      ['tokens', [2, 817], sha256Of(at('npy'))],
    );
  });

  it('does not take other files of these kinds for shards', async () => {
    writeFileSync(at('photos.tar'), await packTar([['a.png', 'x']]));
    const { code, stderr } = await run(['inspect', at('photos.tar')]);
    assert.equal(code, 1);
    assert.match(stderr, /^tokenflow: .*photos\.tar/);
    const model = JSON.parse(await inspect(path.join(tiny, 'model.safetensors'), '--json'));
    assert.equal(model.kind, 'checkpoint');
  });
});

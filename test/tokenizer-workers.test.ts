import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { native, packageRoot } from '../lib/native.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';

const clipb = path.join(packageRoot(), 'test', 'golden', 'clipb');
const samples = path.join(packageRoot(), 'samples');
const lib = path.join(__dirname, '..', 'lib', 'index.js');

/** Encodes the images over and over: every round's tokens are posted. */
const SCRIPT = `
  const { workerData, parentPort } = require('node:worker_threads');
  const { TokenFlow } = require(workerData.lib);
  (async () => {
    const tokenizer = await TokenFlow.load(workerData.model);
    for (let round = 0; round < workerData.rounds; round++) {
      const images = workerData.images.map((bytes, i) => ({ id: String(i), bytes }));
      const tokens = [];
      for await (const result of tokenizer.encodeStream(images, { batchSize: workerData.batchSize })) {
        tokens.push(result.tokens);
        if (tokens.length === 1) parentPort.postMessage('encoding');
      }
      const both = await tokenizer.encode(workerData.images.slice(0, 2));
      const decoded = await tokenizer.decode(both);
      parentPort.postMessage({ tokens, both: both.tokens, decoded: decoded.data });
    }
    await tokenizer.dispose();
  })();`;

describe('worker threads', function () {
  this.timeout(240_000);
  const images = readdirSync(samples)
    .filter((name) => name.endsWith('.jpg'))
    .map((name) => readFileSync(path.join(samples, name)));

  const start = (options: { rounds: number; batchSize: number }) =>
    new Worker(SCRIPT, { eval: true, workerData: { lib, model: clipb, images, ...options } });

  it('that encode at once, eight of them, give the tokens and images that one thread gives', async () => {
    await using tokenizer = await TokenFlow.load(clipb);
    const encoded = await tokenizer.encode(images);
    const width = tokenizer.tokenCount;
    const expected = images.map((_, i) => encoded.tokens.slice(i * width, (i + 1) * width));
    const both = encoded.tokens.slice(0, 2 * width);
    const decoded = (await tokenizer.decode({ tokens: both, shape: [2, width] })).data;

    const rounds = 2;
    const workers = Array.from({ length: 8 }, (_, i) => start({ rounds, batchSize: i + 1 }));
    const results = await Promise.all(
      workers.map(async (worker) => {
        const posted: { tokens: Int32Array[]; both: Int32Array; decoded: Uint8Array }[] = [];
        worker.on('message', (message) => message !== 'encoding' && posted.push(message));
        const [code] = await once(worker, 'exit');
        assert.equal(code, 0);
        return posted;
      }),
    );
    for (const posted of results) {
      assert.equal(posted.length, rounds);
      for (const result of posted) assert.deepEqual(result, { tokens: expected, both, decoded });
    }
  });

  it('that are terminated in mid-batch leak nothing and crash nothing', async () => {
    await using tokenizer = await TokenFlow.load(clipb);
    const { tokens } = await tokenizer.encode(images);
    let late = 0; // how long after its first tokens a worker is terminated, in milliseconds
    const terminated = async () => {
      const worker = start({ rounds: 1e9, batchSize: 4 });
      await once(worker, 'message');
      await sleep(late++ % 13);
      await worker.terminate();
    };
    /** Memory once whatever the workers held can have gone, the least of a few looks. */
    const resident = async () => {
      const looks = [];
      for (let i = 0; i < 5; i++) {
        await sleep(20);
        global.gc?.();
        looks.push(process.memoryUsage.rss());
      }
      return Math.min(...looks);
    };
    const wave = async () => {
      // Beside them this thread goes on with its own work.
      const [own] = await Promise.all([tokenizer.encode(images), ...[0, 1, 2, 3].map(terminated)]);
      assert.deepEqual(own.tokens, tokens);
    };
    for (let i = 0; i < 2; i++) await wave();
    const before = await resident();
    for (let i = 0; i < 5; i++) await wave();
    const grown = (await resident()) - before;
    assert.equal(native().pending(), 0);
    assert.deepEqual((await tokenizer.encode(images)).tokens, tokens);
    // One worker's model, programs and images are some 30 MB: 20 of them left behind would be plain to see.
    assert.ok(grown < 120 * 2 ** 20, `${(grown / 2 ** 20).toFixed(1)} MiB after 20 workers`);
  });
});

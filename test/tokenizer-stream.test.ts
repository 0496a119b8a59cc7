import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Duplex, Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import sharp from 'sharp';
import { TokenFlowError } from '../lib/errors.js';
import { ImageProcessor } from '../lib/image/processor.js';
import { native, packageRoot } from '../lib/native.js';
import {
  encodeStream,
  type StreamEncoder,
  type StreamItem,
  type StreamResult,
} from '../lib/tokenizer/stream.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';

const clipb = path.join(packageRoot(), 'test', 'golden', 'clipb');
const samples = path.join(packageRoot(), 'samples');

/** Deterministic noise, so that images differ. */
function noise(seed: number, width = 64, height = width) {
  let state = seed * 2654435761 + 1;
  const data = Uint8Array.from({ length: width * height * 3 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
  return { data, width, height };
}

const item = (seed: number): StreamItem<{ seed: number }> => ({
  id: `image ${seed}`,
  pixels: noise(seed),
  meta: { seed },
});
const items = (count: number) => Array.from({ length: count }, (_, seed) => item(seed));

async function collect<T>(results: AsyncIterable<T>): Promise<T[]> {
  const all = [];
  for await (const result of results) all.push(result);
  return all;
}

function hasCode(code: string, message?: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof TokenFlowError, `${(error as Error)?.stack}`);
    assert.equal(error.code, code, error.stack);
    if (message) assert.match(error.message, message);
    return true;
  };
}

/** A source that tells how it is used. */
class Watched {
  given = 0;
  closed = false;
  readonly #count: number;
  readonly #before: (index: number) => unknown;

  constructor(count: number, before: (index: number) => unknown = () => {}) {
    this.#count = count;
    this.#before = before;
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (let i = 0; i < this.#count; i++) {
        await this.#before(i);
        this.given++;
        yield item(i);
      }
    } finally {
      this.closed = true;
    }
  }
}

describe('a stream of images', function () {
  this.timeout(240_000);
  let tokenizer: TokenFlow;
  let expected: Int32Array[];
  const count = 40;

  before(async () => {
    tokenizer = await TokenFlow.load(clipb, { batchSize: 4 });
    const images = items(count).map(({ pixels }) => pixels!);
    const { tokens, shape } = await tokenizer.encode(images);
    expected = images.map((_, i) => tokens.slice(i * shape[1], (i + 1) * shape[1]));
  });
  after(() => tokenizer.dispose());

  const checked = (results: readonly StreamResult<{ seed: number }>[], wanted = count) => {
    assert.equal(results.length, wanted);
    for (const { id, tokens, width, height, meta } of results) {
      assert.equal(id, `image ${meta!.seed}`);
      assert.deepEqual([width, height], [64, 64]);
      assert.deepEqual(tokens, expected[meta!.seed]);
    }
    return results.map(({ meta }) => meta!.seed);
  };
  const inOrder = Array.from({ length: count }, (_, i) => i);

  it('gives the tokens of encode, in the order of the source', async () => {
    assert.deepEqual(checked(await collect(tokenizer.encodeStream(items(count)))), inOrder);
    assert.deepEqual(await collect(tokenizer.encodeStream([])), []);
  });

  it('gives the same whatever the batches, the limits and the pace of the source are', async () => {
    const choices = fc.record({
      batchSize: fc.integer({ min: 1, max: 9 }),
      maxDecoded: fc.option(fc.integer({ min: 1, max: 30 }), { nil: undefined }),
      ordered: fc.boolean(),
      pace: fc.constantFrom('at once', 'late', 'in bursts'),
      consumer: fc.constantFrom('fast', 'slow'),
    });
    await fc.assert(
      fc.asyncProperty(choices, async ({ batchSize, maxDecoded, ordered, pace, consumer }) => {
        const source = new Watched(count, (i) => {
          if (pace === 'late') return sleep(1);
          return pace === 'in bursts' && i % 7 === 0 ? sleep(5) : undefined;
        });
        const results = [];
        for await (const result of tokenizer.encodeStream(source, { batchSize, maxDecoded, ordered })) {
          results.push(result);
          if (consumer === 'slow' && results.length % 5 === 0) await sleep(2);
        }
        const order = checked(results as StreamResult<{ seed: number }>[]);
        assert.deepEqual(ordered ? order : [...order].sort((a, b) => a - b), inOrder);
        assert.ok(source.closed);
      }),
      { numRuns: 8, seed: 3 },
    );
  });

  it('takes bytes, pixels, paths, URLs and functions that read', async () => {
    const [file, other] = readdirSync(samples)
      .filter((name) => name.endsWith('.jpg'))
      .map((name) => path.join(samples, name));
    const bytes = readFileSync(file);
    const { width, height } = await sharp(bytes).metadata();
    const results = await collect(
      tokenizer.encodeStream([
        { id: 'path', path: file },
        { id: 'url', path: pathToFileURL(file) },
        { id: 'bytes', bytes },
        { id: 'load', load: async () => bytes, meta: 'kept' },
        { id: 'other', path: other },
      ]),
    );
    const { tokens } = await tokenizer.encode([file, other]);
    for (const result of results.slice(0, 4)) {
      assert.deepEqual(result.tokens, tokens.slice(0, tokenizer.tokenCount));
      assert.deepEqual([result.width, result.height], [width, height]);
    }
    assert.deepEqual(results[4].tokens, tokens.slice(tokenizer.tokenCount));
    assert.deepEqual(
      results.map(({ id, meta }) => [id, meta]),
      [
        ['path', undefined],
        ['url', undefined],
        ['bytes', undefined],
        ['load', 'kept'],
        ['other', undefined],
      ],
    );
    const squashed = await collect(tokenizer.encodeStream([{ id: 'a', bytes }], { fit: 'squash' }));
    assert.deepEqual(squashed[0].tokens, (await tokenizer.encode(bytes, { fit: 'squash' })).tokens);
  });

  it('never has more images in memory than it may, and never runs ahead of whoever takes', async () => {
    for (const maxDecoded of [1, 8]) {
      const source = new Watched(200);
      let taken = 0;
      let most = 0;
      for await (const _ of tokenizer.encodeStream(source, { maxDecoded })) {
        taken++;
        most = Math.max(most, source.given - taken);
        if (taken === 10) {
          await sleep(150); // long enough for everything that does run ahead
          // Those in memory, as many results that wait, and the item that was on its way.
          assert.ok(source.given - taken <= 2 * maxDecoded + 1, `${source.given} given, ${taken} taken`);
        }
        if (taken === 40) break;
      }
      assert.ok(most <= 2 * maxDecoded + 1, `${most} with at most ${maxDecoded} decoded`);
      assert.ok(source.closed);
    }

    // Of the images themselves, while nothing is computed: loaded or decoded but without tokens.
    let loading = 0;
    let mostLoading = 0;
    const bytes = await sharp(noise(1, 300).data, { raw: { width: 300, height: 300, channels: 3 } })
      .jpeg()
      .toBuffer();
    const load = async () => {
      loading++;
      mostLoading = Math.max(mostLoading, loading);
      await sleep(1);
      return bytes;
    };
    const source = Array.from({ length: 60 }, (_, i) => ({ id: `${i}`, load }));
    for await (const _ of tokenizer.encodeStream(source, { maxDecoded: 6, ordered: false })) loading--;
    assert.ok(mostLoading <= 12, `${mostLoading} images before their results were taken`);
  });

  describe('over a computation that the test ends by hand', () => {
    const runs: { count: number; end: (error?: Error) => void; signal: AbortSignal }[] = [];
    const encoder: StreamEncoder = {
      processor: new ImageProcessor({ size: 16 }),
      batchSize: 4,
      encode: (_, runCount, signal) =>
        new Promise((resolve, reject) => {
          const end = (error?: Error) => (error ? reject(error) : resolve(new Int32Array(runCount * 2)));
          runs.push({ count: runCount, end, signal });
        }),
    };
    beforeEach(() => {
      runs.length = 0;
    });

    /** Waits for what must come, and then a little for what must not. */
    async function until(condition: () => boolean): Promise<void> {
      const end = Date.now() + 10_000;
      while (!condition() && Date.now() < end) await sleep(1);
      await sleep(30);
      assert.ok(condition());
    }

    it('has the next runs waiting while one is computed', async () => {
      const results = collect(encodeStream(encoder, new Watched(22), {}));
      for (let ended = 0; ended < 3; ended++) {
        await until(() => runs.length === ended + 3);
        runs[ended].end();
        // The next one is there without anything being read or decoded first.
        if (ended < 2) await until(() => runs.length === ended + 4);
      }
      runs[3].end();
      runs[4].end();
      await until(() => runs.length === 6);
      runs[5].end();
      assert.equal((await results).length, 22);
      assert.deepEqual(
        runs.map((run) => run.count),
        [4, 4, 4, 4, 4, 2],
      );
    });

    it('has no more images in memory than it may', async () => {
      for (const maxDecoded of [1, 3, 4, 11, 16]) {
        runs.length = 0;
        const source = new Watched(50);
        const stream = encodeStream(encoder, source, { maxDecoded });
        const first = stream.next();
        await until(() => source.given === maxDecoded);
        runs[0].end();
        await first;
        // Its results wait, images in memory are as many as before.
        await until(() => source.given === maxDecoded + runs[0].count);
        await stream.return();
        assert.ok(runs.every(({ signal }) => signal.aborted));
        assert.ok(source.closed);
      }
    });

    it('has no more results waiting than images in memory', async () => {
      const source = new Watched(200);
      const stream = encodeStream(encoder, source, { maxDecoded: 8 });
      const first = stream.next();
      for (let ended = 0; ended < 3; ended++) {
        await until(() => runs.length > ended);
        runs[ended].end();
      }
      await first;
      await sleep(50);
      assert.ok(source.given <= 1 + 2 * 8 + 1, `${source.given} given, one taken`);
      await stream.return();
    });

    it('ends with the error of a run', async () => {
      const source = new Watched(50);
      const results = collect(encodeStream(encoder, source, {}));
      await until(() => runs.length === 3);
      runs[0].end(new RangeError('no memory'));
      await assert.rejects(results, /no memory/);
      assert.ok(runs[1].signal.aborted);
      assert.ok(source.closed);
    });
  });

  it('does not wait for more where the source waits for a result', async () => {
    // Each image comes only after the result of the one before: nothing may wait for a full batch.
    let release = () => {};
    const source = new Watched(10, (i) => {
      if (i === 0) return undefined;
      return new Promise<void>((resolve) => {
        release = resolve;
      });
    });
    const results = [];
    for await (const result of tokenizer.encodeStream(source, { batchSize: 8 })) {
      results.push(result);
      release();
    }
    checked(results as StreamResult<{ seed: number }>[], 10);
  });

  describe('with images that cannot be read', () => {
    const broken = (position: number) => position % 5 === 2;
    const mixed = () =>
      items(count).map((good, i) =>
        broken(i) ? { id: good.id, bytes: Buffer.from('no image'), meta: good.meta } : good,
      );

    it('tells onError in their turn and goes on', async () => {
      const seen: string[] = [];
      const results = [];
      const stream = tokenizer.encodeStream(mixed(), {
        onError: async (error, { id, meta }) => {
          await sleep(1);
          assert.equal(error.code, 'ERR_TOKENFLOW_IMAGE');
          assert.match(error.message, new RegExp(`'${id}'`));
          assert.equal(id, `image ${(meta as { seed: number }).seed}`);
          seen.push(id);
        },
      });
      for await (const result of stream) {
        results.push(result);
        seen.push(result.id);
      }
      assert.deepEqual(
        checked(results as StreamResult<{ seed: number }>[], 32),
        inOrder.filter((i) => !broken(i)),
      );
      assert.deepEqual(
        seen,
        inOrder.map((i) => `image ${i}`),
      );
    });

    it('throws an error that names the image, after the results before it, unless onError is there', async () => {
      for (const ordered of [true, false]) {
        const results: StreamResult[] = [];
        await assert.rejects(
          async () => {
            for await (const result of tokenizer.encodeStream(mixed(), { ordered })) results.push(result);
          },
          hasCode('ERR_TOKENFLOW_IMAGE', /'image 2'/),
        );
        if (ordered)
          assert.deepEqual(
            results.map(({ id }) => id),
            ['image 0', 'image 1'],
          );
      }
      await assert.rejects(
        collect(
          tokenizer.encodeStream(mixed(), {
            onError: () => {
              throw new RangeError('enough');
            },
          }),
        ),
        /enough/,
      );
      await assert.rejects(
        collect(tokenizer.encodeStream([{ id: 'gone.jpg', path: '/nowhere/gone.jpg' }])),
        hasCode('ERR_TOKENFLOW_IO', /gone\.jpg.*no such file/),
      );
      const failing = [{ id: 'far.jpg', load: () => Promise.reject(new Error('503')) }];
      await assert.rejects(
        collect(tokenizer.encodeStream(failing)),
        hasCode('ERR_TOKENFLOW_IO', /'far\.jpg': 503/),
      );
    });

    it('does so for every kind of bad image, and encodes every kind of odd one', async () => {
      const photo = readFileSync(path.join(samples, 'chelsea-cat.jpg'));
      const image = (width: number, height: number) =>
        sharp(noise(5, width, height).data, { raw: { width, height, channels: 3 } });
      const frames = await sharp(
        await Promise.all(
          [1, 2].map((seed) =>
            sharp(noise(seed, 40).data, { raw: { width: 40, height: 40, channels: 3 } })
              .png()
              .toBuffer(),
          ),
        ),
        { join: { animated: true } },
      )
        .gif()
        .toBuffer();
      const wide16 = Uint16Array.from({ length: 90 * 70 * 3 }, (_, i) => (i * 7919) % 65536);
      const pixels16 = sharp(wide16, { raw: { width: 90, height: 70, channels: 3 } });
      const good: Record<string, { bytes: Buffer; width: number; height: number }> = {
        'cmyk.jpg': {
          bytes: await image(90, 70).toColourspace('cmyk').jpeg().toBuffer(),
          width: 90,
          height: 70,
        },
        '16-bit.png': {
          bytes: await pixels16.toColourspace('rgb16').png().toBuffer(),
          width: 90,
          height: 70,
        },
        'palette.png': {
          bytes: await image(90, 70).png({ palette: true }).toBuffer(),
          width: 90,
          height: 70,
        },
        'animated.gif': { bytes: frames, width: 40, height: 40 },
        'turned.jpg': {
          bytes: await image(90, 70).jpeg().withMetadata({ orientation: 6 }).toBuffer(),
          width: 70,
          height: 90,
        },
        '1x1.png': { bytes: await image(1, 1).png().toBuffer(), width: 1, height: 1 },
        '1x20000.png': { bytes: await image(1, 20000).png().toBuffer(), width: 1, height: 20000 },
      };
      assert.equal((await sharp(good['16-bit.png'].bytes).metadata()).depth, 'ushort');
      assert.equal((await sharp(good['palette.png'].bytes).metadata()).isPalette, true);
      assert.equal((await sharp(good['animated.gif'].bytes).metadata()).pages, 2);
      const bad: Record<string, { bytes: Buffer; message: RegExp }> = {
        'empty.jpg': { bytes: Buffer.alloc(0), message: /no bytes/ },
        'truncated.jpg': { bytes: photo.subarray(0, photo.length >> 1), message: /damaged or cut off/ },
        'text.png': { bytes: Buffer.from('This is no picture.'), message: /no format that can be read/ },
        'bomb.png': {
          bytes: await sharp({
            create: { width: 1500, height: 1500, channels: 3, background: '#123456' },
            limitInputPixels: false,
          })
            .png({ compressionLevel: 9, palette: true, colours: 2 })
            .toBuffer(),
          message: /at most 1000000 pixels.*1500 x 1500.*--max-pixels/,
        },
      };
      const names = [...Object.keys(good), ...Object.keys(bad)].sort();
      const source = names.map((id) => ({ id, bytes: (good[id] ?? bad[id]).bytes }));
      const errors = new Map<string, TokenFlowError>();
      const results = await collect(
        tokenizer.encodeStream(source, {
          maxPixels: 1_000_000,
          onError: (error, { id }) => void errors.set(id, error),
        }),
      );
      assert.deepEqual([...errors.keys()], Object.keys(bad).sort());
      for (const [id, { message }] of Object.entries(bad)) {
        hasCode('ERR_TOKENFLOW_IMAGE', message)(errors.get(id));
        assert.ok(errors.get(id)!.message.includes(`'${id}'`));
      }
      assert.deepEqual(
        results.map(({ id }) => id),
        Object.keys(good).sort(),
      );
      for (const { id, tokens, width, height } of results) {
        assert.deepEqual([width, height], [good[id].width, good[id].height], id);
        assert.deepEqual(tokens, (await tokenizer.encode(good[id].bytes)).tokens, id);
      }
    });
  });

  it('refuses wrong arguments and items at once', async () => {
    for (const source of [undefined, null, 5, {}, 'path.jpg']) {
      assert.throws(
        () => tokenizer.encodeStream(source as never),
        hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT', /source/),
      );
    }
    for (const options of [
      { batchSize: 0 },
      { maxDecoded: 1.5 },
      { ordered: 1 },
      { onError: 'ignore' },
      { fit: 'stretch' },
      { batchsize: 4 },
    ]) {
      assert.throws(
        () => tokenizer.encodeStream([], options as never),
        hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT'),
      );
      assert.throws(
        () => tokenizer.createEncodeStream(options as never),
        hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT'),
      );
    }
    for (const wrong of [
      5,
      null,
      {},
      { id: 7, pixels: noise(1) },
      { id: 'a' },
      { id: 'a', pixels: noise(1), path: 'a' },
    ]) {
      const onError = () => assert.fail('an item that is none is no broken image');
      await assert.rejects(
        collect(tokenizer.encodeStream([wrong as never], { onError })),
        hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT', /bytes.*pixels.*path.*load/),
      );
    }
  });

  it("ends with the source's error, after the images before it", async () => {
    async function* source() {
      yield item(0);
      yield item(1);
      throw new RangeError('the disk is gone');
    }
    const results: StreamResult[] = [];
    await assert.rejects(async () => {
      for await (const result of tokenizer.encodeStream(source())) results.push(result);
    }, /the disk is gone/);
    assert.deepEqual(
      results.map(({ id }) => id),
      ['image 0', 'image 1'],
    );
  });

  it('ends with ERR_TOKENFLOW_DISPOSED when the tokenizer is disposed of', async () => {
    const own = await TokenFlow.load(clipb);
    const source = new Watched(1e6);
    await assert.rejects(async () => {
      for await (const { id } of own.encodeStream(source)) if (id === 'image 20') void own.dispose();
    }, hasCode('ERR_TOKENFLOW_DISPOSED'));
    assert.ok(source.closed);
  });

  describe('that is ended early', () => {
    /** Nothing of the stream is left at work. */
    async function quiet(): Promise<void> {
      const until = Date.now() + 2000;
      while (native().pending() > 0 && Date.now() < until) await sleep(1);
      assert.equal(native().pending(), 0);
    }

    it('by break closes the source and leaves nothing at work', async () => {
      const source = new Watched(1e6);
      for await (const { id } of tokenizer.encodeStream(source)) if (id === 'image 9') break;
      assert.ok(source.closed);
      const { given } = source;
      await quiet();
      await sleep(50);
      assert.equal(source.given, given);
    });

    it('by its signal is ended promptly, at any moment', async () => {
      for (let run = 0; run < 30; run++) {
        const controller = new AbortController();
        const reason = new Error(`run ${run}`);
        const source = new Watched(1e6);
        let aborted = 0;
        setTimeout(() => {
          aborted = performance.now();
          controller.abort(reason);
        }, run * 2);
        await assert.rejects(async () => {
          for await (const _ of tokenizer.encodeStream(source, { signal: controller.signal })) await sleep(0);
        }, reason);
        const took = performance.now() - aborted;
        assert.ok(took < 1000, `${took} ms`);
        await quiet();
      }
      await assert.rejects(
        collect(tokenizer.encodeStream(items(3), { signal: AbortSignal.abort(new Error('before')) })),
        /before/,
      );
    });

    it('by its signal does not wait for a source that hangs, nor for a load', async () => {
      for (const source of [
        new Watched(10, (i) => (i === 3 ? new Promise(() => {}) : undefined)),
        [{ id: 'hangs', load: () => new Promise<Uint8Array>(() => {}) }],
      ]) {
        const signal = AbortSignal.timeout(100);
        const started = performance.now();
        await assert.rejects(collect(tokenizer.encodeStream(source, { signal })), { name: 'TimeoutError' });
        assert.ok(performance.now() - started < 1500);
      }
    });

    it('by its signal gives load a signal that is aborted too', async () => {
      const controller = new AbortController();
      let given: AbortSignal | undefined;
      const load = (signal?: AbortSignal) => {
        given = signal;
        return new Promise<Uint8Array>(() => {});
      };
      const results = collect(tokenizer.encodeStream([{ id: 'a', load }], { signal: controller.signal }));
      await sleep(20);
      controller.abort();
      await assert.rejects(results, { name: 'AbortError' });
      assert.ok(given!.aborted);
    });

    it('lets go of its source, items and results, however it ends', async () => {
      setFlagsFromString('--expose-gc');
      const collectGarbage = runInNewContext('gc') as () => void;
      const lasting = new AbortController(); // outlives every stream that heeds it
      const endings = [
        'end',
        'break',
        'abort',
        'image error',
        'source error',
        'never taken',
        'destroy',
      ] as const;
      const held: { ending: string; what: string; object: WeakRef<object> }[] = [];
      const round = async (ending: (typeof endings)[number]) => {
        const controller = new AbortController();
        const signal = ending === 'abort' ? controller.signal : lasting.signal;
        const hold = <T extends object>(what: string, object: T): T => {
          held.push({ ending, what, object: new WeakRef(object) });
          return object;
        };
        async function* source() {
          for (let i = 0; i < 10; i++) {
            if (ending === 'source error' && i === 5) throw new RangeError('gone');
            yield hold(
              'item',
              ending === 'image error' && i === 5 ? { ...item(i), pixels: noise(1, 0) } : item(i),
            );
          }
        }
        const given = hold('source', source());
        if (ending === 'destroy') {
          const stream = hold('stream', tokenizer.createEncodeStream({ signal }));
          for await (const each of given) stream.write(each);
          await once(stream, 'data');
          stream.destroy();
          await once(stream, 'close');
          return;
        }
        const results = hold('stream', tokenizer.encodeStream(given, { signal }));
        if (ending === 'never taken') return;
        try {
          for await (const result of results) {
            hold('result', result);
            if (ending === 'break' && result.id === 'image 3') break;
            if (ending === 'abort' && result.id === 'image 3') controller.abort();
          }
          assert.ok(ending === 'end' || ending === 'break');
        } catch {
          assert.ok(!(ending === 'end' || ending === 'break'));
        }
      };
      for (const ending of endings) await round(ending);
      await quiet();
      const alive = () => held.filter(({ object }) => object.deref() !== undefined);
      for (const until = Date.now() + 5000; alive().length > 0 && Date.now() < until; ) {
        await sleep(10);
        collectGarbage();
      }
      assert.deepEqual(
        alive().map(({ ending, what }) => `${what}, ${ending}`),
        [],
      );
      assert.ok(held.length > 80);
      assert.equal(getEventListeners(lasting.signal, 'abort').length, 0);
    });
  });

  describe('as a Node stream', () => {
    it('is a Transform of objects', async () => {
      const stream = tokenizer.createEncodeStream<{ seed: number }>({ batchSize: 4 });
      assert.ok(stream instanceof Transform);
      const results: StreamResult<{ seed: number }>[] = [];
      await pipeline(Readable.from(items(count)), stream, async (source: AsyncIterable<StreamResult>) => {
        for await (const result of source) results.push(result as StreamResult<{ seed: number }>);
      });
      assert.deepEqual(checked(results), inOrder);
    });

    it('holds its writer back while nobody reads', async () => {
      const stream = tokenizer.createEncodeStream({ batchSize: 2, maxDecoded: 4 });
      let written = 0;
      const writer = (async () => {
        for (; written < 100; written++)
          if (!stream.write(item(written % count))) await once(stream, 'drain');
        stream.end();
      })();
      await sleep(300);
      // Its two buffers, results that wait, images in memory, and one between.
      assert.ok(written <= 2 + 2 + 4 + 4 + 2, `${written} written`);
      assert.ok(written >= 4);
      assert.equal((await collect(stream)).length, 100);
      await writer;
    });

    it('answers each item where the next is written only then', async () => {
      const stream = tokenizer.createEncodeStream<{ seed: number }>({ batchSize: 8 });
      const results: StreamResult<{ seed: number }>[] = [];
      for (let i = 0; i < 5; i++) {
        stream.write(item(i));
        const [result] = await once(stream, 'data');
        results.push(result);
      }
      stream.end();
      await once(stream, 'end');
      checked(results, 5);
    });

    it('is destroyed with the error of an image, of its source, or by its signal', async () => {
      const drop = async (source: AsyncIterable<unknown>) => {
        for await (const _ of source);
      };
      const broken = Readable.from([item(0), { id: 'b.jpg', bytes: Buffer.from('x') }, item(1)]);
      await assert.rejects(
        pipeline(broken, tokenizer.createEncodeStream(), drop),
        hasCode('ERR_TOKENFLOW_IMAGE', /'b\.jpg'/),
      );
      assert.ok(broken.destroyed);
      const failing = Readable.from(
        (async function* () {
          yield item(0);
          throw new RangeError('gone');
        })(),
      );
      await assert.rejects(pipeline(failing, tokenizer.createEncodeStream(), drop), /gone/);
      const controller = new AbortController();
      setTimeout(() => controller.abort(new Error('stop')), 30);
      const endless = Readable.from(new Watched(1e6));
      await assert.rejects(
        pipeline(endless, tokenizer.createEncodeStream({ signal: controller.signal }), drop),
        /stop/,
      );
      const stream = tokenizer.createEncodeStream();
      stream.write(item(0));
      stream.destroy();
      await once(stream, 'close');
    });

    it('goes into Web streams', async () => {
      const web = Readable.toWeb(Readable.from(tokenizer.encodeStream(items(count))));
      const results = [];
      for await (const result of web) results.push(result);
      assert.deepEqual(checked(results as StreamResult<{ seed: number }>[]), inOrder);

      const { readable, writable } = Duplex.toWeb(tokenizer.createEncodeStream());
      const through = Readable.toWeb(Readable.from(items(count))).pipeThrough({
        readable,
        writable,
      } as never);
      const piped = [];
      for await (const result of through as AsyncIterable<unknown>) piped.push(result);
      assert.deepEqual(checked(piped as StreamResult<{ seed: number }>[]), inOrder);

      const fromWeb = tokenizer.encodeStream(
        Readable.toWeb(Readable.from(items(count))) as AsyncIterable<StreamItem>,
      );
      assert.deepEqual(checked((await collect(fromWeb)) as StreamResult<{ seed: number }>[]), inOrder);
    });
  });
});

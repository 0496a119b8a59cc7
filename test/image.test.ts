import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { TokenFlowError } from '../lib/errors.js';
import { decode } from '../lib/image/decode.js';
import { toPng, writePng } from '../lib/image/png.js';
import { type Fit, ImageProcessor, type ImageProcessorOptions } from '../lib/image/processor.js';
import { psnr, ssim } from '../lib/image/quality.js';
import type { ImageSource, RawImage } from '../lib/image/source.js';
import { packageRoot } from '../lib/native.js';
import { prepareReference } from './image-reference.js';

const FIXTURES = path.join(packageRoot(), 'test', 'fixtures', 'image');
const SAMPLES = path.join(packageRoot(), 'samples');

interface Prepared {
  fit: Fit;
  size: number;
  sha256: string;
}
/** What Pillow makes of everything; written by tools/fixtures/image.py. */
const expected: {
  decoded: Record<string, Prepared & { width: number; height: number }>;
  photographs: { file: string; decoded: string; prepared: Prepared[] }[];
  generated: (Prepared & { seed: number; width: number; height: number })[];
  quality: { name: string; psnr: number; ssim: number }[];
} = JSON.parse(readFileSync(path.join(FIXTURES, 'expected.json'), 'utf8'));

const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');
const fixture = (name: string) => path.join(FIXTURES, name);
const sample = (name: string) => path.join(SAMPLES, name);

/** The pixels of `noise` in tools/fixtures/image.py. */
function noise(width: number, height: number, seed: number): RawImage & { data: Uint8Array } {
  const data = new Uint8Array(width * height * 3);
  let state = seed >>> 0;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = state >>> 24;
  }
  return { data, width, height };
}

function readNpyBytes(name: string): Uint8Array {
  const file = readFileSync(fixture(name));
  return file.subarray(10 + file.readUInt16LE(8));
}

async function rejection(work: Promise<unknown>): Promise<TokenFlowError> {
  const error = await work.then(
    () => assert.fail('expected a rejection'),
    (e: unknown) => e,
  );
  assert.ok(error instanceof TokenFlowError, `not a TokenFlowError: ${error}`);
  assert.doesNotMatch(error.message, /\n/);
  return error;
}

const prepare = (source: ImageSource, options: ImageProcessorOptions) =>
  new ImageProcessor(options).prepare(source);

describe('resizing', () => {
  it('equals Pillow on generated pixels in every fit', () => {
    for (const { seed, width, height, fit, size, sha256: wanted } of expected.generated) {
      const { data } = new ImageProcessor({ size, fit }).prepareSync(noise(width, height, seed));
      assert.equal(sha256(data), wanted, `${width} x ${height} ${fit} to ${size}`);
    }
  });

  for (const { file, decoded, prepared } of expected.photographs) {
    it(`equals Pillow on ${file}`, async () => {
      const pixels = await decode(readFileSync(sample(file)), file, 1e9);
      assert.equal(sha256(pixels.data), decoded, 'decoding');
      for (const { fit, size, sha256: wanted } of prepared) {
        const { data, width, height } = await prepare(sample(file), { fit, size });
        assert.deepEqual([width, height, data.length], [size, size, size * size * 3]);
        assert.equal(sha256(data), wanted, `${fit} to ${size}`);
      }
    });
  }

  it('equals the arrays that Pillow wrote', async () => {
    for (const [name, fit] of [
      ['raccoon', 'crop'],
      ['rocket-launch', 'pad'],
    ] as const) {
      const { data } = await prepare(sample(`${name}.jpg`), { fit, size: 128 });
      assert.deepEqual(Buffer.from(data), readNpyBytes(`${name}-${fit}-128.npy`));
    }
  });

  it('equals the definition for any shape, layout and size', () => {
    const image = fc
      .record({
        width: fc.integer({ min: 1, max: 90 }),
        height: fc.integer({ min: 1, max: 90 }),
        channels: fc.constantFrom(1, 2, 3, 4) as fc.Arbitrary<1 | 2 | 3 | 4>,
      })
      .chain(({ width, height, channels }) =>
        fc.record({
          width: fc.constant(width),
          height: fc.constant(height),
          channels: fc.constant(channels),
          data: fc.uint8Array({
            minLength: width * height * channels,
            maxLength: width * height * channels,
          }),
        }),
      );
    fc.assert(
      fc.property(
        image,
        fc.constantFrom<Fit>('crop', 'squash', 'pad'),
        fc.integer({ min: 1, max: 40 }),
        (raw, fit, size) => {
          const { data } = new ImageProcessor({ size, fit }).prepareSync(raw);
          assert.deepEqual(data, prepareReference(raw, fit, size));
        },
      ),
      { numRuns: 200, seed: 7 },
    );
  });

  it('keeps a picture of the right size as it is', () => {
    const raw = noise(31, 31, 5);
    for (const fit of ['crop', 'squash', 'pad'] as const) {
      assert.deepEqual(new ImageProcessor({ size: 31, fit }).prepareSync(raw).data, raw.data);
    }
  });

  it('gives the same pixels on the calling thread and off it', async () => {
    const raw = noise(123, 77, 9);
    const processor = new ImageProcessor({ size: 48 });
    assert.deepEqual(await processor.prepare(raw), processor.prepareSync(raw));
  });
});

describe('image files', () => {
  for (const [name, { fit, size, sha256: wanted, width, height }] of Object.entries(expected.decoded)) {
    it(`${name} decodes to Pillow's pixels`, async () => {
      const pixels = await decode(readFileSync(fixture(name)), name, 1e9);
      assert.deepEqual([pixels.width, pixels.height], [width, height]);
      assert.equal(sha256((await prepare(fixture(name), { fit, size })).data), wanted);
    });
  }

  it('are taken as a path, a URL, a Buffer, a view or an ArrayBuffer', async () => {
    const file = fixture('plain.png');
    const bytes = readFileSync(file);
    const shifted = new Uint8Array(bytes.length + 9);
    shifted.set(bytes, 5);
    const wanted = await prepare(file, { size: 16 });
    for (const source of [
      pathToFileURL(file),
      bytes,
      shifted.subarray(5, 5 + bytes.length),
      new Uint8Array(bytes).buffer,
    ]) {
      assert.deepEqual(await prepare(source, { size: 16 }), wanted);
    }
  });

  it('of hostile shapes are prepared quickly', async () => {
    for (const name of ['1x1.png', '1x20000.png', '20000x1.png']) {
      for (const fit of ['crop', 'squash', 'pad'] as const) {
        const started = performance.now();
        const { data } = await prepare(fixture(name), { fit, size: 256 });
        assert.equal(data.length, 256 * 256 * 3);
        assert.ok(performance.now() - started < 5000, `${name} ${fit}`);
      }
    }
  });

  it('with more pixels than allowed are refused before they are decoded', async () => {
    const before = process.memoryUsage().rss;
    const error = await rejection(prepare(fixture('bomb.png'), { size: 64 }));
    assert.equal(error.code, 'ERR_TOKENFLOW_IMAGE');
    assert.match(
      error.message,
      /at most 178956970 pixels but '.*bomb\.png' has 20000 x 20000 = 400000000; raise maxPixels/,
    );
    assert.ok(process.memoryUsage().rss - before < 100e6, 'memory was spent on it');

    const small = await rejection(prepare(fixture('plain.png'), { size: 8, maxPixels: 40 * 28 - 1 }));
    assert.match(small.message, /at most 1119 pixels but .* has 40 x 28 = 1120/);
    await prepare(fixture('plain.png'), { size: 8, maxPixels: 40 * 28 });
    const raw = await rejection(prepare(noise(10, 10, 1), { size: 8, maxPixels: 99 }));
    assert.equal(raw.code, 'ERR_TOKENFLOW_IMAGE');
  });

  it('that cannot be read name the path', async () => {
    const missing = await rejection(prepare('no/such/photo.jpg', { size: 8 }));
    assert.equal(missing.code, 'ERR_TOKENFLOW_IO');
    assert.match(
      missing.message,
      /^Cannot read 'no\/such\/photo\.jpg': there is no such file \(looked for \/.*\)$/,
    );
    assert.match(
      (await rejection(prepare(FIXTURES, { size: 8 }))).message,
      /^Cannot read '.*': it is a folder$/,
    );
    const remote = await rejection(prepare('https://example.org/a.jpg', { size: 8 }));
    assert.match(remote.message, /fetch it and pass its bytes/);
    assert.equal(
      (await rejection(prepare(new URL('https://example.org/a.jpg'), { size: 8 }))).message,
      remote.message,
    );
  });

  it('that are none are called so', async () => {
    for (const [bytes, wanted] of [
      [Buffer.alloc(0), /^Cannot decode the image \(a Buffer of 0 bytes\): it has no bytes$/],
      [Buffer.from('just some text'), /no format that can be read .* its first bytes are "just some te"$/],
      [Buffer.from('BM\0\0\0\0'), /: it is a BMP image; JPEG, PNG, WebP, GIF, TIFF and AVIF can be read$/],
      [Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'latin1'), /it is a HEIC image/],
      [Buffer.from('\0\0\0\x18ftypisom\0\0\0\0isommp41', 'latin1'), /it is a film \(MP4/],
      [Buffer.from('\xff\x0a\0\0\0\0\0\0', 'latin1'), /it is a JPEG XL image/],
      [Buffer.from('8BPS\0\x01'), /it is a Photoshop document/],
      [Buffer.from('P6\n4 4\n255\n'), /it is a PNM image/],
      [Buffer.from('%PDF-1.7'), /it is a PDF document/],
      [Buffer.from('<!DOCTYPE html><html>'), /it is a web page: the download went wrong/],
      [Buffer.from('version https://git-lfs.github.com/spec/v1'), /Git LFS pointer.*git lfs pull/],
      [Buffer.alloc(64, 0xfe), /its first bytes are fe fe fe fe fe fe fe fe fe fe fe fe$/],
      [
        Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        /SVG is drawn, not stored as pixels; render it to PNG first$/,
      ],
    ] as const) {
      const error = await rejection(prepare(bytes, { size: 8 }));
      assert.equal(error.code, 'ERR_TOKENFLOW_IMAGE');
      assert.match(error.message, wanted);
    }
    const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-'));
    const disguised = path.join(folder, 'notes.png');
    writeFileSync(disguised, 'not a picture');
    assert.match(
      (await rejection(prepare(disguised, { size: 8 }))).message,
      /notes\.png': it is in no format/,
    );
    rmSync(folder, { recursive: true });
  });

  it('that are cut off are refused, never half decoded', async () => {
    for (const name of [
      'plain.jpg',
      'progressive.jpg',
      'plain.png',
      'lossy.webp',
      'plain.tif',
      'palette.gif',
    ]) {
      const bytes = readFileSync(fixture(name));
      const error = await rejection(prepare(bytes.subarray(0, bytes.length * 0.85), { size: 8 }));
      assert.equal(error.code, 'ERR_TOKENFLOW_IMAGE');
      assert.match(error.message, /the file is damaged or cut off \(.+\)$/, name);
    }
  });

  it('with random damage decode or fail with one clear error', async function () {
    this.timeout(120_000);
    const names = readdirSync(FIXTURES).filter(
      (name) => /\.(jpg|png|webp|gif|tif)$/.test(name) && name !== 'bomb.png',
    );
    const files = names.map((name) => readFileSync(fixture(name)));
    const processor = new ImageProcessor({ size: 8, maxPixels: 1e6 });
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.nat(files.length - 1),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.option(fc.nat(), { freq: 3 }),
        async (which, flips, cut) => {
          const bytes = Buffer.from(files[which]);
          for (const [position, value] of flips) bytes[position % bytes.length] = value;
          const damaged = cut === null ? bytes : bytes.subarray(0, cut % bytes.length);
          try {
            assert.equal((await processor.prepare(damaged)).data.length, 8 * 8 * 3);
          } catch (error) {
            assert.ok(error instanceof TokenFlowError, `${names[which]}: ${error}`);
            assert.equal(error.code, 'ERR_TOKENFLOW_IMAGE');
            refused++;
          }
        },
      ),
      { numRuns: 400, seed: 11 },
    );
    assert.ok(refused > 50, `only ${refused} refused`);
  });

  it('need sharp, and its absence is one error; raw pixels work without it', () => {
    const script = `
      const Module = require('node:module');
      const resolve = Module._resolveFilename;
      Module._resolveFilename = function (name, ...rest) {
        if (name === 'sharp') throw new Error("Cannot find module 'sharp'");
        return resolve.call(this, name, ...rest);
      };
      const { ImageProcessor } = require('./dist/image/processor.js');
      const { toPng } = require('./dist/image/png.js');
      const processor = new ImageProcessor({ size: 4 });
      (async () => {
        const { data } = await processor.prepare({ data: new Uint8Array(48).fill(9), width: 4, height: 4 });
        const errors = [];
        for (const work of [() => processor.prepare(${JSON.stringify(fixture('plain.png'))}), () => toPng(data, 4, 4)]) {
          await work().catch((error) => errors.push({ code: error.code, message: error.message }));
        }
        console.log(JSON.stringify({ sum: data.reduce((a, b) => a + b), errors }));
      })();`;
    const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', cwd: packageRoot() });
    assert.equal(child.status, 0, child.stderr);
    const { sum, errors } = JSON.parse(child.stdout);
    assert.equal(sum, 48 * 9);
    assert.equal(errors.length, 2);
    for (const { code, message } of errors) {
      assert.equal(code, 'ERR_TOKENFLOW_IMAGE');
      assert.match(message, /optional package sharp.*Install it: npm install sharp/);
    }
  });
});

describe('raw pixels', () => {
  it('take their channels from their length', () => {
    const processor = new ImageProcessor({ size: 2 });
    const grey = processor.prepareSync({ data: Uint8Array.of(1, 2, 3, 4), width: 2, height: 2 });
    assert.deepEqual([...grey.data], [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    const clear = processor.prepareSync({ data: new Uint8ClampedArray(16), width: 2, height: 2 });
    assert.deepEqual([...clear.data], Array(12).fill(255));
    const opaque = Uint8Array.from({ length: 16 }, (_, i) => (i % 4 === 3 ? 255 : i));
    const kept = processor.prepareSync({ data: opaque, width: 2, height: 2, channels: 4 });
    assert.deepEqual([...kept.data], [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]);
  });

  it('are copied when they are handed in', async () => {
    const raw = noise(64, 64, 3);
    const processor = new ImageProcessor({ size: 32, concurrency: 1 });
    const wanted = await processor.prepare(raw);
    const kept = new Uint8Array(raw.data);
    const one = processor.prepare(raw);
    raw.data.fill(0);
    assert.deepEqual(await one, wanted);

    raw.data.set(kept);
    const batch = processor.prepareBatch([raw, raw, raw]);
    structuredClone(raw.data.buffer, { transfer: [raw.data.buffer as ArrayBuffer] });
    const { data } = await batch;
    for (let i = 0; i < 3; i++)
      assert.deepEqual(data.subarray(i * 32 * 32 * 3, (i + 1) * 32 * 32 * 3), wanted.data);
  });

  it("are the caller's own afterwards, however they were handed in", async () => {
    const processor = new ImageProcessor({ size: 32 });
    const bytes = new Uint8Array(readFileSync(sample('chelsea-cat.jpg')));
    const raw = noise(50, 40, 3);
    const clamped = { data: new Uint8ClampedArray(noise(50, 40, 3).data), width: 50, height: 40 };
    const given = [bytes, bytes.buffer, Buffer.from(bytes), bytes.subarray(0), raw, clamped];
    const held = [bytes, raw.data, clamped.data];
    const before = held.map((array) => sha256(Uint8Array.from(array)));
    await processor.prepareBatch(given);
    for (const image of given) await processor.prepare(image);
    processor.prepareSync(raw);
    assert.deepEqual(
      held.map((array) => sha256(Uint8Array.from(array))),
      before,
    );
  });

  it('leave no memory behind that waits to be collected', async () => {
    const processor = new ImageProcessor({ size: 128 });
    const file = sample('coffee-cup.jpg'); // 2.4 MB of pixels
    await processor.prepare(file);
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 20; i++) await processor.prepare(file);
    const grown = process.memoryUsage().arrayBuffers - before;
    assert.ok(grown < 10e6, `${(grown / 1e6).toFixed(1)} MB`);
  });

  it('that do not fit together are refused', async () => {
    const data = new Uint8Array(12);
    for (const [raw, wanted] of [
      [{ data, width: 3, height: 3 }, /1, 2, 3 or 4 samples for each of 3 x 3 pixels/],
      [{ data, width: 2, height: 2, channels: 4 }, /4 samples for each of 2 x 2 pixels/],
      [{ data, width: 2, height: 2, channels: 5 }, /1, 2, 3 or 4 samples/],
      [{ data, width: 0, height: 2 }, /a positive integer for width/],
      [{ data, width: 2, height: 1.5 }, /a positive integer for height/],
      [{ data: new Float32Array(12), width: 2, height: 2 }, /a Uint8Array of 8-bit samples/],
      [{ data, width: 70000, height: 1 }, /sides of at most 65535 pixels/],
    ] as [RawImage, RegExp][]) {
      assert.match((await rejection(prepare(raw, { size: 2 }))).message, wanted);
      assert.throws(() => new ImageProcessor({ size: 2 }).prepareSync(raw), wanted);
    }
    for (const source of [null, undefined, 7, {}, [], () => 1])
      assert.match((await rejection(prepare(source as never, { size: 2 }))).message, /a path, a file: URL/);
  });
});

describe('ImageProcessor', () => {
  it('refuses wrong options by name', () => {
    for (const [options, wanted] of [
      [undefined, /an object for the options of ImageProcessor/],
      [{}, /an integer from 1 to 4096 for size but received undefined/],
      [{ size: 0 }, /for size/],
      [{ size: 2.5 }, /for size/],
      [{ size: 8, fit: 'stretch' }, /'crop', 'squash', 'pad' for fit but received 'stretch'/],
      [{ size: 8, maxPixels: 0 }, /for maxPixels/],
      [{ size: 8, concurrency: 0 }, /for concurrency/],
      [{ size: 8, maxPixel: 9 }, /did you mean 'maxPixels'/],
    ] as [ImageProcessorOptions, RegExp][])
      assert.throws(() => new ImageProcessor(options), {
        code: 'ERR_TOKENFLOW_INVALID_ARGUMENT',
        message: wanted,
      });
  });

  it('keeps the order of a batch whatever its concurrency', async () => {
    const sources = [
      fixture('plain.png'),
      noise(50, 40, 1),
      sample('raccoon.jpg'),
      readFileSync(fixture('cmyk.jpg')),
    ];
    const single = await Promise.all(sources.map((source) => prepare(source, { size: 32 })));
    for (const concurrency of [1, 2, 9]) {
      const batch = await new ImageProcessor({ size: 32, concurrency }).prepareBatch(sources);
      assert.deepEqual([batch.count, batch.width, batch.height], [4, 32, 32]);
      assert.deepEqual(Buffer.from(batch.data), Buffer.concat(single.map(({ data }) => data)));
    }
    assert.equal((await new ImageProcessor({ size: 32 }).prepareBatch([])).data.length, 0);
  });

  it('says which image of a batch failed and starts no more', async () => {
    const processor = new ImageProcessor({ size: 8, concurrency: 1 });
    const error = await rejection(
      processor.prepareBatch([noise(9, 9, 1), Buffer.from('text'), 'never-looked-for.jpg']),
    );
    assert.match(error.message, /^Cannot decode image 1 \(a Buffer of 4 bytes\)/);
    assert.match(
      (await rejection(processor.prepareBatch([noise(9, 9, 1), 'missing.jpg']))).message,
      /^Cannot read 'missing\.jpg'/,
    );
    assert.match(
      (await rejection(processor.prepareBatch('photo.jpg' as never))).message,
      /an array of images for sources/,
    );
  });

  it('stops when it is told to', async () => {
    const processor = new ImageProcessor({ size: 8 });
    const reason = new Error('enough');
    await assert.rejects(
      processor.prepare(sample('raccoon.jpg'), { signal: AbortSignal.abort(reason) }),
      reason,
    );
    for (const start of [
      (signal: AbortSignal) => processor.prepare(sample('raccoon.jpg'), { signal }),
      (signal: AbortSignal) => processor.prepare(noise(2000, 2000, 1), { signal }),
      (signal: AbortSignal) => processor.prepareBatch(Array(20).fill(sample('raccoon.jpg')), { signal }),
    ]) {
      const controller = new AbortController();
      const work = start(controller.signal);
      controller.abort(reason);
      await assert.rejects(work, reason);
    }
  });

  it('works in worker threads', () => {
    const script = `
      const { Worker } = require('node:worker_threads');
      const worker = new Worker(\`
        const { parentPort } = require('node:worker_threads');
        const { ImageProcessor } = require('./dist/image/processor.js');
        const raw = { data: new Uint8Array(1500 * 1000 * 3).fill(50), width: 1500, height: 1000 };
        const processor = new ImageProcessor({ size: 64 });
        Promise.all(Array.from({ length: 8 }, () => processor.prepare(raw)))
          .then((all) => parentPort.postMessage(all.every(({ data }) => data.every((v) => v === 50))));
      \`, { eval: true });
      worker.on('message', (message) => console.log(message));`;
    const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', cwd: packageRoot() });
    assert.equal(child.status, 0, child.stderr);
    assert.equal(child.stdout.trim(), 'true');
  });

  it('lets its worker thread be terminated at any moment', () => {
    const script = `
      const { Worker } = require('node:worker_threads');
      const code = \`
        const { parentPort } = require('node:worker_threads');
        const { ImageProcessor } = require('./dist/image/processor.js');
        const raw = { data: new Uint8Array(60 * 40 * 3), width: 60, height: 40 };
        const processor = new ImageProcessor({ size: 64 });
        const forever = async () => { for (;;) await processor.prepare(raw); };
        for (let i = 0; i < 40; i++) forever();
        parentPort.postMessage('started');
      \`;
      const terminated = (delay) => new Promise((resolve, reject) => {
        const worker = new Worker(code, { eval: true });
        worker.on('error', reject);
        worker.on('message', () => setTimeout(() => worker.terminate().then(resolve), delay));
      });
      (async () => {
        for (let i = 0; i < 30; i++) await terminated((i % 10) / 3);
        console.log('alive');
      })();`;
    const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', cwd: packageRoot() });
    assert.equal(child.status, 0, child.stderr);
    assert.equal(child.stdout.trim(), 'alive');
  });
});

describe('PNG files', () => {
  it('hold the pixels they were given', async () => {
    const { data, width, height } = noise(37, 23, 4);
    const png = await toPng(data, width, height);
    assert.equal(Buffer.from(png.subarray(1, 4)).toString(), 'PNG');
    const pixels = await decode(png, 'png', 1e6);
    assert.deepEqual([pixels.width, pixels.height, pixels.layout], [37, 23, 'rgb']);
    assert.deepEqual(Buffer.from(pixels.data), Buffer.from(data));

    const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-'));
    await writePng(path.join(folder, 'a.png'), { data, width, height });
    assert.deepEqual(readFileSync(path.join(folder, 'a.png')), Buffer.from(png));
    const error = await rejection(writePng(path.join(folder, 'no', 'a.png'), { data, width, height }));
    assert.equal(error.code, 'ERR_TOKENFLOW_IO');
    assert.match(error.message, /^Cannot write '.*no\/a\.png'/);
    rmSync(folder, { recursive: true });
    assert.match((await rejection(toPng(data, 37, 24))).message, /37 x 24 x 3 samples/);
  });
});

describe('image quality', () => {
  it("equals scikit-image's", async () => {
    for (const { name, psnr: wantedPsnr, ssim: wantedSsim } of expected.quality) {
      const [a, b] =
        name === 'noise'
          ? [noise(9, 7, 1), noise(9, 7, 2)]
          : [
              await prepare(sample(name), { size: 128 }),
              await prepare(sample(name), { size: 128, fit: 'squash' }),
            ];
      assert.ok(Math.abs(psnr(a, b) - wantedPsnr) < 1e-9, `${name}: ${psnr(a, b)} dB, not ${wantedPsnr}`);
      assert.ok(Math.abs(ssim(a, b) - wantedSsim) < 1e-9, `${name}: ${ssim(a, b)}, not ${wantedSsim}`);
    }
  });

  it('of equal images is perfect, of different shapes an error', () => {
    const a = { data: noise(12, 10, 1).data, width: 12, height: 10 };
    assert.equal(psnr(a, a), Number.POSITIVE_INFINITY);
    assert.equal(ssim(a, a), 1);
    const grey = { data: a.data.subarray(0, 120), width: 12, height: 10, channels: 1 };
    assert.equal(ssim(grey, grey), 1);
    assert.throws(() => psnr(a, grey), /12 x 10 x 3 like the first/);
    assert.throws(() => psnr(a, { ...a, width: 10, height: 12 }), /12 x 10 x 3 like the first/);
    assert.throws(() => ssim({ ...a, height: 9 }, { ...a, height: 9 }), /12 x 9 x 3 samples/);
    const small = { data: a.data.subarray(0, 12 * 6 * 3), width: 12, height: 6 };
    assert.throws(() => ssim(small, small), /sides of at least 7 pixels/);
  });
});

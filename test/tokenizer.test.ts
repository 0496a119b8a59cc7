import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { listBackends, resolveDevice, supportsBf16 } from '../lib/backends.js';
import { openCheckpoint } from '../lib/checkpoint/checkpoint.js';
import { packageRoot } from '../lib/native.js';
import { tokenCount } from '../lib/tokenizer/config.js';
import { imageBatch } from '../lib/tokenizer/layout.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';
import type { LoadOptions, WeightSource } from '../lib/tokenizer/types.js';
import { floats, integers, relativeError } from './support/arrays.js';

const golden = path.join(packageRoot(), 'test', 'golden');
const clipb = path.join(golden, 'clipb');
const samples = path.join(packageRoot(), 'samples');

/** Deterministic noise, so that images differ. */
function noiseImage(seed: number, side = 64) {
  let state = seed * 2654435761 + 1;
  const data = Uint8Array.from({ length: side * side * 3 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
  return { data, width: side, height: side };
}

function hasCode(code: string, message?: RegExp) {
  return (error: Error & { code: string }) => {
    assert.equal(error.code, code, error.stack);
    if (message) assert.match(error.message, message);
    return true;
  };
}

describe('TokenFlow', function () {
  this.timeout(120_000);
  let tokenizer: TokenFlow;
  let rows: { tokens: Int32Array; shape: number[] };
  before(async () => {
    tokenizer = await TokenFlow.load(clipb);
    const { data, shape } = integers(path.join(clipb, 'indices.npy'));
    rows = { tokens: data, shape };
  });
  after(() => tokenizer.dispose());

  it('says what the model is', () => {
    const { imageSize, outputSize, scales, grid, codebookSize, featureWidth, semanticWidth } = tokenizer;
    assert.deepEqual(
      { imageSize, outputSize, scales, grid, codebookSize, featureWidth, semanticWidth },
      {
        imageSize: 64,
        outputSize: 64,
        scales: [1, 2, 3, 4],
        grid: 4,
        codebookSize: 512,
        featureWidth: 40,
        semanticWidth: 48,
      },
    );
    assert.equal(tokenizer.tokenCount, 30);
    assert.equal(tokenizer.device, resolveDevice());
  });

  it('finishes the calls made before it is disposed of, and refuses later ones', async () => {
    const own = await TokenFlow.load(clipb, { batchSize: 1 });
    const images = [1, 2, 3, 4].map((seed) => noiseImage(seed));
    const expected = await tokenizer.encode(images);
    const call = own.encode(images);
    const disposal = own.dispose();
    await assert.rejects(own.encode(images), hasCode('ERR_TOKENFLOW_DISPOSED'));
    assert.deepEqual((await call).tokens, expected.tokens);
    await disposal;
  });

  it('refuses what is no checkpoint, takes a file URL, and knows its variants', async () => {
    for (const wrong of [undefined, null, 5, {}, new URL('https://example.com/model.pt')]) {
      await assert.rejects(
        TokenFlow.load(wrong as unknown as string),
        hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT', /for checkpoint/),
      );
    }
    await (await TokenFlow.load(pathToFileURL(path.join(clipb, 'checkpoint.pt')))).dispose();
    await assert.rejects(
      TokenFlow.load(clipb, { config: 'clip-b' as 'clipb' }),
      hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT', /did you mean 'clipb'/),
    );
  });

  it('passes the pixel limit on', async () => {
    await assert.rejects(
      tokenizer.encode(noiseImage(1), { maxPixels: 100 }),
      hasCode('ERR_TOKENFLOW_IMAGE', /at most 100 pixels/),
    );
  });

  it('gives every image the same tokens in any batch', async () => {
    const images = Array.from({ length: 11 }, (_, i) => noiseImage(i));
    const alone = await Promise.all(images.map(async (image) => (await tokenizer.encode(image)).tokens));
    const expected = Int32Array.from(alone.flatMap((tokens) => [...tokens]));
    assert.ok(new Set(expected).size > 20);
    for (const batchSize of [1, 2, 3, 8]) {
      await using other = await TokenFlow.load(clipb, { batchSize });
      const { tokens, shape } = await other.encode(images);
      assert.deepEqual(shape, [11, 30]);
      assert.deepEqual(tokens, expected, `batches of ${batchSize}`);
    }
    const data = new Uint8Array(images.flatMap((image) => [...image.data]));
    const batch = { data, width: 64, height: 64, count: 11 };
    assert.deepEqual((await tokenizer.encode(batch)).tokens, expected);
    assert.deepEqual(
      (await tokenizer.encode([batch, images[0]])).tokens.subarray(0, expected.length),
      expected,
    );
    assert.deepEqual(tokenizer.encodeSync(images).tokens, expected);
    assert.deepEqual(tokenizer.encodeSync(batch).tokens, expected);
  });

  it('decodes every image to the same pixels in any batch', async () => {
    const images = Array.from({ length: 5 }, (_, i) => noiseImage(i + 40));
    const encoded = await tokenizer.encode(images);
    const whole = await tokenizer.decode(encoded);
    assert.deepEqual([whole.width, whole.height, whole.count], [64, 64, 5]);
    for (let i = 0; i < 5; i++) {
      const one = await tokenizer.decode(encoded.tokens.subarray(i * 30, (i + 1) * 30));
      assert.deepEqual(one.data, whole.data.subarray(i * 64 * 64 * 3, (i + 1) * 64 * 64 * 3));
    }
    assert.deepEqual(tokenizer.decodeSync(encoded).data, whole.data);
    assert.deepEqual(
      tokenizer.decodeSemanticSync(encoded).semantic,
      (await tokenizer.decodeSemantic(encoded)).semantic,
    );
    const exact = await tokenizer.decodeTensor(encoded);
    assert.deepEqual(tokenizer.decodeTensorSync(encoded), exact);
    assert.deepEqual(imageBatch(exact), whole);
    const extremes = Float32Array.of(
      -1,
      1,
      0,
      Number.NaN,
      -7,
      7,
      Number.POSITIVE_INFINITY,
      1 / 255,
      -1 / 255,
    );
    assert.deepEqual(
      imageBatch({ data: extremes, shape: [1, 3, 1, 3] }).data,
      Uint8Array.of(0, 0, 255, 255, 0, 128, 128, 255, 127),
    );
  });

  it('reads image files and what it decoded itself', async () => {
    const files = readdirSync(samples)
      .filter((name) => name.endsWith('.jpg'))
      .map((name) => path.join(samples, name));
    const { tokens, shape } = await tokenizer.encode(files);
    assert.deepEqual(shape, [files.length, 30]);
    const again = await tokenizer.encode([readFileSync(files[0])]);
    assert.deepEqual(again.tokens, tokens.subarray(0, 30));
    const images = await tokenizer.decode({ tokens, shape });
    const { features } = await tokenizer.understand(images);
    assert.equal(features.length, files.length * 16 * 40);
  });

  it('decodes the first scales from any form of their tokens', async () => {
    const whole = await tokenizer.decode(rows);
    let previous: Uint8Array | undefined;
    for (let scales = 1; scales <= 4; scales++) {
      const image = await tokenizer.decode(rows, { scales });
      const width = tokenCount(tokenizer.scales, scales);
      const prefix = [0, 1].map((i) => rows.tokens.slice(i * 30, i * 30 + width));
      assert.deepEqual((await tokenizer.decode(prefix)).data, image.data);
      assert.deepEqual(tokenizer.decodeSync(rows, { scales }).data, image.data);
      assert.equal(image.count, 2);
      if (previous) assert.notDeepEqual(image.data, previous);
      previous = image.data;
    }
    assert.deepEqual(previous, whole.data);
  });

  it('understands what it encodes: the features of the tokens', async () => {
    const images = [noiseImage(1), noiseImage(2, 100), noiseImage(3, 64)];
    for (const fit of ['crop', 'squash'] as const) {
      const understood = await tokenizer.understand(images, { fit });
      assert.deepEqual(understood.shape, [3, 16, 40]);
      const encoded = await tokenizer.encode(images, { fit });
      const { features } = await tokenizer.decodeFeatures(encoded);
      assert.ok(relativeError(understood.features, features) < 1e-6);
      assert.deepEqual(tokenizer.understandSync(images, { fit }).features, understood.features);
      assert.deepEqual(tokenizer.decodeFeaturesSync(encoded).features, features);
    }
  });

  it('takes tensors, and refuses other sizes', async () => {
    const input = floats(path.join(clipb, 'input.npy')).data;
    const { tokens } = await tokenizer.encodeTensor(input);
    assert.deepEqual(tokens, rows.tokens);
    assert.deepEqual(tokenizer.encodeTensorSync(input, { features: true }).tokens, rows.tokens);
    await assert.rejects(
      tokenizer.encodeTensor(input.subarray(1)),
      hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT', /B x 3 x 64 x 64/),
    );
  });

  it('serves calls at once', async () => {
    const images = Array.from({ length: 16 }, (_, i) => noiseImage(i + 100));
    const expected = images.map((image) => tokenizer.encodeSync(image).tokens);
    const actual = await Promise.all(
      images.flatMap((image) => [
        tokenizer.encode(image).then(({ tokens }) => tokens),
        tokenizer.decode(rows, { scales: 2 }).then(() => undefined),
      ]),
    );
    assert.deepEqual(
      actual.filter((tokens) => tokens !== undefined),
      expected,
    );
  });

  it('is not disturbed by what the caller does to its arrays meanwhile', async () => {
    const image = noiseImage(7);
    const expected = tokenizer.encodeSync(image).tokens;
    const pending = tokenizer.encode(image);
    image.data.fill(0);
    assert.deepEqual((await pending).tokens, expected);
    const tokens = Int32Array.from(rows.tokens);
    const decoding = tokenizer.decode({ tokens, shape: [2, 30] });
    tokens.fill(0);
    assert.deepEqual((await decoding).data, tokenizer.decodeSync(rows).data);
  });

  it('stops when told, with the reason given, and goes on working', async () => {
    const images = Array.from({ length: 40 }, (_, i) => noiseImage(i));
    const reason = new Error('enough');
    await assert.rejects(tokenizer.encode(images, { signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const pending = tokenizer.encode(images, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 5);
    await assert.rejects(pending, reason);
    await assert.rejects(tokenizer.decode(rows, { signal: AbortSignal.abort(reason) }), reason);
    const loading = new AbortController();
    await assert.rejects(
      TokenFlow.load(clipb, {
        preload: ['encode'],
        signal: loading.signal,
        onProgress: () => loading.abort(reason),
      }),
      reason,
    );
    assert.deepEqual((await tokenizer.encode(images[0])).tokens, tokenizer.encodeSync(images[0]).tokens);
  });

  it('refuses misspelt options and wrong arguments by name', async () => {
    const refused = (call: Promise<unknown>, message: RegExp) =>
      assert.rejects(call, hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT', message));
    await refused(tokenizer.encode(noiseImage(0), { fitt: 'crop' } as object), /'fitt'.*did you mean 'fit'/);
    await refused(
      tokenizer.encode(noiseImage(0), { fit: 'stretch' as 'crop' }),
      /for fit but received 'stretch'/,
    );
    await refused(tokenizer.encode([]), /at least one image/);
    await refused(tokenizer.decode(rows, { scale: 2 } as object), /did you mean 'scales'/);
    await refused(tokenizer.decode(rows, { scales: 5 }), /from 1 to 4/);
    await refused(TokenFlow.load(clipb, { batch: 2 } as object), /'batch'/);
    await refused(TokenFlow.load(clipb, { precision: 'fp16' as 'bf16' }), /'f32' or 'bf16' for precision/);
    await refused(TokenFlow.load(clipb, { threads: 0 }), /for threads/);
    await refused(TokenFlow.load(clipb, { threads: 2 ** 32 + 1 }), /from 1 to 1024 for threads/);
    await refused(TokenFlow.load(clipb, { preload: ['decoder' as 'decode'] }), /for preload/);
    await refused(TokenFlow.load(clipb, { device: 'gpu' as 'cpu' }), /for device but received 'gpu'/);
    await assert.rejects(tokenizer.encode('nowhere.jpg'), hasCode('ERR_TOKENFLOW_IO', /nowhere\.jpg/));
  });

  it('names what is wrong with a checkpoint or its configuration', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-'));
    try {
      await assert.rejects(TokenFlow.load(path.join(folder, 'no.pt')), hasCode('ERR_TOKENFLOW_IO', /no\.pt/));
      const weights = path.join(clipb, 'checkpoint.pt');
      const load = (config: LoadOptions['config']) => TokenFlow.load(weights, { config });
      await assert.rejects(load(path.join(folder, 'config.json')), hasCode('ERR_TOKENFLOW_IO'));
      await assert.rejects(
        load('clipb'),
        hasCode('ERR_TOKENFLOW_CHECKPOINT', /trainedImageSize 224 but the position table is for 64 px/),
      );
      writeFileSync(path.join(folder, 'config.json'), '{ "teacher": ');
      await assert.rejects(
        load(path.join(folder, 'config.json')),
        hasCode('ERR_TOKENFLOW_FORMAT', /not JSON/),
      );
      const broken = path.join(folder, 'broken.pt');
      writeFileSync(broken, readFileSync(weights));
      truncateSync(broken, 100_000);
      await assert.rejects(TokenFlow.load(broken), hasCode('ERR_TOKENFLOW_CHECKPOINT', /broken\.pt/));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('gives the codes behind tokens, of unit length, as they are summed into features', async () => {
    const { codes, shape } = tokenizer.codes(rows);
    const { featureWidth: width, tokenCount: count } = tokenizer;
    const batch = rows.shape[0];
    assert.deepEqual(shape, [batch, count, width]);
    const norm = (part: Float32Array) => Math.hypot(...part);
    for (let i = 0; i < codes.length; i += width) {
      assert.ok(Math.abs(norm(codes.subarray(i, i + 32)) - 1) < 1e-5);
      assert.ok(Math.abs(norm(codes.subarray(i + 32, i + width)) - 1) < 1e-5);
    }
    // The first scale is one token, so the features of it alone are its code at every position.
    const { features } = await tokenizer.decodeFeatures(rows, { scales: 1 });
    const first = tokenizer.codes(rows, { scales: 1 });
    assert.deepEqual(first.shape, [batch, 1, width]);
    for (let b = 0; b < batch; b++) {
      const code = first.codes.subarray(b * width, (b + 1) * width);
      assert.deepEqual(code, codes.subarray(b * count * width, (b * count + 1) * width));
      const position = (b * tokenizer.grid ** 2 + 5) * width;
      assert.ok(relativeError(features.subarray(position, position + width), code) < 1e-6);
    }
    const codebook = tokenizer.codebook();
    assert.equal(codebook.size, tokenizer.codebookSize);
    assert.deepEqual([...codebook.dims], [32, 8]);
    const { indices } = await codebook.nearest(codes);
    assert.deepEqual(indices, rows.tokens);
    assert.throws(
      () => tokenizer.codes([[tokenizer.codebookSize]]),
      hasCode('ERR_TOKENFLOW_INVALID_ARGUMENT'),
    );

    const other = await TokenFlow.load(clipb);
    const kept = other.codebook();
    await other.dispose();
    assert.throws(() => other.codebook(), hasCode('ERR_TOKENFLOW_DISPOSED'));
    assert.throws(() => other.codes(rows), hasCode('ERR_TOKENFLOW_DISPOSED'));
    assert.equal(kept.lookup([3]).length, width);
  });

  it('refuses use after dispose, and disposes twice', async () => {
    const other = await TokenFlow.load(clipb);
    const running = other.encode(noiseImage(1));
    const settled = running.then(
      ({ tokens }) => assert.deepEqual(tokens, tokenizer.encodeSync(noiseImage(1)).tokens),
      hasCode('ERR_TOKENFLOW_DISPOSED'),
    );
    await Promise.all([other.dispose(), settled]);
    await other.dispose();
    assert.equal(other.disposed, true);
    await assert.rejects(other.encode(noiseImage(1)), hasCode('ERR_TOKENFLOW_DISPOSED'));
    assert.throws(() => other.decodeSync(rows), hasCode('ERR_TOKENFLOW_DISPOSED'));
    assert.deepEqual(other.memory(), { weights: 0, activations: 0, scratch: 0 });
  });

  it('runs in a worker', async () => {
    const script = `
      const { workerData, parentPort } = require('node:worker_threads');
      const { TokenFlow } = require(workerData.module);
      TokenFlow.load(workerData.model).then(async (tokenizer) => {
        const { tokens } = tokenizer.encodeSync(workerData.image);
        await tokenizer.dispose();
        parentPort.postMessage(tokens);
      });`;
    const image = noiseImage(5);
    const module_ = path.join(__dirname, '..', 'lib', 'index.js');
    const workers = [0, 1].map(
      () =>
        new Promise((resolve, reject) => {
          const worker = new Worker(script, {
            eval: true,
            workerData: { module: module_, model: clipb, image },
          });
          worker.once('message', resolve).once('error', reject);
        }),
    );
    const expected = tokenizer.encodeSync(image).tokens;
    for (const tokens of await Promise.all(workers)) assert.deepEqual(tokens, expected);
  });

  it('computes in bf16 where the processor can', async () => {
    if (!supportsBf16()) {
      await assert.rejects(
        TokenFlow.load(clipb, { precision: 'bf16' }),
        hasCode('ERR_TOKENFLOW_BACKEND_UNAVAILABLE', /AVX512-BF16/),
      );
      return;
    }
    await using other = await TokenFlow.load(clipb, { precision: 'bf16' });
    const pixels = await other.decodeTensor(rows);
    const error = relativeError(pixels.data, floats(path.join(clipb, 'pixels.npy')).data);
    assert.ok(error > 0 && error < 0.05, `relative error ${error}`);
    // The quantiser computes in fp32: what it gathers does not change.
    const exact = await tokenizer.decodeFeatures(rows);
    assert.deepEqual((await other.decodeFeatures(rows)).features, exact.features);
  });
});

describe('weights', function () {
  this.timeout(60_000);
  /** A checkpoint that remembers what was read of it. */
  function watched(folder: string): WeightSource & { names: string[] } {
    const checkpoint = openCheckpoint(path.join(folder, 'checkpoint.pt'));
    const names: string[] = [];
    return {
      names,
      path: checkpoint.path,
      tensors: checkpoint.tensors,
      read: (name) => {
        names.push(name);
        return checkpoint.read(name);
      },
      close: () => checkpoint.close(),
    };
  }

  it('that are not finite are named', async () => {
    const checkpoint = openCheckpoint(path.join(clipb, 'checkpoint.pt'));
    for (const [name, at, value] of [
      ['quant_conv.weight', 5, Number.NaN],
      ['decoder.conv_out.bias', 2, Number.NEGATIVE_INFINITY],
    ] as const) {
      const spoilt: WeightSource = {
        path: checkpoint.path,
        tensors: checkpoint.tensors,
        read: (wanted) => {
          const weight = checkpoint.read(wanted);
          if (wanted === name) weight[at] = value;
          return weight;
        },
        close: () => {},
      };
      await using model = await TokenFlow.load(spoilt, { config: path.join(clipb, 'config.json') });
      const call = name.startsWith('quant')
        ? model.encode(noiseImage(0))
        : model.decode(new Int32Array(model.tokenCount));
      const message = new RegExp(`element ${at} of '${name}' is -?(nan|inf)`);
      await assert.rejects(call, hasCode('ERR_TOKENFLOW_CHECKPOINT', message));
    }
    checkpoint.close();
  });

  it('are read when they are needed, once', async () => {
    const source = watched(clipb);
    await using tokenizer = await TokenFlow.load(source, {
      config: path.join(clipb, 'config.json'),
      batchSize: 2,
    });
    assert.equal(source.names.length, 0);
    assert.equal(tokenizer.memory().weights, 0);
    await tokenizer.encode([noiseImage(0), noiseImage(1), noiseImage(2)]);
    assert.ok(source.names.length > 100);
    assert.deepEqual(
      source.names.filter((name) => /^(decoder|decoder_vqkd|post_quant_conv)\./.test(name)),
      [],
    );
    await tokenizer.decode(new Int32Array(30));
    assert.deepEqual(
      source.names.filter((name) => name.startsWith('decoder_vqkd.')),
      [],
    );
    await tokenizer.decodeSemantic(new Int32Array(60));
    await tokenizer.decode(new Int32Array(90), { scales: 2 });
    assert.equal(new Set(source.names).size, source.names.length, 'nothing was read twice');
    assert.deepEqual(
      source.names.filter((name) => /codebook_used|encoder_vqkd\.proj/.test(name)),
      [],
    );
    const { weights, activations } = tokenizer.memory();
    assert.ok(weights > 6e6 && activations > 1e5);
  });

  it('that are not used are never read', async () => {
    const folder = path.join(golden, 'siglip');
    const source = watched(folder);
    await using tokenizer = await TokenFlow.load(source, { config: path.join(folder, 'config.json') });
    await tokenizer.encode(noiseImage(0));
    assert.ok(source.names.some((name) => name.includes('.layers.2.')));
    assert.deepEqual(
      source.names.filter((name) => /layers\.3\.|post_layernorm|\.head\./.test(name)),
      [],
    );
  });

  it('can be read ahead, with progress', async () => {
    const source = watched(clipb);
    const seen: { loaded: number; total: number }[] = [];
    await using tokenizer = await TokenFlow.load(source, {
      config: path.join(clipb, 'config.json'),
      preload: ['encode', 'semantic', 'decode'],
      onProgress: (progress) => seen.push(progress),
    });
    const count = source.names.length;
    assert.equal(seen.length, count);
    assert.ok(seen.every(({ loaded, total }) => loaded > 0 && loaded <= total));
    assert.equal(seen[count - 1].loaded, seen[count - 1].total);
    await tokenizer.decode(new Int32Array(30 * 8));
    assert.equal(source.names.length, count);
  });
});

describe('backends', function () {
  this.timeout(60_000);
  it('are listed with the reason they are not available', () => {
    const [cpu, cuda, ...rest] = listBackends();
    assert.equal(rest.length, 0);
    assert.deepEqual(Object.keys(cpu), ['name', 'available', 'reason', 'devices']);
    assert.equal(cpu.name, 'cpu');
    assert.equal(cpu.available, true);
    assert.equal(cpu.reason, null);
    assert.ok(cpu.devices[0].threads! >= 1);
    assert.equal(cuda.name, 'cuda');
    if (!cuda.available) assert.equal(typeof cuda.reason, 'string');
  });

  it('that are asked for by name never fall back', async () => {
    const [, cuda] = listBackends();
    if (cuda.available) return;
    for (const device of ['cuda', 'cuda:1'] as const) {
      await assert.rejects(
        TokenFlow.load(clipb, { device }),
        (error: Error & { code: string; reason: string }) => {
          assert.equal(error.code, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE');
          assert.equal(error.reason, cuda.reason);
          return true;
        },
      );
    }
    assert.equal(resolveDevice('auto'), 'cpu');
    assert.equal(resolveDevice('cpu'), 'cpu');
  });

  it('obey TOKENFLOW_DEVICE', async () => {
    const run = promisify(execFile);
    const script = `require(process.argv[1]).TokenFlow.load(process.argv[2])
      .then((t) => console.log(t.device), (e) => console.log(e.code, e.message))`;
    const at = async (device: string) => {
      const args = ['-e', script, path.join(__dirname, '..', 'lib', 'index.js'), clipb];
      const { stdout } = await run(process.execPath, args, {
        env: { ...process.env, TOKENFLOW_DEVICE: device },
      });
      return stdout.trim();
    };
    assert.equal(await at('cpu'), 'cpu');
    assert.match(await at('tpu'), /ERR_TOKENFLOW_INVALID_ARGUMENT .*for TOKENFLOW_DEVICE but received 'tpu'/);
  });
});

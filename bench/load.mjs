/**
 * A checkpoint of full size from file to first token: the time to load it, the resident memory, and the share of an
 * encoding that is not the native program (decoding and preparing the photograph, JavaScript).
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoadGuard, median } from './frame.mjs';
import { checkpointTensor, shapes } from './random-model.mjs';

const require = createRequire(import.meta.url);
const { ImageProcessor, TokenFlow } = require('../dist/index.js');

const photograph = fileURLToPath(new URL('../samples/raccoon.jpg', import.meta.url));

function writeCheckpoint(file) {
  const header = {};
  let offset = 0;
  for (const [name, shape] of shapes) {
    const bytes = 4 * shape.reduce((a, b) => a * b, 1);
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const descriptor = openSync(file, 'w');
  for (const chunk of [length, text]) writeSync(descriptor, chunk);
  for (const name of shapes.keys()) {
    const { buffer } = checkpointTensor(name);
    for (let at = 0; at < buffer.byteLength; ) at += writeSync(descriptor, new Uint8Array(buffer, at));
  }
  closeSync(descriptor);
  return offset;
}

const now = () => Number(process.hrtime.bigint()) / 1e9;

/** Rows `load/clipb-256/f32` and `end-to-end/clipb-256/f32/1`. */
export async function benchLoad(report, { quick = false, only } = {}) {
  if (
    only !== undefined &&
    !['load/clipb-256/f32', 'end-to-end/clipb-256/f32/1'].some((n) => n.includes(only))
  )
    return;
  const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-bench-'));
  const file = path.join(folder, 'clipb_enhanced.safetensors');
  try {
    const bytes = writeCheckpoint(file);
    global.gc?.();
    const before = process.memoryUsage().rss;
    const guard = new LoadGuard();
    const started = now();
    const tokenizer = await TokenFlow.load(file, {
      device: 'cpu',
      preload: ['encode', 'decode', 'semantic'],
    });
    const seconds = now() - started;
    const loaded = process.memoryUsage().rss - before;
    const { weights } = tokenizer.memory();
    report.add({
      name: 'load/clipb-256/f32',
      seconds,
      othersShare: guard.othersShare(),
      bytes,
      weights,
      resident: loaded,
    });
    report.note(
      `a checkpoint of ${(bytes / 1e9).toFixed(2)} GB (just written, so in the page cache): ${(bytes / seconds / 1e9).toFixed(2)} GB/s; weights kept ${(weights / 1e9).toFixed(2)} GB, resident ${(loaded / 1e9).toFixed(2)} GB`,
    );

    await tokenizer.encode([photograph]);
    const encoding = process.memoryUsage().rss - before;
    const tokens = await tokenizer.encode([photograph]);
    await tokenizer.decode(tokens);
    const decoding = process.memoryUsage().rss - before;

    // The same image as prepared pixels costs the native run and little else.
    const pixels = await new ImageProcessor({ size: tokenizer.imageSize }).prepare(photograph);
    const whole = [];
    const bare = [];
    const watch = new LoadGuard();
    for (let i = 0; i < (quick ? 5 : 15); i++) {
      const a = now();
      await tokenizer.encode([photograph]);
      const b = now();
      await tokenizer.encode([pixels]);
      whole.push(b - a);
      bare.push(now() - b);
    }
    // Pair by pair: what else the machine does changes slower than that.
    const share = median(whole.map((seconds, i) => 1 - bare[i] / seconds));
    report.add({
      name: 'end-to-end/clipb-256/f32/1',
      seconds: median(whole),
      othersShare: watch.othersShare(),
      nativeSeconds: median(bare),
      javascriptShare: share,
      residentEncoding: encoding,
      residentDecoding: decoding,
    });
    report.note(
      `from a JPEG file: ${(share * 100).toFixed(1)} % is reading, preparing and JavaScript; resident with all weights loaded, as far as the system left it in memory: while encoding ${(encoding / 1e9).toFixed(2)} GB, after decoding ${(decoding / 1e9).toFixed(2)} GB`,
    );
    await tokenizer.dispose();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

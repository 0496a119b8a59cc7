import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readNpy } from '../lib/checkpoint/npy.js';
import { type ContactSheetLayout, contactSheetLayout, type Rectangle } from '../lib/image/contact-sheet.js';
import { decode } from '../lib/image/decode.js';
import { ImageProcessor } from '../lib/image/processor.js';
import { psnr } from '../lib/image/quality.js';
import type { Pixels } from '../lib/image/source.js';
import { packageRoot } from '../lib/native.js';
import { TokenFlow } from '../lib/tokenizer/tokenflow.js';

const root = packageRoot();
const model = path.join(root, 'models', 'tokenflow-tiny');
const samples = path.join(root, 'samples');

describe('the demo', function () {
  this.timeout(300_000);
  let out: string;
  let output: string;
  const names = readdirSync(samples)
    .filter((file) => file.endsWith('.jpg'))
    .map((file) => path.basename(file, '.jpg'));

  const png = async (file: string): Promise<Pixels> => {
    const pixels = await decode(readFileSync(path.join(out, file)), file, 1e8);
    assert.equal(pixels.layout, 'rgb');
    return pixels;
  };
  /** A part of a sheet, each `factor` x `factor` square as one pixel. */
  const part = (sheet: Pixels, { left, top, width, height }: Rectangle, factor: number): Buffer => {
    const rows: Uint8Array[] = [];
    for (let y = 0; y < height; y += factor) {
      for (let x = 0; x < width; x += factor) {
        const at = 3 * ((top + y) * sheet.width + left + x);
        rows.push(sheet.data.subarray(at, at + 3));
      }
    }
    return Buffer.concat(rows);
  };
  const contrast = (data: Uint8Array) => Math.max(...data) - Math.min(...data);

  before(() => {
    out = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-demo-'));
    const demo = spawnSync(process.execPath, [path.join(root, 'tools', 'demo.mjs'), '--out', out], {
      encoding: 'utf8',
    });
    assert.equal(demo.status, 0, demo.stderr);
    assert.equal(demo.stderr, '');
    output = demo.stdout;
  });

  after(() => {
    if (out) rmSync(out, { recursive: true });
  });

  it('writes tokens, a reconstruction and a contact sheet for each photograph, and nothing else', () => {
    assert.ok(names.length >= 6);
    const wanted = names.flatMap((name) => [`${name}.npy`, `${name}.png`, `${name}-sheet.png`]);
    assert.deepEqual(readdirSync(out).sort(), [...wanted, 'tokens'].sort());
    const shards = readdirSync(path.join(out, 'tokens')).filter((name) => name.endsWith('.npy'));
    assert.equal(shards.length, Math.ceil(names.length / 4));
  });

  it('says what it did, in lines that fit a terminal', async () => {
    for (const name of names)
      assert.match(output, new RegExp(`^  ${name} +\\d+\\.\\d dB  SSIM \\d\\.\\d\\d$`, 'm'));
    assert.match(output, /^tokenflow-tiny: \d+ x \d+ pixels in \d+ tokens/m);
    for (const line of output.split('\n')) assert.ok(line.length <= 110, line);
    const shown = [...output.matchAll(/^ {2}(\S+) +(\d+\.\d) dB/gm)];
    for (const [, name, value] of shown) {
      const { data, width, height } = await png(`${name}.png`);
      const original = await new ImageProcessor({ size: width }).prepare(path.join(samples, `${name}.jpg`));
      assert.equal(psnr(original, { data, width, height }).toFixed(1), value);
    }
    assert.equal(shown.length, names.length);
  });

  it('reconstructs from the tokens it wrote', async () => {
    await using tokenizer = await TokenFlow.load(model);
    const { tokenCount, codebookSize } = tokenizer;
    const tokens = new Int32Array(names.length * tokenCount);
    for (const [i, name] of names.entries()) {
      const { shape, data } = readNpy(path.join(out, `${name}.npy`));
      assert.deepEqual(shape, [1, tokenCount]);
      assert.ok(data instanceof Int32Array);
      assert.ok(data.every((token) => token >= 0 && token < codebookSize));
      tokens.set(data, i * tokenCount);
    }
    const images = await tokenizer.decode(tokens);
    const size = images.data.length / names.length;
    for (const [i, name] of names.entries()) {
      const written = await png(`${name}.png`);
      assert.deepEqual([written.width, written.height], [images.width, images.height]);
      assert.deepEqual(
        Buffer.from(written.data),
        Buffer.from(images.data.subarray(i * size, (i + 1) * size)),
      );
    }
  });

  it('draws sheets that are what they claim', async () => {
    await using tokenizer = await TokenFlow.load(model);
    const { scales, outputSize: size } = tokenizer;
    const layout = contactSheetLayout(size, size, scales.length);
    const large = layout.original.width / size;
    const small = layout.steps[0].picture.width / size;
    for (const name of names) {
      const sheet = await png(`${name}-sheet.png`);
      assert.deepEqual([sheet.width, sheet.height], [layout.width, layout.height]);

      const original = await new ImageProcessor({ size }).prepare(path.join(samples, `${name}.jpg`));
      assert.deepEqual(part(sheet, layout.original, large), Buffer.from(original.data), `${name}: original`);
      const reconstruction = Buffer.from((await png(`${name}.png`)).data);
      assert.deepEqual(part(sheet, layout.reconstruction, large), reconstruction, `${name}: reconstruction`);
      assert.ok(contrast(reconstruction) > 60, `${name} is blank`);

      const pictures = layout.steps.map(({ picture }) => part(sheet, picture, small));
      assert.deepEqual(pictures.at(-1), reconstruction, `${name}: last scale`);
      assert.equal(new Set(pictures.map(String)).size, scales.length, `${name}: a scale changes nothing`);
      const { data } = readNpy(path.join(out, `${name}.npy`));
      if (name === names[0]) {
        for (const [k, picture] of pictures.entries()) {
          const decoded = await tokenizer.decode(data as Int32Array, { scales: k + 1 });
          assert.deepEqual(picture, Buffer.from(decoded.data), `${name}: scale ${k}`);
        }
      }
      checkGrids(sheet, layout, scales, data as Int32Array);
    }
  });

  /** The same token has the same colour wherever it is drawn, and most different ones are told apart. */
  function checkGrids(
    sheet: Pixels,
    layout: ContactSheetLayout,
    scales: readonly number[],
    tokens: Int32Array,
  ): void {
    const colors = new Map<number, string>();
    let next = 0;
    for (const [k, { tokens: grid }] of layout.steps.entries()) {
      const cell = grid.width / scales[k];
      for (let i = 0; i < scales[k] ** 2; i++) {
        const [row, column] = [Math.floor(i / scales[k]), i % scales[k]];
        const middle = {
          left: grid.left + Math.floor((column + 0.5) * cell),
          top: grid.top + Math.floor((row + 0.5) * cell),
          width: 1,
          height: 1,
        };
        const color = part(sheet, middle, 1).toString('hex');
        const token = tokens[next++];
        assert.equal(colors.get(token) ?? color, color);
        colors.set(token, color);
      }
    }
    assert.equal(next, tokens.length);
    assert.ok(new Set(colors.values()).size > colors.size / 2);
  }

  it('says in one line what is wrong with a model', () => {
    const demo = spawnSync(
      process.execPath,
      [path.join(root, 'tools', 'demo.mjs'), '--model', '/no/where', '--out', out],
      {
        encoding: 'utf8',
      },
    );
    assert.equal(demo.status, 1);
    assert.match(demo.stderr, /^demo: .*\/no\/where.*\n$/);
  });
});

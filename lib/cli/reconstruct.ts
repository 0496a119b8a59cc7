import * as path from 'node:path';
import { Command } from 'commander';
import { type Fit, ImageProcessor } from '../image/processor.js';
import { psnr, ssim } from '../image/quality.js';
import { addModelOptions, checkScales, fitOption, maxPixelsOption, option, scalesOption } from './options.js';
import { PictureTarget } from './pictures.js';
import { interrupted, loadModel, type ModelOptions, modelPath, printJson, say } from './session.js';
import { openImages } from './streams.js';
import { checkTargets } from './targets.js';

interface ReconstructOptions extends ModelOptions {
  out: string;
  fit: Fit;
  maxPixels?: number;
  scales?: number;
}

interface Square {
  data: Uint8Array;
  width: number;
  height: number;
}

/** Two images of one size in one. */
function sideBySide(left: Square, right: Square): Square {
  const { width, height } = left;
  const row = width * 3;
  const data = new Uint8Array(2 * row * height);
  for (let y = 0; y < height; y++) {
    data.set(left.data.subarray(y * row, (y + 1) * row), 2 * y * row);
    data.set(right.data.subarray(y * row, (y + 1) * row), (2 * y + 1) * row);
  }
  return { data, width: 2 * width, height };
}

/** File names of the results: the images' own, numbered where two would be the same. */
function resultNames(images: readonly string[]): string[] {
  const seen = new Map<string, number>();
  return images.map((image) => {
    const name = image === '-' ? 'stdin' : path.parse(image).name;
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    return count === 1 ? `${name}.png` : `${name}-${count}.png`;
  });
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

async function reconstruct(images: string[], options: ReconstructOptions): Promise<void> {
  const { out, fit, maxPixels, scales, json } = options;
  checkTargets({ '--out': out === '-' ? out : undefined }, images, json);
  const pictures = new PictureTarget(out, resultNames(images), images);
  const sources = await openImages(images);
  const tokenizer = await loadModel(options);
  try {
    checkScales(scales, tokenizer);
    const processor = new ImageProcessor({ size: tokenizer.outputSize, fit, maxPixels });
    const results: { image: string; file: string; psnr: number; ssim: number }[] = [];
    for (const [i, image] of images.entries()) {
      const original = await processor.prepare(sources[i], { signal: interrupted });
      const encoded = await tokenizer.encode(sources[i], { fit, maxPixels, signal: interrupted });
      const reconstruction = await tokenizer.decode(encoded, { scales, signal: interrupted });
      const file = await pictures.write(i, sideBySide(original, reconstruction));
      const result = {
        image,
        file,
        psnr: psnr(original, reconstruction),
        ssim: ssim(original, reconstruction),
      };
      results.push(result);
      say(
        options,
        `${image}: PSNR ${result.psnr.toFixed(2)} dB, SSIM ${result.ssim.toFixed(4)} -> ${file === '-' ? 'stdout' : file}`,
      );
    }
    const average = { psnr: mean(results.map((r) => r.psnr)), ssim: mean(results.map((r) => r.ssim)) };
    if (results.length > 1) {
      say(
        options,
        `mean of ${results.length}: PSNR ${average.psnr.toFixed(2)} dB, SSIM ${average.ssim.toFixed(4)}`,
      );
    }
    if (json) {
      printJson({
        model: modelPath(options),
        scales: tokenizer.scales.slice(0, scales),
        tokensPerImage: tokenizer.tokenCount,
        images: results,
        mean: average,
      });
    }
  } finally {
    await tokenizer.dispose();
  }
}

export function reconstructCommand(): Command {
  return addModelOptions(
    new Command('reconstruct')
      .description('Encode and decode images; write each beside its reconstruction, with PSNR and SSIM.')
      .argument('<images...>', 'image files; - for one on stdin')
      .addOption(
        option(
          '-o, --out <folder>',
          'where the pictures go; for one image a .png file works too, or - for stdout',
          '--out reconstructed',
        ).default('reconstructed'),
      )
      .addOption(fitOption())
      .addOption(maxPixelsOption())
      .addOption(scalesOption()),
  )
    .addHelpText('after', '\nExample:\n  tokenflow reconstruct samples/*.jpg --out reconstructed')
    .action(reconstruct);
}

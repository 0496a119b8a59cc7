import { Command } from 'commander';
import { scaleCountOf } from '../tokenizer/config.js';
import { imageBatch } from '../tokenizer/layout.js';
import { featureMap, readTokens, writeArray } from './arrays.js';
import { addModelOptions, checkScales, option, scalesOption } from './options.js';
import { PictureTarget } from './pictures.js';
import {
  interrupted,
  loadModel,
  type ModelOptions,
  modelPath,
  printJson,
  ResidentSize,
  say,
  usageError,
} from './session.js';
import { checkTargets } from './targets.js';

interface DecodeCommandOptions extends ModelOptions {
  out?: string;
  tensor?: string;
  semantic?: string;
  features?: string;
  scales?: number;
}

async function decode(file: string, options: DecodeCommandOptions): Promise<void> {
  const { out, tensor, semantic, features, scales, json } = options;
  const targets = { tensor, semantic, features };
  if (!out && !tensor && !semantic && !features) {
    throw usageError('say what to make: --out folder (PNG), --tensor, --semantic or --features (.npy)');
  }
  checkTargets(
    {
      '--tensor': tensor,
      '--semantic': semantic,
      '--features': features,
      '--out': out === '-' ? out : undefined,
    },
    [file],
    json,
  );
  const rows = await readTokens(file);
  const pictures =
    out === undefined ? undefined : new PictureTarget(out, numberedNames(rows.shape[0]), [file]);
  const tokenizer = await loadModel(options);
  try {
    checkScales(scales, tokenizer);
    const run = { scales, signal: interrupted };
    const resident = new ResidentSize();
    const started = performance.now();
    const files: string[] = [];
    try {
      const exact = tensor ? await tokenizer.decodeTensor(rows, run) : undefined;
      if (pictures) {
        const { data, width, height, count } = exact ? imageBatch(exact) : await tokenizer.decode(rows, run);
        const bytes = width * height * 3;
        for (let i = 0; i < count; i++) {
          files.push(
            await pictures.write(i, { data: data.subarray(i * bytes, (i + 1) * bytes), width, height }),
          );
        }
      }
      if (tensor && exact) await writeArray(tensor, exact);
      if (semantic) {
        const result = await tokenizer.decodeSemantic(rows, run);
        await writeArray(semantic, { data: result.semantic, shape: result.shape });
      }
      if (features) {
        const result = await tokenizer.decodeFeatures(rows, run);
        await writeArray(features, featureMap(result.features, result.shape));
      }
    } finally {
      resident.stop();
    }
    const seconds = (performance.now() - started) / 1000;
    const [count, width] = rows.shape;
    const used = scales ?? scaleCountOf(tokenizer.scales, width);
    const prefix =
      used === tokenizer.scales.length ? '' : ` (the first ${used} of ${tokenizer.scales.length} scales)`;
    const written = [out, ...Object.values(targets)].filter((target) => target && target !== '-');
    say(
      options,
      `${count} ${count === 1 ? 'image' : 'images'} of ${width} tokens${prefix}, ${seconds.toFixed(2)} s` +
        (written.length > 0 ? ` -> ${written.join(', ')}` : ''),
    );
    if (json) {
      printJson({
        model: modelPath(options),
        device: tokenizer.device,
        precision: tokenizer.precision,
        tokens: file,
        shape: rows.shape,
        scales: tokenizer.scales.slice(0, scales),
        images: files,
        ...targets,
        seconds,
        memory: { resident: resident.peak, ...tokenizer.memory() },
      });
    }
  } finally {
    await tokenizer.dispose();
  }
}

function numberedNames(count: number): string[] {
  const digits = Math.max(4, String(count - 1).length);
  return Array.from({ length: count }, (_, i) => `${String(i).padStart(digits, '0')}.png`);
}

export function decodeCommand(): Command {
  return addModelOptions(
    new Command('decode')
      .description('Turn tokens into images, semantic features or code features.')
      .argument('<tokens>', 'tokens as .npy, [B, T] or [T]; - for stdin')
      .addOption(
        option(
          '-o, --out <folder>',
          'write the images there as 0000.png, 0001.png, ...; for one image a .png file works too, or - for stdout',
          '--out images',
        ),
      )
      .addOption(
        option(
          '--tensor <file>',
          'write the images before rounding, float32 [B, 3, H, W]',
          '--tensor pixels.npy',
        ),
      )
      .addOption(
        option(
          '--semantic <file>',
          'write the semantic features, float32 [B, L, C]',
          '--semantic semantic.npy',
        ),
      )
      .addOption(
        option(
          '--features <file>',
          'write the sum of the codes over the scales, float32 [B, D, g, g]',
          '--features features.npy',
        ),
      )
      .addOption(scalesOption()),
  )
    .addHelpText('after', '\nExample:\n  tokenflow decode tokens.npy --out images')
    .action(decode);
}

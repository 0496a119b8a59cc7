import { Command } from 'commander';
import type { Fit } from '../image/processor.js';
import type { ImageSource } from '../image/source.js';
import type { TokenFlow } from '../tokenizer/tokenflow.js';
import type { Encoded } from '../tokenizer/types.js';
import { featureMap, readImageTensor, writeArray } from './arrays.js';
import { addModelOptions, fitOption, maxPixelsOption, option } from './options.js';
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
import { openImages } from './streams.js';
import { checkTargets } from './targets.js';

interface EncodeCommandOptions extends ModelOptions {
  out?: string;
  tensor?: string;
  features?: string;
  fit: Fit;
  maxPixels?: number;
}

async function encode(images: string[], options: EncodeCommandOptions): Promise<void> {
  const { out, tensor, features, json } = options;
  if (tensor && images.length > 0) throw usageError('give images or --tensor, not both');
  if (!tensor && images.length === 0) throw usageError('name at least one image, or an array with --tensor');
  if (!out && !features && !json) {
    throw usageError('say where the tokens go: --out tokens.npy, --out - (stdout) or --json');
  }
  checkTargets({ '--out': out, '--features': features }, tensor ? [tensor] : images, json);
  const sources = await openImages(images);

  const residentBefore = process.memoryUsage.rss();
  const tokenizer = await loadModel(options, { preload: ['encode'] });
  try {
    const resident = new ResidentSize();
    const started = performance.now();
    const encoded = await run(tokenizer, sources, options).finally(() => resident.stop());
    const seconds = (performance.now() - started) / 1000;

    if (out) await writeArray(out, { data: encoded.tokens, shape: encoded.shape });
    if (features) {
      const shape = [encoded.shape[0], tokenizer.grid ** 2, tokenizer.featureWidth];
      await writeArray(features, featureMap(encoded.features!, shape));
    }
    const [count, width] = encoded.shape;
    const rate = `${(count / seconds).toFixed(1)} images/s`;
    say(
      options,
      `${count} ${count === 1 ? 'image' : 'images'}, ${width} tokens each (scales ${encoded.scales.join(', ')}), ` +
        `${seconds.toFixed(2)} s, ${rate}${out && out !== '-' ? ` -> ${out}` : ''}`,
    );
    if (json) {
      printJson({
        model: modelPath(options),
        device: tokenizer.device,
        precision: tokenizer.precision,
        images: tensor ? [tensor] : images,
        shape: encoded.shape,
        scales: encoded.scales,
        ...(out ? { out } : { tokens: rows(encoded) }),
        ...(features ? { features } : {}),
        seconds,
        memory: { residentBefore, resident: resident.peak, ...tokenizer.memory() },
      });
    }
  } finally {
    await tokenizer.dispose();
  }
}

async function run(
  tokenizer: TokenFlow,
  images: readonly ImageSource[],
  options: EncodeCommandOptions,
): Promise<Encoded> {
  const common = { signal: interrupted, features: options.features !== undefined };
  if (options.tensor === undefined) {
    const { fit, maxPixels } = options;
    return tokenizer.encode(images, { ...common, fit, maxPixels });
  }
  return tokenizer.encodeTensor(await readImageTensor(options.tensor, tokenizer.imageSize), common);
}

function rows({ tokens, shape: [count, width] }: Encoded): number[][] {
  return Array.from({ length: count }, (_, i) => [...tokens.subarray(i * width, (i + 1) * width)]);
}

export function encodeCommand(): Command {
  return addModelOptions(
    new Command('encode')
      .description('Turn images into tokens.')
      .argument('[images...]', 'image files; - for one on stdin')
      .addOption(
        option(
          '-o, --out <file>',
          'write the tokens, int32 [B, T], as .npy; - for stdout',
          '--out tokens.npy',
        ),
      )
      .addOption(
        option(
          '--tensor <file>',
          'encode this float32 array [B, 3, H, W] in [-1, 1] as it is, instead of images',
          '--tensor input.npy',
        ),
      )
      .addOption(
        option(
          '--features <file>',
          'also write the features [B, D, g, g], the sum of the codes over all scales',
          '--features features.npy',
        ),
      )
      .addOption(fitOption())
      .addOption(maxPixelsOption()),
  )
    .addHelpText('after', '\nExample:\n  tokenflow encode samples/*.jpg --out tokens.npy')
    .action(encode);
}

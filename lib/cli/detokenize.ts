import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { TokenFlowError } from '../errors.js';
import { detokenizeRun } from '../run/detokenize.js';
import type { Manifest } from '../run/manifest.js';
import { modelHash } from '../run/model-hash.js';
import { RunFolder } from '../run/run-folder.js';
import { addModelOptions, checkScales, option, scalesOption, wholeNumber } from './options.js';
import { count, Progress } from './progress.js';
import {
  bundledModel,
  interrupted,
  loadModel,
  type ModelOptions,
  printJson,
  say,
  usageError,
} from './session.js';
import { checkFolder, makeFolder } from './targets.js';

interface DetokenizeCommandOptions extends ModelOptions {
  out: string;
  otherModel?: boolean;
  scales?: number;
  limit?: number;
}

async function detokenize(source: string, options: DetokenizeCommandOptions): Promise<void> {
  const { out, model: named, otherModel, scales, limit, batch, json, quiet } = options;
  if (otherModel && named === undefined) throw usageError('--other-model goes with --model');
  checkFolder(out);
  const folder = new RunFolder(source);
  const manifest = await folder.existingManifest();
  const model = await modelOf(manifest, options);
  const tokenizer = await loadModel(
    { config: undefined, ...options, model },
    { config: options.config ?? manifest.model.config },
  );
  try {
    checkShape(manifest, tokenizer, model);
    checkScales(scales, tokenizer);
    makeFolder(out);
    const progress = new Progress(process.stderr, quiet);
    progress.begin(Math.min(manifest.images, limit ?? Number.POSITIVE_INFINITY), 1);
    const run = {
      scales,
      limit,
      batchSize: batch,
      signal: interrupted,
      onImage: () => progress.images(1, 0),
    };
    const images = await detokenizeRun(folder, tokenizer, out, run).finally(() => progress.end());
    const { seconds } = progress.state;
    say(
      options,
      `${count(images, 'image')}, ${seconds.toFixed(1)} s, ${(images / seconds).toFixed(1)} images/s -> ${out}`,
    );
    if (json) printJson({ folder: source, out, images, scales: tokenizer.scales.slice(0, scales), seconds });
  } finally {
    await tokenizer.dispose();
  }
}

/** The model of the tokens: where it is said to be, else where it was, else the bundled one if that is it. */
async function modelOf({ model }: Manifest, options: DetokenizeCommandOptions): Promise<string> {
  const { model: named, otherModel } = options;
  if (named !== undefined && otherModel) return named;
  const made = model.sha256.slice(0, 12);
  const places = named !== undefined ? [named] : [model.path, bundledModel()];
  const others: string[] = [];
  for (const place of places) {
    if (place === undefined || (named === undefined && !existsSync(place))) continue;
    const found = await modelHash(place, interrupted);
    if (found === model.sha256) return place;
    others.push(`${place} is another, of sha256 ${found.slice(0, 12)}`);
  }
  if (named !== undefined || existsSync(model.path)) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `The tokens are of the model of sha256 ${made} (${model.path}), but ${others[0]}; name the right one with --model, ` +
        'or add --other-model if these are the same weights in another file',
    );
  }
  throw new TokenFlowError(
    'ERR_TOKENFLOW_IO',
    `The tokens are of the model ${model.path} (sha256 ${made}), which is not there; say where it is with --model`,
  );
}

function checkShape(
  { model }: Manifest,
  tokenizer: { tokenCount: number; codebookSize: number },
  path: string,
): void {
  const { tokenCount, codebookSize } = tokenizer;
  if (tokenCount === model.tokensPerImage && codebookSize === model.codebookSize) return;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected a model of ${model.tokensPerImage} tokens and ${model.codebookSize} codes, as the tokens are of, but ${path} ` +
      `has ${tokenCount} and ${codebookSize}; name the right one with --model`,
  );
}

export function detokenizeCommand(): Command {
  return addModelOptions(
    new Command('detokenize')
      .description('Turn a folder of token shards back into images.')
      .argument('<folder>', 'where tokenize put them')
      .addOption(
        option('-o, --out <folder>', 'where the images go, as PNG', '--out images').makeOptionMandatory(),
      )
      .addOption(
        option(
          '--other-model',
          'take the --model though its file is not the one that the tokens were made with, but a conversion of it, say',
          '--model converted.safetensors --other-model',
        ),
      )
      .addOption(scalesOption())
      .addOption(option('--limit <n>', 'the first n images only', '--limit 100').argParser(wholeNumber(1))),
  )
    .addHelpText('after', '\nExample:\n  tokenflow detokenize tokens --out images')
    .action(detokenize);
}

import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { TokenFlowError } from '../errors.js';
import { detokenizeRun } from '../run/detokenize.js';
import type { Manifest } from '../run/manifest.js';
import { RunFolder } from '../run/run-folder.js';
import { addModelOptions, checkScales, option, scalesOption, wholeNumber } from './options.js';
import { Progress } from './progress.js';
import { interrupted, loadModel, type ModelOptions, printJson, say } from './session.js';
import { checkFolder, makeFolder } from './targets.js';

interface DetokenizeCommandOptions extends ModelOptions {
  out: string;
  scales?: number;
  limit?: number;
}

async function detokenize(source: string, options: DetokenizeCommandOptions): Promise<void> {
  const { out, scales, limit, batch, json, quiet } = options;
  checkFolder(out);
  const folder = new RunFolder(source);
  const manifest = await folder.existingManifest();
  const model = modelOf(manifest, options);
  const tokenizer = await loadModel(
    { config: undefined, ...options, model },
    { config: options.config ?? manifest.model.config },
  );
  try {
    checkModel(manifest, tokenizer, model);
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
      `${images} images, ${seconds.toFixed(1)} s, ${(images / seconds).toFixed(1)} images/s -> ${out}`,
    );
    if (json) printJson({ folder: source, out, images, scales: tokenizer.scales.slice(0, scales), seconds });
  } finally {
    await tokenizer.dispose();
  }
}

/** The model that was named, else the one the tokens were made with. */
function modelOf({ model }: Manifest, options: DetokenizeCommandOptions): string {
  if (options.model !== undefined) return options.model;
  if (existsSync(model.path)) return model.path;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_IO',
    `The tokens are of the model ${model.path} (sha256 ${model.sha256}), which is not there; say where it is with --model`,
  );
}

function checkModel(
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
      .addOption(scalesOption())
      .addOption(option('--limit <n>', 'the first n images only', '--limit 100').argParser(wholeNumber(1))),
  )
    .addHelpText('after', '\nExample:\n  tokenflow detokenize tokens --out images')
    .action(detokenize);
}

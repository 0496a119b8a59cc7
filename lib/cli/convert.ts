import { existsSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { Command } from 'commander';
import { openCheckpoint, saveAsSafetensors } from '../checkpoint/checkpoint.js';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { openModel } from '../tokenizer/open-model.js';
import { jsonOption, option, quietOption } from './options.js';
import { type OutputOptions, printJson, say } from './session.js';
import { checkFolder, checkNotRead, makeFolder } from './targets.js';

interface ConvertOptions extends OutputOptions {
  out: string;
  config?: string;
  dtype?: 'f32' | 'f16' | 'bf16';
  force?: boolean;
}

const DTYPES = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

function convert(file: string, options: ConvertOptions): void {
  const { out, config, dtype, force } = options;
  const weights = path.join(out, 'model.safetensors');
  const settings = path.join(out, 'config.json');
  for (const target of [weights, settings]) {
    if (existsSync(target) && !force) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_IO',
        `${target} is there already; name another folder, or add --force`,
      );
    }
  }
  checkFolder(out);
  const started = performance.now();
  const checkpoint = openCheckpoint(file);
  try {
    const model = openModel(checkpoint, config, file);
    checkNotRead(weights, [checkpoint.path]);
    makeFolder(out);
    saveAsSafetensors(checkpoint, weights, { dtype: dtype && DTYPES[dtype], metadata: { format: 'pt' } });
    try {
      writeFileSync(settings, `${JSON.stringify(model.config, null, 2)}\n`);
    } catch (cause) {
      throw systemError('write', settings, cause);
    }
    const seconds = (performance.now() - started) / 1000;
    const tensors = checkpoint.tensors.size;
    say(options, `${tensors} tensors, ${seconds.toFixed(1)} s -> ${weights}, ${settings}`);
    if (options.json) printJson({ checkpoint: checkpoint.path, weights, config: settings, tensors, seconds });
  } finally {
    checkpoint.close();
  }
}

export function convertCommand(): Command {
  return new Command('convert')
    .description('Write a checkpoint as safetensors, with the config.json that completes it.')
    .argument('<checkpoint>', 'a checkpoint, or the folder it is in')
    .requiredOption(
      '-o, --out <folder>',
      'where model.safetensors and config.json go  (e.g. --out models/clipb)',
    )
    .addOption(
      option('--config <variant|path>', 'as of the other commands; is written out in full', '--config clipb'),
    )
    .addOption(
      option('--dtype <type>', 'type of the floating tensors; default: as they are', '--dtype f16').choices([
        'f32',
        'f16',
        'bf16',
      ]),
    )
    .addOption(option('--force', 'write over files that are there', '--force'))
    .addOption(jsonOption())
    .addOption(quietOption())
    .addHelpText(
      'after',
      '\nExample:\n  tokenflow convert tokenflow_clipb_32k_enhanced.pt --out models/clipb',
    )
    .action(convert);
}

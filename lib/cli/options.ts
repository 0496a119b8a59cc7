import { existsSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { nearestName } from '../errors.js';
import { VARIANTS } from '../tokenizer/config.js';
import { MAX_THREADS } from '../tokenizer/types.js';
import { usageError } from './session.js';

/** A whole number from `least` to `most`. */
export function wholeNumber(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number {
  const range = most === Number.MAX_SAFE_INTEGER ? `from ${least}` : `from ${least} to ${most}`;
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Expected a whole number ${range}.`);
  };
}

function device(text: string): string {
  if (/^(auto|cpu|cuda(:\d+)?)$/.test(text)) return text;
  throw new InvalidArgumentError('Expected auto, cpu, cuda or cuda:n.');
}

function config(text: string): string {
  if (Object.hasOwn(VARIANTS, text) || /[./\\]/.test(text) || existsSync(text)) return text;
  const known = Object.keys(VARIANTS);
  const hint = nearestName(text, known);
  throw new InvalidArgumentError(
    `${hint ? `Did you mean '${hint}'? ` : ''}Expected ${known.join(', ')} or a config.json.`,
  );
}

/** An option whose help ends in an example of its use. */
export function option(flags: string, description: string, example: string): Option {
  return new Option(flags, `${description}  (e.g. ${example})`);
}

export const jsonOption = (): Option =>
  option('--json', 'print the result as one line of JSON on stdout', '--json');
export const quietOption = (): Option =>
  option('--quiet', 'say nothing on stderr unless it is an error', '--quiet');

/** The options of a command that runs a model. */
export function addModelOptions(command: Command): Command {
  return command
    .addOption(
      option(
        '-m, --model <path>',
        'checkpoint (.pt, .pth, .safetensors, index) or the folder it is in; default: the bundled model',
        '--model tokenflow_clipb_32k_enhanced.pt',
      ),
    )
    .addOption(
      option(
        '--config <variant|path>',
        'clipb, clipb-256, siglip or a config.json; default: beside the checkpoint, else by its shapes',
        '--config clipb-256',
      ).argParser(config),
    )
    .addOption(
      option(
        '--device <device>',
        'auto, cpu, cuda or cuda:n; default: TOKENFLOW_DEVICE, else auto',
        '--device cpu',
      ).argParser(device),
    )
    .addOption(
      option('--precision <precision>', 'of the networks; the quantiser is always f32', '--precision bf16')
        .choices(['f32', 'bf16'])
        .default('f32'),
    )
    .addOption(
      option('--batch <n>', 'images per run; default: by the size of the model', '--batch 4').argParser(
        wholeNumber(1),
      ),
    )
    .addOption(
      option('--threads <n>', 'threads; default: the cores', '--threads 2').argParser(
        wholeNumber(1, MAX_THREADS),
      ),
    )
    .addOption(jsonOption())
    .addOption(quietOption());
}

export const fitOption = (): Option =>
  option(
    '--fit <fit>',
    'how a picture becomes a square: crop (official evaluation), squash or pad',
    '--fit squash',
  )
    .choices(['crop', 'squash', 'pad'])
    .default('crop');

export const maxPixelsOption = (): Option =>
  option(
    '--max-pixels <n>',
    'refuse images of more pixels before decoding them; default: 178956970',
    '--max-pixels 400000000',
  ).argParser(wholeNumber(1));

export const scalesOption = (): Option =>
  option('--scales <k>', 'use the first k scales only', '--scales 5').argParser(wholeNumber(1));

/** Checks `--scales` against the model, which knows how many there are. */
export function checkScales(asked: number | undefined, model: { readonly scales: readonly number[] }): void {
  const { scales } = model;
  if (asked === undefined || asked <= scales.length) return;
  throw usageError(
    `--scales: expected a whole number from 1 to ${scales.length}, since the scales of this model are ` +
      `${scales.join(', ')}, but received ${asked}`,
  );
}

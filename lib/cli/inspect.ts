import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { Command } from 'commander';
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import { readNpyHeader } from '../checkpoint/npy.js';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { tokenCount } from '../tokenizer/config.js';
import type { Model } from '../tokenizer/model.js';
import { openModel } from '../tokenizer/open-model.js';
import { readTokens } from './arrays.js';
import { type Inspection, inspectRun, inspectShard, isRunFolder, runOf, shardOf } from './inspect-run.js';
import { jsonOption, option, quietOption } from './options.js';
import { type OutputOptions, printJson } from './session.js';

interface InspectOptions extends OutputOptions {
  config?: string;
  tensors?: boolean;
}

const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const millions = (count: number): string => `${(count / 1e6).toFixed(2)} M`;
const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function isNpy(file: string): boolean {
  if (statSync(file).isDirectory()) return false;
  const magic = Buffer.alloc(6);
  const descriptor = openSync(file, 'r');
  try {
    return readSync(descriptor, magic, 0, 6, 0) === 6 && magic.toString('latin1') === '\x93NUMPY';
  } finally {
    closeSync(descriptor);
  }
}

/** What an array holds, as data and in words. */
async function inspectArray(file: string): Promise<Inspection> {
  const { descr, shape } = readNpyHeader(file);
  if (/^[iu]/.test(descr) && shape.length <= 2) return inspectTokens(file, descr);
  return {
    data: { kind: 'array', path: file, dtype: descr, shape },
    lines: [`${file}: an array of type ${descr} and shape [${shape.join(', ')}]`],
  };
}

async function inspectTokens(file: string, descr: string): Promise<Inspection> {
  const { tokens, shape } = await readTokens(file);
  let [least, most] = [tokens[0], tokens[0]];
  for (const token of tokens) {
    least = Math.min(least, token);
    most = Math.max(most, token);
  }
  const distinct = new Set(tokens).size;
  const run = await runOf(file);
  return {
    data: { kind: 'tokens', path: file, dtype: descr, shape, least, most, distinct, ...run.data },
    lines: [
      `${file}: tokens of ${shape[0]} ${shape[0] === 1 ? 'image' : 'images'}, ${shape[1]} each (${descr})`,
      `  values ${least} to ${most}, ${distinct} different ones`,
      ...run.lines,
    ],
  };
}

const PARTS = {
  'pixel encoder': /^(encoder|quant_conv)\./,
  'semantic encoder': /^(encoder_vqkd|encode_task_layer|scaling_layer)\./,
  codebooks: /^quantize\.embedding/,
  'pixel decoder': /^(decoder|post_quant_conv)\./,
  'semantic decoder': /^(decoder_vqkd|decode_task_layer)\./,
};

/** What a checkpoint holds. */
function inspectCheckpoint(file: string, options: InspectOptions): Inspection {
  const checkpoint = openCheckpoint(file);
  try {
    const tensors = [...checkpoint.tensors];
    const parameters = tensors.reduce((sum, [, { shape }]) => sum + elements(shape), 0);
    const bytes = tensors.reduce((sum, [, { byteLength }]) => sum + byteLength, 0);
    const dtypes = [...new Set(tensors.map(([, { dtype }]) => dtype))];
    const found = modelIn(checkpoint, options.config, file);
    const data = {
      kind: 'checkpoint',
      path: checkpoint.path,
      format: checkpoint.format,
      wrapper: checkpoint.wrapper,
      tensors: tensors.length,
      parameters,
      bytes,
      dtypes,
      model: found.model ? describeModel(found.model) : null,
      ...(found.reason ? { reason: found.reason } : {}),
      ...(options.tensors
        ? { shapes: Object.fromEntries(tensors.map(([name, { dtype, shape }]) => [name, { dtype, shape }])) }
        : {}),
    };
    const lines = [
      `${checkpoint.path}: ${checkpoint.format}, state dict ${checkpoint.wrapper === 'bare' ? 'bare' : `under '${checkpoint.wrapper}'`}`,
      `  ${tensors.length} tensors, ${millions(parameters)} elements, ${megabytes(bytes)}, ${dtypes.join(', ')}`,
      ...(found.model ? modelLines(found.model, checkpoint) : [`  no TokenFlow model: ${found.reason}`]),
      ...(options.tensors
        ? tensors.map(([name, { dtype, shape }]) => `  ${name} ${dtype} [${shape.join(', ')}]`)
        : []),
    ];
    return { data, lines };
  } finally {
    checkpoint.close();
  }
}

function modelIn(
  checkpoint: Checkpoint,
  config: string | undefined,
  file: string,
): { model?: Model; reason?: string } {
  try {
    return { model: openModel(checkpoint, config, file) };
  } catch (error) {
    // Not being a model is a finding here; a configuration that cannot be read is still a failure.
    if (error instanceof TokenFlowError && error.code === 'ERR_TOKENFLOW_CHECKPOINT') {
      return { reason: error.message.replace(/\s*\n\s*/g, ' ') };
    }
    throw error;
  }
}

function describeModel(model: Model) {
  return {
    ...model.config,
    grid: model.grid,
    tokens: tokenCount(model.scales),
    semanticWidth: model.semanticWidth,
    pixelDecoder: model.pixelDecoder.levels.map(({ channels, blocks }) => ({ channels, blocks })),
  };
}

function modelLines(model: Model, checkpoint: Checkpoint): string[] {
  const { config, scales, codebookSize, semanticCodeDim, pixelCodeDim, semanticEncoder: vision } = model;
  const parts = Object.entries(PARTS).map(([part, names]) => {
    let count = 0;
    for (const [name, { shape }] of checkpoint.tensors) if (names.test(name)) count += elements(shape);
    return `${part} ${millions(count)}`;
  });
  const decoder = model.pixelDecoder.levels.map(({ channels, blocks }) => `${blocks}x${channels}`).join(', ');
  return [
    `  TokenFlow (teacher ${config.teacher}): images of ${model.imageSize} px, ${tokenCount(scales)} tokens`,
    `  scales ${scales.join(', ')}`,
    `  ${codebookSize} codes of ${semanticCodeDim} semantic and ${pixelCodeDim} pixel dimensions`,
    `  semantic encoder: ${vision.layers} blocks of width ${vision.width}, patches of ${vision.patch} px`,
    `  pixel decoder: residual blocks ${decoder}`,
    `  ${parts.join(', ')}`,
  ];
}

async function inspect(file: string, options: InspectOptions): Promise<void> {
  const { data, lines } = await inspection(file, options);
  if (options.json) printJson(data);
  else process.stdout.write(`${lines.join('\n')}\n`);
}

async function inspection(file: string, options: InspectOptions): Promise<Inspection> {
  let [array, run] = [false, false];
  try {
    array = isNpy(file);
    run = isRunFolder(file);
  } catch (cause) {
    throw systemError('open', file, cause);
  }
  if (array) return inspectArray(file);
  if (run) return inspectRun(file);
  const shard = shardOf(file);
  const tokens = shard && (shard.format !== 'safetensors' || holdsTokens(file));
  return tokens ? inspectShard(file, shard.format, shard.base) : inspectCheckpoint(file, options);
}

/** Whether a safetensors file is a shard of tokens and no checkpoint. */
function holdsTokens(file: string): boolean {
  const checkpoint = openCheckpoint(file);
  try {
    return (
      checkpoint.tensors.size === 2 && checkpoint.tensors.has('tokens') && checkpoint.tensors.has('sizes')
    );
  } finally {
    checkpoint.close();
  }
}

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('Say what a checkpoint, a run of tokenize or a file of tokens holds.')
    .argument(
      '<checkpoint|tokens>',
      'a checkpoint or the folder it is in; the folder of a run or a shard of it; tokens (or any array) as .npy',
    )
    .addOption(option('--config <variant|path>', 'as of the other commands', '--config clipb'))
    .addOption(option('--tensors', 'list every tensor with its type and shape', 'inspect model.pt --tensors'))
    .addOption(jsonOption())
    .addOption(quietOption())
    .addHelpText(
      'after',
      '\nExamples:\n  tokenflow inspect tokenflow_clipb_32k_enhanced.pt\n  tokenflow inspect tokens',
    )
    .action(inspect);
}

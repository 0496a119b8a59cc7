/** Options that `tokenize` and `queue submit` share: what the tokens of a run depend on. */
import type { Command } from 'commander';
import { hasDtype, noDtypeOf, TOKEN_FORMATS } from '../dataset/sink.js';
import { ColumnError } from '../dataset/sources/parquet.js';
import type { Manifest, RunSettings } from '../run/manifest.js';
import type { RunFolder } from '../run/run-folder.js';
import { type PreparedRun, prepareRun, type RunRequest } from '../run/tokenize-run.js';
import { fitOption, maxPixelsOption, option, wholeNumber } from './options.js';
import { count } from './progress.js';
import { CommandFailed, interrupted, type ModelOptions, modelPath, usageError } from './session.js';

export interface RunCommandOptions extends ModelOptions, Partial<RunSettings> {
  out: string;
  glob?: string;
  shardSize?: number;
}

export function addRunOptions(command: Command): Command {
  return command
    .addOption(option('-o, --out <folder>', 'where the shards go', '--out tokens').makeOptionMandatory())
    .addOption(
      option('--format <format>', `${TOKEN_FORMATS.join(', ')}; default: npy`, '--format webdataset').choices(
        TOKEN_FORMATS,
      ),
    )
    .addOption(
      option(
        '--dtype <type>',
        'of the tokens where the format has a choice; default: uint16 where they fit',
        '--dtype int32',
      ).choices(['uint16', 'int32']),
    )
    .addOption(
      option(
        '--shard-size <n>',
        'the most images in a shard; default: 10000, and a tar is one shard',
        '--shard-size 5000',
      ).argParser(wholeNumber(1)),
    )
    .addOption(
      option('--glob <pattern>', 'of a folder, take the files that match it', "--glob 'train/**/*.png'"),
    )
    .addOption(
      option(
        '--image <name>',
        'the column (Parquet) or member extension (tar) that is the image',
        '--image jpg',
      ),
    )
    .addOption(option('--id <column>', 'the column of ids (Parquet); default: FILE/ROW', '--id image_id'))
    .addOption(fitOption())
    .addOption(maxPixelsOption());
}

/**
 * Plans the run that was asked for and takes its folder.
 *
 * @param goOn whether the folder may hold the same run already
 */
export async function prepared(
  sources: readonly string[],
  options: RunCommandOptions,
  command: Command,
  goOn: boolean,
): Promise<PreparedRun> {
  const { format, dtype, out } = options;
  if (format && dtype && !hasDtype(format)) throw usageError(`--dtype ${noDtypeOf(format)}`);
  try {
    return await prepareRun(out, runRequest(sources, options, command), goOn, interrupted);
  } catch (error) {
    throw error instanceof ColumnError ? usageError(error.message) : error;
  }
}

/** Fails when there was something to tokenize, and nothing came of it. */
export async function nothingTokenized(
  { images, errors, complete }: Manifest,
  folder: RunFolder,
): Promise<void> {
  if (images > 0 || (errors === 0 && !complete)) return;
  if (errors === 0) throw new CommandFailed('the sources hold no images');
  const first = await folder.firstError();
  throw new CommandFailed(`none of ${count(errors, 'image')} could be read; the first: ${first?.message}`);
}

/** What was asked for; options that were not named are left open. */
function runRequest(sources: readonly string[], options: RunCommandOptions, command: Command): RunRequest {
  const named = <K extends keyof RunCommandOptions>(name: K): RunCommandOptions[K] | undefined =>
    command.getOptionValueSource(name) === 'default' ? undefined : options[name];
  const { format, dtype, maxPixels, image, id, glob, shardSize, config } = options;
  const settings = { format, dtype, maxPixels, image, id, fit: named('fit'), precision: named('precision') };
  return { sources, glob, shardSize, settings, model: modelPath(options), config };
}

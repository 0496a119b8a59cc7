import { existsSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { RunFolder } from '../run/run-folder.js';
import { type TokenizeResult, tokenizeRun } from '../run/tokenize-run.js';
import { addModelOptions, option, wholeNumber } from './options.js';
import { count, Progress } from './progress.js';
import { addRunOptions, nothingTokenized, prepared, type RunCommandOptions } from './run-options.js';
import { CommandFailed, interrupted, printJson, say, stopFirst, usageError } from './session.js';
import { checkFolder } from './targets.js';

interface TokenizeCommandOptions extends RunCommandOptions {
  resume?: boolean;
  workers: number;
  shard?: { index: number; of: number };
  strict?: boolean;
  retryErrors?: boolean;
}

/** `2/8`: the second of eight. */
function part(text: string): { index: number; of: number } {
  const [, index, of] = /^(\d+)\/(\d+)$/.exec(text) ?? [];
  if (Number(index) >= 1 && Number(index) <= Number(of)) return { index: Number(index), of: Number(of) };
  throw new InvalidArgumentError('Expected i/n with i from 1 to n.');
}

/** A run goes on with the model that it was begun with, unless another place is named: its hash is checked. */
async function resumed(options: TokenizeCommandOptions): Promise<TokenizeCommandOptions> {
  if (options.model !== undefined) return options;
  const manifest = await new RunFolder(options.out).manifest();
  if (manifest === undefined || !existsSync(manifest.model.path)) return options;
  return { config: manifest.model.config, ...options, model: manifest.model.path };
}

async function tokenize(sources: string[], asked: TokenizeCommandOptions, command: Command): Promise<void> {
  const options = asked.resume ? await resumed(asked) : asked;
  const {
    out,
    resume = false,
    workers,
    strict,
    retryErrors,
    shard,
    config,
    device,
    batch,
    threads,
    json,
    quiet,
  } = options;
  if (sources.length === 0 && !resume)
    throw usageError('name a source: a folder, a list, tars, Parquet files');
  if (retryErrors && !resume) throw usageError('--retry-errors goes with --resume');
  checkFolder(out);
  const stop = stopFirst();
  const run = await prepared(sources, options, command, resume || shard !== undefined);
  const progress = new Progress(process.stderr, quiet);
  stop.addEventListener('abort', () =>
    progress.say('finishing the shard that was begun; Ctrl-C again stops at once'),
  );
  let result: TokenizeResult;
  try {
    result = await tokenizeRun(run, {
      ...{ workers, strict, retryErrors, part: shard, stop, signal: interrupted },
      load: { config, device, threads, batchSize: batch },
      onBegin: (images, shards) => progress.begin(images, shards),
      onDamaged: (name, problem) => progress.say(`${name} is damaged (${problem}) and is made again`),
      onImages: (done, failed) => progress.images(done, failed),
      onShard: ({ name }) => progress.shard(name),
      onBroken: (error) => progress.say(`${error.shard} cannot be made: ${error.message}`),
    });
  } finally {
    progress.end();
  }
  const { manifest, made, broken, repeated } = result;
  const { seconds, images } = progress.state;
  const rate = seconds > 0 && images > 0 ? `, ${(images / seconds).toFixed(1)} images/s` : '';
  const errors = manifest.errors > 0 ? `, ${count(manifest.errors, 'error')} (errors.jsonl)` : '';
  const shards = `${manifest.shards.length} of ${count(manifest.plan.shards, 'shard')}`;
  say(
    options,
    `${shards}, ${count(manifest.images, 'image')}${errors}; ${seconds.toFixed(1)} s${rate} -> ${out}`,
  );
  if (repeated) {
    const ids = repeated.count === 1 ? '1 id stands' : `${repeated.count} ids stand`;
    say(options, `warning: ${ids} for more than one image of this run, '${repeated.example}' for instance`);
  }
  if (json) {
    printJson({
      out,
      complete: manifest.complete,
      images: manifest.images,
      errors: manifest.errors,
      shards: manifest.shards.length,
      plannedShards: manifest.plan.shards,
      made,
      repeatedIds: repeated?.count ?? 0,
      broken: broken.map(({ shard: name, message }) => ({ shard: name, message })),
      seconds,
    });
  }
  if (stop.aborted)
    throw new CommandFailed(`interrupted; go on with: tokenflow tokenize --resume --out ${out}`, 130);
  if (broken.length > 0) {
    const advice = 'mend their inputs and add --resume';
    throw new CommandFailed(
      `${broken.length} of ${count(manifest.plan.shards, 'shard')} could not be made; ${advice}`,
    );
  }
  await nothingTokenized(manifest, run.folder);
}

export function tokenizeCommand(): Command {
  return addModelOptions(
    addRunOptions(
      new Command('tokenize')
        .description('Turn a dataset into shards of tokens.')
        .argument(
          '[sources...]',
          'folders, patterns, lists (.txt, or - for stdin), tars, Parquet files, images; may be left out with --resume',
        ),
    )
      .addOption(option('--resume', 'go on with the run that the folder holds', '--resume'))
      .addOption(
        option(
          '--retry-errors',
          'with --resume, also make the shards again that have images in errors.jsonl',
          '--resume --retry-errors',
        ),
      )
      .addOption(
        option('--workers <n>', 'processes that share the threads', '--workers 2')
          .argParser(wholeNumber(1))
          .default(1),
      )
      .addOption(
        option(
          '--shard <i/n>',
          'make every n-th shard only, from the i-th on: the share of one of n machines',
          '--shard 1/4',
        ).argParser(part),
      )
      .addOption(option('--strict', 'stop at the first image that cannot be read', '--strict')),
  )
    .addHelpText(
      'after',
      `
Examples:
  tokenflow tokenize photos --out tokens --format webdataset
  tokenflow tokenize 'shard-{000000..000099}.tar' --out tokens --workers 2
  find photos -name '*.jpg' | tokenflow tokenize - --out tokens
  tokenflow tokenize --resume --out tokens`,
    )
    .action(tokenize);
}

import { Command, InvalidArgumentError } from 'commander';
import { DEFAULT_REDIS, type OnConnection } from '../queue/redis.js';
import { RunQueue } from '../queue/run-queue.js';
import { workOnQueue } from '../queue/work.js';
import { RunFolder } from '../run/run-folder.js';
import { localWorker } from '../run/shard-worker.js';
import { checkRunModel } from '../run/tokenize-run.js';
import { addModelOptions, jsonOption, option, quietOption, wholeNumber } from './options.js';
import { count, Progress } from './progress.js';
import { addRunOptions, nothingTokenized, prepared, type RunCommandOptions } from './run-options.js';
import {
  CommandFailed,
  interrupted,
  loadModel,
  type ModelOptions,
  type OutputOptions,
  printJson,
  say,
  stopFirst,
} from './session.js';
import { checkFolder } from './targets.js';

interface QueueOptions extends OutputOptions {
  out: string;
  redis: string;
}

/** `redis://host:port`, `rediss://host`, or the path of a socket. */
function redisUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (text.startsWith('/') || (url && ['redis:', 'rediss:'].includes(url.protocol) && url.hostname !== '')) {
    return text;
  }
  throw new InvalidArgumentError('Expected redis://host:port, rediss://host:port or the path of a socket.');
}

const redisOption = () =>
  option('--redis <url>', 'where Redis is', '--redis redis://queue.local:6379')
    .argParser(redisUrl)
    .default(DEFAULT_REDIS);
const outOption = () =>
  option(
    '-o, --out <folder>',
    'the folder of the run, shared by all workers',
    '--out tokens',
  ).makeOptionMandatory();

const inPlace = (done: number, all: number) =>
  `${done} of ${count(all, 'shard')} ${all === 1 ? 'is' : 'are'} in place`;

const tellConnection =
  (tell: (line: string) => void): OnConnection =>
  (state, reason) =>
    tell(state === 'lost' ? `Redis is gone (${reason}); waiting for it` : 'Redis is back');

async function submit(
  sources: string[],
  options: RunCommandOptions & QueueOptions,
  command: Command,
): Promise<void> {
  const { out, redis, json } = options;
  checkFolder(out);
  const { folder, shards } = await prepared(sources, options, command, true);
  await folder.removeAbandoned();
  await folder.forgetDamaged(
    shards,
    (name, problem) => say(options, `${name} is damaged (${problem}) and is made again`),
    interrupted,
  );
  const queue = await RunQueue.open(folder, redis);
  try {
    const missing = await queue.missing();
    await queue.submit(missing);
    say(
      options,
      `${missing.length} of ${count(queue.shards.length, 'shard')} ${missing.length === 1 ? 'is' : 'are'} queued; start workers: tokenflow queue work --out ${out}`,
    );
    if (json) printJson({ out, queued: missing.length, plannedShards: queue.shards.length });
  } finally {
    await queue.close();
  }
}

async function work(options: ModelOptions & QueueOptions & { lock: number }): Promise<void> {
  const { out, redis, lock, json, quiet, batch } = options;
  const stop = stopFirst();
  const folder = new RunFolder(out);
  const manifest = await folder.existingManifest();
  const { settings } = manifest;
  const model = options.model ?? manifest.model.path;
  await checkRunModel(manifest, { model, config: options.config ?? manifest.model.config }, interrupted);
  const progress = new Progress(process.stderr, quiet);
  const onConnection = tellConnection((line) => progress.say(line));
  const queue = await RunQueue.open(folder, redis, onConnection);
  const tokenizer = await loadModel(
    { ...options, model, precision: settings.precision },
    { config: options.config ?? manifest.model.config, preload: ['encode'] },
  );
  const maker = localWorker(tokenizer, { folder, settings, batchSize: batch, signal: interrupted });
  try {
    progress.begin(undefined, (await queue.missing()).length);
    const made = await workOnQueue(queue, maker, {
      ...{ redis, lock: lock * 1000, stop, signal: interrupted },
      onImages: (done, failed) => progress.images(done, failed),
      onShard: ({ name }) => progress.shard(name),
      onBroken: (error) => progress.say(`${error.shard} cannot be made: ${error.message}`),
    });
    progress.end();
    const summary = await folder.summarize();
    const { images } = progress.state;
    const state = inPlace(summary.shards.length, summary.plan.shards);
    say(options, `${count(made, 'shard')}, ${count(images, 'image')} made here; ${state}`);
    if (json) printJson({ out, made, images, complete: summary.complete, shards: summary.shards.length });
    if (stop.aborted) throw new CommandFailed('interrupted; other workers go on', 130);
    if (!summary.complete) {
      const failures = await queue.failures();
      throw new CommandFailed(
        `${count(failures.length, 'shard')} could not be made, the first is ${failures[0]?.shard}: ${failures[0]?.message}; ` +
          'mend their inputs and submit again',
      );
    }
    await nothingTokenized(summary, folder);
  } finally {
    progress.end();
    await maker.close();
    await queue.close();
  }
}

async function status(options: QueueOptions): Promise<void> {
  const { out, redis, json } = options;
  const folder = new RunFolder(out);
  const queue = await RunQueue.open(folder, redis);
  try {
    const done = queue.shards.length - (await queue.missing()).length;
    const counts = await queue.counts();
    const failures = await queue.failures();
    const result = { out, plannedShards: queue.shards.length, inPlace: done, ...counts, failures };
    if (json) {
      printJson(result);
      return;
    }
    const { waiting, active, failed } = counts;
    const lines = [
      `${out}: ${inPlace(done, queue.shards.length)}`,
      `  ${waiting} waiting, ${active} being made, ${failed} failed`,
      ...failures.map(({ shard, message }) => `  ${shard}: ${message}`),
    ];
    process.stdout.write(`${lines.join('\n')}\n`);
  } finally {
    await queue.close();
  }
}

export function queueCommand(): Command {
  const example = (text: string) => `\nExample:\n  tokenflow queue ${text}`;
  return new Command('queue')
    .description('Tokenize a dataset on several machines that share a folder and a Redis.')
    .addCommand(
      addModelOptions(
        addRunOptions(
          new Command('submit')
            .description('Plan a run and queue its shards.')
            .argument('[sources...]', 'as of tokenize; may be left out to queue again what is missing'),
        ).addOption(redisOption()),
      )
        .addHelpText('after', example('submit /data/photos --out /data/tokens'))
        .action(submit),
    )
    .addCommand(
      addModelOptions(
        new Command('work')
          .description('Make queued shards until all are in place.')
          .addOption(outOption())
          .addOption(redisOption())
          .addOption(
            option(
              '--lock <seconds>',
              'a worker that is not heard of for so long has its shard taken over',
              '--lock 60',
            )
              .argParser(wholeNumber(1))
              .default(30),
          ),
      )
        .addHelpText('after', example('work --out /data/tokens'))
        .action(work),
    )
    .addCommand(
      new Command('status')
        .description('Say how far the run is.')
        .addOption(outOption())
        .addOption(redisOption())
        .addOption(jsonOption())
        .addOption(quietOption())
        .addHelpText('after', example('status --out /data/tokens'))
        .action(status),
    )
    .addHelpText('after', example('work --out /data/tokens --redis redis://queue.local:6379'));
}

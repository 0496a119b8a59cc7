/** A whole run: sources to a folder of token shards, from the beginning or from where it was left. */
import { availableParallelism } from 'node:os';
import { findInputs } from '../dataset/find-inputs.js';
import { type PlannedShard, plannedImages, planShards } from '../dataset/plan.js';
import { TokenFlowError } from '../errors.js';
import { loadSharp } from '../image/sharp.js';
import { packageVersion } from '../package-version.js';
import { TokenFlow } from '../tokenizer/tokenflow.js';
import type { LoadOptions } from '../tokenizer/types.js';
import { difference, type Manifest, type RunIdentity, type RunModel, type RunSettings } from './manifest.js';
import { modelHash } from './model-hash.js';
import { processWorker } from './process-worker.js';
import { type RepeatedIds, repeatedIds } from './repeated-ids.js';
import { RunFolder, type ShardRecord } from './run-folder.js';
import { runShards } from './run-shards.js';
import { localWorker, type ShardWorker } from './shard-worker.js';
import type { BrokenInputError } from './tokenize-shard.js';

/** What the tokens of a run depend on, as a user says it; what is left out is as in the run's manifest, or the default. */
export interface RunRequest {
  /** As for `findInputs`; may be left out to go on with a run. */
  sources: readonly string[];
  glob?: string;
  shardSize?: number;
  settings: Partial<RunSettings>;
  /** Path of the checkpoint. */
  model: string;
  config?: LoadOptions['config'];
}

export interface PreparedRun {
  folder: RunFolder;
  settings: RunSettings;
  model: string;
  shards: PlannedShard[];
}

/**
 * Plans a run and takes its folder.
 *
 * @param goOn whether the folder may hold the same run already
 * @throws TokenFlowError as `findInputs`, `planShards`, `TokenFlow.load`, `RunFolder.begin`
 */
export async function prepareRun(
  out: string,
  request: RunRequest,
  goOn: boolean,
  signal?: AbortSignal,
): Promise<PreparedRun> {
  loadSharp(); // without it every single image would be an error
  const folder = new RunFolder(out);
  const { sources, glob, shardSize } = request;
  const before = sources.length === 0 ? await folder.existingManifest() : undefined;
  const settings: RunSettings = {
    ...{ format: 'npy', precision: 'f32', fit: 'crop' },
    ...before?.settings,
    ...defined(request.settings),
  };
  const plan = before
    ? { shards: await folder.plan(), sha256: before.plan.sha256 }
    : await planShards(await findInputs(sources, { glob }), {
        shardSize,
        image: settings.image,
        id: settings.id,
      });
  const identity: RunIdentity = {
    tokenflow: packageVersion(),
    model: await describeModel(request, signal),
    settings,
    sources: before?.sources ?? [...sources],
    plan: { sha256: plan.sha256, shards: plan.shards.length },
  };
  await folder.begin(identity, plan, goOn);
  return { folder, settings, model: request.model, shards: plan.shards };
}

function defined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/** What a model is, without reading its weights into memory. */
export async function describeModel(
  { model, config }: Pick<RunRequest, 'model' | 'config'>,
  signal?: AbortSignal,
): Promise<RunModel> {
  await using opened = await TokenFlow.load(model, { config, device: 'cpu', signal });
  return {
    path: model,
    sha256: await modelHash(model, signal),
    config: opened.config,
    tokensPerImage: opened.tokenCount,
    codebookSize: opened.codebookSize,
  };
}

/** Refuses a model that is not the run's. @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT */
export async function checkRunModel(
  manifest: Manifest,
  request: Pick<RunRequest, 'model' | 'config'>,
  signal?: AbortSignal,
): Promise<void> {
  const model = await describeModel(request, signal);
  const differs = difference(manifest, { ...manifest, model, tokenflow: packageVersion() });
  if (differs === undefined) return;
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `${request.model} cannot go on with the run: ${differs}; name the right model with --model`,
  );
}

export interface RunEvents {
  /** Images that the shards to be made have, where that is known without reading them, and how many shards there are. */
  onBegin?: (images: number | undefined, shards: number) => void;
  /** A shard of before whose files are not as they were written; it is made again. */
  onDamaged?: (shard: string, problem: string) => void;
  onImages?: (done: number, failed: number) => void;
  onShard?: (record: ShardRecord) => void;
  onBroken?: (error: BrokenInputError) => void;
}

export interface TokenizeOptions extends RunEvents {
  /** Make every `of`-th shard only, from the `index`-th on, which counts from 1. */
  part?: { index: number; of: number };
  /** Processes that make shards; with 1 it is this one. Default 1. */
  workers?: number;
  /** Of the model: where and how it runs. `threads` is for all workers together. */
  load: Pick<LoadOptions, 'device' | 'config' | 'threads' | 'batchSize' | 'onProgress'>;
  strict?: boolean;
  /** Make the shards that have errors again too: what could not be read may be there now. */
  retryErrors?: boolean;
  /** Begin no more shards once it is aborted, and finish those under way. */
  stop?: AbortSignal;
  /** End at once. */
  signal?: AbortSignal;
}

export interface TokenizeResult {
  manifest: Manifest;
  /** Shards that were made now. */
  made: number;
  /** Shards that could not be made, as their input is broken. */
  broken: BrokenInputError[];
  /** Ids that stand for more than one image, looked for when the run has become complete. */
  repeated?: RepeatedIds;
}

/** Whether images of different shards may have the same id: paths of files are checked when they are found. */
function mayRepeatIds(shards: readonly PlannedShard[]): boolean {
  return shards.length > 1 && shards.some(({ input }) => input.kind !== 'files');
}

/** Makes the shards that are not in place, and brings the manifest up to date, whatever happens. */
export async function tokenizeRun(run: PreparedRun, options: TokenizeOptions): Promise<TokenizeResult> {
  const { folder, shards } = run;
  const { part, workers = 1, retryErrors = false, signal, stop, onBegin, onDamaged, ...events } = options;
  const mine = part ? shards.filter((_, i) => i % part.of === part.index - 1) : shards;
  await folder.removeAbandoned();
  await folder.forgetDamaged(mine, onDamaged, signal);
  const records = await folder.records(mine);
  const left = mine.filter(({ name }) => {
    const record = records.get(name);
    return record === undefined || (retryErrors && record.errors.length > 0);
  });
  const counts = left.map(plannedImages);
  const known = counts.every((count) => count !== undefined);
  onBegin?.(known ? counts.reduce((sum, count) => sum + count, 0) : undefined, left.length);

  const failing = new AbortController();
  const ending = signal ? AbortSignal.any([signal, failing.signal]) : failing.signal;
  const hands = left.length === 0 ? [] : await hire(run, Math.min(workers, left.length), options, ending);
  try {
    const { made, broken } = await runShards(left, hands, {
      stop,
      ...events,
      onFatal: () => failing.abort(),
    });
    const manifest = await folder.summarize();
    const looked = made > 0 && manifest.complete && mayRepeatIds(shards);
    const repeated = looked ? await repeatedIds(folder, manifest, signal) : undefined;
    return { manifest, made, broken, repeated };
  } catch (error) {
    await folder.summarize().catch(() => {}); // the error that ended the run is the one to tell
    throw error;
  } finally {
    await Promise.all(hands.map((worker) => worker.close()));
  }
}

async function hire(
  { folder, settings, model }: PreparedRun,
  count: number,
  { load, strict = false }: TokenizeOptions,
  signal: AbortSignal,
): Promise<ShardWorker[]> {
  const { precision } = settings;
  if (count === 1) {
    const tokenizer = await TokenFlow.load(model, { ...load, precision, preload: ['encode'], signal });
    return [localWorker(tokenizer, { folder, settings, strict, signal })];
  }
  const { device, config, batchSize } = load;
  const threads = Math.max(1, Math.floor((load.threads ?? availableParallelism()) / count));
  const task = {
    ...{ folder: folder.path, settings, strict, model },
    load: { device, config, batchSize, precision, threads },
  };
  return Array.from({ length: count }, () => processWorker(task, signal));
}

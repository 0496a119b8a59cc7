/** Whether a folder of token shards holds what its manifest says. */
import { readdir } from 'node:fs/promises';
import { type PlannedShard, plannedImages } from '../dataset/plan.js';
import { readShard, shardPaths } from '../dataset/sink.js';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { damage } from './damage.js';
import type { Manifest, ShardSummary } from './manifest.js';
import type { RunFolder } from './run-folder.js';

export interface Verification {
  /** Shards that are finished, with the images that have tokens and those that have none. */
  shards: number;
  images: number;
  errors: number;
  /** What is wrong, a sentence each; empty when all is well. */
  problems: string[];
}

export interface VerifyOptions {
  signal?: AbortSignal;
  onShard?: (name: string, problems: readonly string[]) => void;
}

/**
 * Checks every shard that is finished: that its files are there with the bytes they were written with, that they hold as many
 * images as was recorded, each with as many tokens as the model has, in the range of its codebook; that no shard is missing,
 * that every image of the plan has tokens or an error, and that no other shards lie about.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT when there is no manifest to go by
 */
export async function verifyRun(
  folder: RunFolder,
  { signal, onShard }: VerifyOptions = {},
): Promise<Verification> {
  const manifest = await folder.existingManifest();
  const plan = await folder.plan();
  const planned = new Map(plan.map((shard) => [shard.name, shard]));
  const shards = await folder.shards(manifest, plan);
  const problems: string[] = [];
  let whole = 0;
  for (const shard of shards) {
    const found = await shardProblems(folder, shard, manifest, signal);
    const intended = planned.get(shard.name);
    const images = intended && plannedImages(intended);
    if (!intended) found.push('is not in the plan');
    if (images !== undefined && images !== shard.images + shard.errors) {
      found.push(`${images} images were planned, but ${shard.images} have tokens and ${shard.errors} errors`);
    }
    if (found.length === 0) whole++;
    problems.push(...found.map((problem) => `${shard.name}: ${problem}`));
    onShard?.(shard.name, found);
  }
  const missing = plan.length - shards.filter(({ name }) => planned.has(name)).length;
  if (missing > 0) {
    const add = missing === 1 ? 'add it' : 'add them';
    problems.unshift(
      `${whole} of ${plan.length} shards are there and whole, ${missing} not made yet; ${add} with --resume`,
    );
  } else if (manifest.shards.length < shards.length) {
    problems.unshift(
      `manifest.json lists ${manifest.shards.length} of the ${shards.length} shards that are there; bring it up to date with --resume`,
    );
  }
  const sum = (of: 'images' | 'errors') => shards.reduce((total, shard) => total + shard[of], 0);
  const [images, errors] = [sum('images'), sum('errors')];
  problems.push(...(await errorListProblems(folder, manifest, errors)));
  problems.push(...(await strayFiles(folder, manifest, shards, plan)));
  return { shards: shards.length, images, errors, problems };
}

const REMAKE = 'make it again with --resume';

async function shardProblems(
  folder: RunFolder,
  { name, images, files }: ShardSummary,
  { settings, model }: Manifest,
  signal?: AbortSignal,
): Promise<string[]> {
  const damaged = await damage(folder.path, files, signal);
  if (damaged) return [`${damaged}; ${REMAKE}`];
  if (files.length === 0) return images === 0 ? [] : [`it has no files, but ${images} images`];
  let count = 0;
  try {
    for await (const { id, tokens } of readShard(settings.format, folder.shardBase(name))) {
      signal?.throwIfAborted();
      count++;
      if (tokens.length !== model.tokensPerImage) {
        return [`'${id}' has ${tokens.length} tokens instead of ${model.tokensPerImage}`];
      }
      const wrong = tokens.find((token) => token < 0 || token >= model.codebookSize);
      if (wrong !== undefined)
        return [`'${id}' has the token ${wrong}, out of 0 to ${model.codebookSize - 1}`];
    }
  } catch (error) {
    if (!(error instanceof TokenFlowError)) throw error;
    return [error.message];
  }
  return count === images ? [] : [`it holds ${count} images instead of ${images}`];
}

/** The list is written with the manifest, so it may be older than the shards of a run that was killed. */
async function errorListProblems(folder: RunFolder, manifest: Manifest, errors: number): Promise<string[]> {
  const lines = await folder.errorLines();
  if (lines === undefined) {
    return manifest.complete || manifest.errors > 0 ? [`errors.jsonl is missing; ${REMAKE}`] : [];
  }
  if (lines === manifest.errors || (!manifest.complete && lines === errors)) return [];
  return [
    `errors.jsonl has ${lines} ${lines === 1 ? 'line' : 'lines'} instead of ${manifest.errors}; ${REMAKE}`,
  ];
}

/** Files that look like shards and are none of this run's. */
async function strayFiles(
  folder: RunFolder,
  { settings }: Manifest,
  shards: readonly ShardSummary[],
  plan: readonly PlannedShard[],
): Promise<string[]> {
  const own = new Set(shards.flatMap(({ files }) => files.map(({ name }) => name)));
  const finished = new Set(shards.map(({ name }) => name));
  for (const { name } of plan) {
    if (finished.has(name)) continue;
    // Being made, or as a process left them that was killed before it recorded them.
    for (const file of shardPaths(settings.format, folder.shardBase(name))) own.add(folder.nameOf(file));
  }
  let names: string[];
  try {
    names = await readdir(folder.path);
  } catch (cause) {
    throw systemError('read', folder.path, cause);
  }
  const stray = names.filter((name) => /^shard-\d+\./.test(name) && !own.has(name)).sort();
  return stray.map(
    (name) => `${name} is not of this run, but a pattern such as shard-*.* would load it; remove it`,
  );
}

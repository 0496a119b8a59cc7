/** Whether a folder of token shards holds what its manifest says. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { plannedImages } from '../dataset/plan.js';
import { readShard } from '../dataset/sink.js';
import { TokenFlowError } from '../errors.js';
import type { Manifest, ShardSummary } from './manifest.js';
import type { RunFolder } from './run-folder.js';

export interface Verification {
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
 * Checks every shard: that its files are there with the bytes they were written with, that they hold as many images as was
 * recorded, each with as many tokens as the model has, in the range of its codebook; that no shard is missing, and that every
 * image of the plan has tokens or an error.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT when there is no manifest to go by
 */
export async function verifyRun(
  folder: RunFolder,
  { signal, onShard }: VerifyOptions = {},
): Promise<Verification> {
  const manifest = await folder.existingManifest();
  const planned = new Map((await folder.plan()).map((shard) => [shard.name, shard]));
  const problems: string[] = [];
  const present = new Set(manifest.shards.map(({ name }) => name));
  const missing = [...planned.keys()].filter((name) => !present.has(name));
  if (missing.length > 0) {
    problems.push(
      `${missing.length} of ${planned.size} shards are missing, the first is ${missing[0]}; add them with --resume`,
    );
  }
  for (const shard of manifest.shards) {
    const found = await shardProblems(folder, shard, manifest, signal);
    const plan = planned.get(shard.name);
    const images = plan && plannedImages(plan);
    if (!plan) found.push('is not in the plan');
    if (images !== undefined && images !== shard.images + shard.errors) {
      found.push(`${images} images were planned, but ${shard.images} have tokens and ${shard.errors} errors`);
    }
    problems.push(...found.map((problem) => `${shard.name}: ${problem}`));
    onShard?.(shard.name, found);
  }
  problems.push(...(await errorListProblems(folder, manifest)));
  return { shards: manifest.shards.length, images: manifest.images, errors: manifest.errors, problems };
}

async function shardProblems(
  folder: RunFolder,
  { name, images, files }: ShardSummary,
  { settings, model }: Manifest,
  signal?: AbortSignal,
): Promise<string[]> {
  for (const { name: file, bytes, sha256 } of files) {
    const found = await fingerprint(path.join(folder.path, file), signal);
    if (!found) return [`${file} is missing`];
    if (found.bytes !== bytes) return [`${file} has ${found.bytes} bytes instead of ${bytes}`];
    if (found.sha256 !== sha256)
      return [`${file} is damaged: its checksum is not the one it was written with`];
  }
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

async function fingerprint(
  file: string,
  signal?: AbortSignal,
): Promise<{ bytes: number; sha256: string } | undefined> {
  const hash = createHash('sha256');
  const stream = createReadStream(file, { highWaterMark: 2 ** 20 });
  try {
    await pipeline(stream, hash, { signal });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return { bytes: stream.bytesRead, sha256: hash.digest('hex') };
}

async function errorListProblems(folder: RunFolder, { errors }: Manifest): Promise<string[]> {
  let text: string;
  try {
    text = await readFile(path.join(folder.path, 'errors.jsonl'), 'utf8');
  } catch (error) {
    return [`errors.jsonl cannot be read: ${(error as Error).message}`];
  }
  const lines = text.split('\n').filter((line) => line !== '').length;
  return lines === errors ? [] : [`errors.jsonl has ${lines} lines instead of ${errors}`];
}

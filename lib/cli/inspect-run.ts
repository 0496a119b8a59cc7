/** What `tokenize` has written: the folder of a run, and its shards. */
import { existsSync, statSync } from 'node:fs';
import * as path from 'node:path';
import { readShard, type TokenFormat } from '../dataset/sink.js';
import { RunFolder } from '../run/run-folder.js';
import { count } from './progress.js';
import { interrupted } from './session.js';

/** What something holds, as data and in words. */
export interface Inspection {
  data: object;
  lines: string[];
}

export function isRunFolder(folder: string): boolean {
  return statSync(folder).isDirectory() && existsSync(path.join(folder, 'manifest.json'));
}

export async function inspectRun(folder: string): Promise<Inspection> {
  const run = new RunFolder(folder);
  const manifest = await run.existingManifest();
  const { model, settings, sources, plan, tokenflow } = manifest;
  const shards = await run.shards(manifest, manifest.complete ? [] : await run.plan());
  const sum = (of: 'images' | 'errors') => shards.reduce((total, shard) => total + shard[of], 0);
  const [images, errors] = [sum('images'), sum('errors')];
  const complete = shards.length === plan.shards;
  const { path: modelPath, sha256, tokensPerImage, codebookSize } = model;
  return {
    data: {
      ...{ kind: 'run', path: folder, complete, images, errors, shards: shards.length },
      ...{ plannedShards: plan.shards, settings, sources, tokenflow },
      model: { path: modelPath, sha256, tokensPerImage, codebookSize },
    },
    lines: [
      `${folder}: a run of tokenflow ${tokenflow}, ${complete ? 'complete' : 'not finished; go on with --resume'}`,
      `  ${count(images, 'image')} of ${tokensPerImage} tokens each, ${count(errors, 'error')}`,
      `  ${shards.length} of ${count(plan.shards, 'shard')}, ${settings.format}`,
      `  model ${modelPath}, sha256 ${sha256}, ${codebookSize} codes`,
      `  of ${sources.join(' ')}`,
    ],
  };
}

const EXTENSIONS: readonly (readonly [string, TokenFormat])[] = [
  ['.parquet', 'parquet'],
  ['.tar', 'webdataset'],
  ['.safetensors', 'safetensors'],
  ['.ids.jsonl', 'npy'],
  ['.jsonl', 'jsonl'],
];

/** The shard that a file's name may be one of; its content says whether it is. */
export function shardOf(file: string): { format: TokenFormat; base: string } | undefined {
  const found = EXTENSIONS.find(([extension]) => file.endsWith(extension));
  return found && { format: found[1], base: file.slice(0, -found[0].length) };
}

/** @throws TokenFlowError ERR_TOKENFLOW_FORMAT when it is none, or damaged */
export async function inspectShard(file: string, format: TokenFormat, base: string): Promise<Inspection> {
  let images = 0;
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  const lengths = new Set<number>();
  const distinct = new Set<number>();
  for await (const { tokens } of readShard(format, base)) {
    interrupted.throwIfAborted();
    images++;
    lengths.add(tokens.length);
    for (const token of tokens) {
      least = Math.min(least, token);
      most = Math.max(most, token);
      distinct.add(token);
    }
  }
  const tokensPerImage = [...lengths].sort((a, b) => a - b);
  const values = images > 0 ? { least, most, distinct: distinct.size } : {};
  const run = await runOf(file);
  return {
    data: { kind: 'shard', path: file, format, images, tokensPerImage, ...values, ...run.data },
    lines: [
      `${file}: a shard of tokens (${format}), ${count(images, 'image')}, ${tokensPerImage.join(' or ')} tokens each`,
      ...(images > 0 ? [`  values ${least} to ${most}, ${distinct.size} different ones`] : []),
      ...run.lines,
    ],
  };
}

/** The model of a shard: the shard itself does not say, the manifest beside it does. */
export async function runOf(file: string): Promise<Inspection> {
  const manifest = await new RunFolder(path.dirname(file)).manifest();
  const listed = manifest?.shards.some(({ files }) => files.some(({ name }) => name === path.basename(file)));
  if (!manifest || !listed) return { data: {}, lines: [] };
  const { path: modelPath, sha256 } = manifest.model;
  return {
    data: { model: { path: modelPath, sha256 } },
    lines: [`  of the run in ${path.dirname(file)}: model ${modelPath}, sha256 ${sha256}`],
  };
}

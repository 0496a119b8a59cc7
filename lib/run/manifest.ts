/** What a folder of token shards says about itself, in `manifest.json`. */
import type { TokenDtype, TokenFormat } from '../dataset/sink.js';
import { TokenFlowError } from '../errors.js';
import type { Precision } from '../graph/ops.js';
import type { Fit } from '../image/processor.js';
import type { TokenFlowConfig } from '../tokenizer/config.js';

/** The model that a run's tokens are of. */
export interface RunModel {
  /** Where it was; not part of what it is. */
  path: string;
  /** Of its checkpoint's files. */
  sha256: string;
  config: TokenFlowConfig;
  tokensPerImage: number;
  codebookSize: number;
}

/** Everything besides model and plan that the bytes of a shard depend on. */
export interface RunSettings {
  format: TokenFormat;
  dtype?: TokenDtype;
  precision: Precision;
  fit: Fit;
  maxPixels?: number;
  /** The column (Parquet) or member (tar) that holds the image. */
  image?: string;
  /** The column of ids (Parquet). */
  id?: string;
}

/** What makes two runs the same: then their shards are the same, byte for byte. */
export interface RunIdentity {
  /** Version of this package. */
  tokenflow: string;
  model: RunModel;
  settings: RunSettings;
  /** What was asked for, as it was written. */
  sources: string[];
  plan: { sha256: string; shards: number };
}

/** A shard that is in place. `files` is empty where no image could be read. */
export interface ShardSummary {
  name: string;
  images: number;
  errors: number;
  files: { name: string; bytes: number; sha256: string }[];
}

export interface Manifest extends RunIdentity {
  /** Of this form. */
  version: 1;
  /** Whether every shard of the plan is in place. */
  complete: boolean;
  images: number;
  errors: number;
  /** Those that are in place, in the order of the plan. */
  shards: ShardSummary[];
}

/** How the run in `folder` differs from another, as a sentence; undefined when it does not. */
export function difference(there: RunIdentity, here: RunIdentity): string | undefined {
  const sides = [there, here].map((run) => new Map(Object.entries(described(run))));
  for (const [what, before] of sides[0]) {
    const now = sides[1].get(what);
    if (before !== now) return `its ${what} is ${before}, this one's ${now}`;
  }
  return undefined;
}

function described({ tokenflow, model, settings, plan, sources }: RunIdentity): Record<string, string> {
  const { format, dtype, precision, fit, maxPixels, image, id } = settings;
  const text = (value: unknown) => (value === undefined ? 'the default' : String(value));
  return {
    model: `the one of sha256 ${model.sha256.slice(0, 12)}`,
    'model configuration': JSON.stringify(model.config),
    format,
    dtype: text(dtype),
    precision,
    fit,
    'pixel limit': text(maxPixels),
    'image column': text(image),
    'id column': text(id),
    source: `${sources.join(' ')} (${plan.shards} shards, sha256 ${plan.sha256.slice(0, 12)})`,
    'version of tokenflow': tokenflow,
  };
}

/** @throws TokenFlowError ERR_TOKENFLOW_FORMAT */
export function parseManifest(text: string, file: string): Manifest {
  let manifest: Manifest | undefined;
  try {
    manifest = JSON.parse(text) as Manifest;
  } catch (cause) {
    throw new TokenFlowError('ERR_TOKENFLOW_FORMAT', `Cannot read ${file}: ${(cause as Error).message}`, {
      cause,
    });
  }
  const { version, model, settings, plan, shards } = manifest ?? {};
  if (version !== 1 || !model?.sha256 || !settings?.format || !plan?.sha256 || !Array.isArray(shards)) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_FORMAT',
      `Expected the manifest of a tokenflow run (version 1) but ${file} holds something else`,
    );
  }
  return manifest;
}

/** The unit of work: one shard, from its references to its files and its record. */
import { type PlannedShard, shardItems } from '../dataset/plan.js';
import { openShard } from '../dataset/sink.js';
import type { SourceItem } from '../dataset/source.js';
import { TokenFlowError } from '../errors.js';
import type { TokenFlow } from '../tokenizer/tokenflow.js';
import { type ItemError, itemError } from './item-error.js';
import type { RunSettings } from './manifest.js';
import type { RunFolder, ShardRecord } from './run-folder.js';

export interface ShardJob {
  folder: RunFolder;
  shard: PlannedShard;
  settings: RunSettings;
  tokenizer: TokenFlow;
  /** Images per run of the model. Tokens do not depend on it. */
  batchSize?: number;
  /** Ends the shard at once; nothing of it remains. */
  signal?: AbortSignal;
  /** An image that cannot be read ends the shard, instead of being recorded. */
  strict?: boolean;
  /** Called with each image that is done, and whether it has no tokens. */
  onImage?: (failed: boolean) => void;
}

/** A tar or Parquet file that could not be read to its end: its shard cannot be made, others can. */
export class BrokenInputError extends Error {
  override readonly cause: TokenFlowError;

  constructor(
    readonly shard: string,
    cause: TokenFlowError,
  ) {
    super(cause.message);
    this.cause = cause;
  }
}

/**
 * Makes a shard and records it. Its bytes depend on its input, the model and the settings, on nothing else. Two processes may
 * make the same shard at the same time.
 *
 * @throws BrokenInputError; TokenFlowError for what concerns the run, not this shard alone: the disk, the model
 */
export async function tokenizeShard(job: ShardJob): Promise<ShardRecord> {
  const { folder, shard, settings, tokenizer, batchSize, signal, strict, onImage } = job;
  const { fit, maxPixels, format, dtype } = settings;
  const { tokenCount: tokensPerImage, codebookSize } = tokenizer;
  const errors: ItemError[] = [];
  const failed = (error: TokenFlowError, id: string) => {
    if (strict) throw error;
    errors.push(itemError(id, error));
    onImage?.(true);
  };
  let broken: BrokenInputError | undefined;
  async function* items(): AsyncGenerator<SourceItem> {
    try {
      yield* shardItems(shard.input, settings);
    } catch (error) {
      if (!(error instanceof TokenFlowError)) throw error;
      broken = new BrokenInputError(shard.name, error);
      throw broken;
    }
  }

  const writer = await openShard(format, folder.shardBase(shard.name), {
    tokensPerImage,
    codebookSize,
    dtype,
  });
  try {
    let images = 0;
    const onError = (error: TokenFlowError, { id }: { id: string }) => failed(error, id);
    const options = { batchSize, fit, maxPixels, signal, onError };
    for await (const { id, tokens, width, height, meta } of tokenizer.encodeStream(items(), options)) {
      try {
        await writer.write({ id, tokens, width, height, ...(meta ? { meta } : {}) });
      } catch (error) {
        if (!isMisfit(error)) throw error; // an id that is there already, or none
        failed(error, id);
        continue;
      }
      images++;
      onImage?.(false);
    }
    if (images === 0) await writer.abort();
    const files = images === 0 ? [] : await writer.finish();
    const record: ShardRecord = {
      name: shard.name,
      images,
      errors,
      files: files.map(({ path, bytes, sha256 }) => ({ name: folder.nameOf(path), bytes, sha256 })),
    };
    await folder.putRecord(record);
    return record;
  } catch (error) {
    await writer.abort();
    if (broken) throw broken;
    const made = signal?.aborted ? undefined : await folder.record(shard.name);
    if (made) return made; // another process was faster, and has removed what this one was writing
    throw error;
  }
}

function isMisfit(error: unknown): error is TokenFlowError {
  return error instanceof TokenFlowError && error.code === 'ERR_TOKENFLOW_INVALID_ARGUMENT';
}

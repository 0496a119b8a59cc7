/** Hands shards to workers until all are made. */
import type { PlannedShard } from '../dataset/plan.js';
import type { ShardRecord } from './run-folder.js';
import type { ShardWorker } from './shard-worker.js';
import { BrokenInputError } from './tokenize-shard.js';

export interface RunShardsOptions {
  /** No shard is begun any more once it is aborted; those under way are finished. */
  stop?: AbortSignal;
  /** Images that are done, those among them without tokens. */
  onImages?: (done: number, failed: number) => void;
  onShard?: (record: ShardRecord) => void;
  /** A shard that could not be made, as its input is broken. */
  onBroken?: (error: BrokenInputError) => void;
  /** Called once when an error of another kind ends it all, so that the other workers can be stopped. */
  onFatal?: () => void;
}

export interface RunShardsResult {
  /** Shards that were made. */
  made: number;
  broken: BrokenInputError[];
}

/** Resolves when every shard was made, found broken, or will not be begun. Rejects with the first error of another kind. */
export async function runShards(
  shards: readonly PlannedShard[],
  workers: readonly ShardWorker[],
  { stop, onImages = () => {}, onShard, onBroken, onFatal }: RunShardsOptions = {},
): Promise<RunShardsResult> {
  const result: RunShardsResult = { made: 0, broken: [] };
  const left = shards.values();
  let failure: { error: unknown } | undefined;
  const work = async (worker: ShardWorker) => {
    for (const shard of left) {
      if (failure || stop?.aborted) return;
      try {
        const record = await worker.make(shard, onImages);
        onShard?.(record);
        result.made++;
      } catch (error) {
        if (!(error instanceof BrokenInputError)) {
          if (!failure) onFatal?.();
          failure ??= { error };
          return;
        }
        result.broken.push(error);
        onBroken?.(error);
      }
    }
  };
  await Promise.all(workers.map(work));
  if (failure) throw (failure as { error: unknown }).error;
  return result;
}

import type { PlannedShard } from '../dataset/plan.js';
import type { TokenFlow } from '../tokenizer/tokenflow.js';
import type { ShardRecord } from './run-folder.js';
import { type ShardJob, tokenizeShard } from './tokenize-shard.js';

/** Somebody who makes shards, one after the other. */
export interface ShardWorker {
  /** Rejects as `tokenizeShard`. */
  make(shard: PlannedShard, onImages: (done: number, failed: number) => void): Promise<ShardRecord>;
  close(): Promise<void>;
}

/** Makes shards in this process. */
export function localWorker(
  tokenizer: TokenFlow,
  job: Omit<ShardJob, 'shard' | 'tokenizer' | 'onImage'>,
): ShardWorker {
  return {
    make: (shard, onImages) =>
      tokenizeShard({ ...job, tokenizer, shard, onImage: (failed) => onImages(1, failed ? 1 : 0) }),
    close: () => tokenizer.dispose(),
  };
}

/** Makes the shards of a queue until none is left. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Job } from 'bullmq';
import type { ShardRecord } from '../run/run-folder.js';
import type { ShardWorker } from '../run/shard-worker.js';
import { BrokenInputError } from '../run/tokenize-shard.js';
import { connect, loadBullMQ, type OnConnection } from './redis.js';
import { PREFIX, type RunQueue, type ShardJobData } from './run-queue.js';

export interface WorkOptions {
  redis: string;
  /** A worker that is not heard of for so long, in milliseconds, has its shard taken over. Default 30 000. */
  lock?: number;
  /** Begin no more shards once it is aborted, and finish the one under way. */
  stop?: AbortSignal;
  /** End at once. */
  signal?: AbortSignal;
  onImages?: (done: number, failed: number) => void;
  onShard?: (record: ShardRecord) => void;
  onBroken?: (error: BrokenInputError) => void;
  onConnection?: OnConnection;
}

const DEFAULT_LOCK = 30_000;

/** How often a shard may be taken over: one that ends every process must not end them all. */
const MOST_TAKEOVERS = 10;

/** How often it is asked whether the run is done, in milliseconds. */
const POLL = 500;

/**
 * Takes shards from the queue and makes them, until each is in place or has failed. Waits for shards that others are at, as they may
 * die; queues again what Redis has forgotten. Finishing a shard twice is harmless.
 *
 * @returns how many shards this worker made
 * @throws TokenFlowError as `tokenizeShard`, for what concerns the run: its shard is left for others
 */
export async function workOnQueue(run: RunQueue, maker: ShardWorker, options: WorkOptions): Promise<number> {
  const {
    redis,
    lock = DEFAULT_LOCK,
    stop,
    signal,
    onImages = () => {},
    onShard,
    onBroken,
    onConnection,
  } = options;
  const { Worker, UnrecoverableError } = await loadBullMQ();
  const planned = new Map(run.shards.map((shard) => [shard.name, shard]));
  const connection = await connect(redis, onConnection, true); // `run` has a connection already
  let made = 0;
  const fatal = new AbortController();
  const over = AbortSignal.any([stop, signal, fatal.signal].filter((end) => end !== undefined));

  const process = async ({ data }: Job<ShardJobData>) => {
    const shard = planned.get(data.shard);
    if (!shard) throw new UnrecoverableError(`${data.shard} is not in the plan`);
    if (await run.folder.record(shard.name)) return;
    try {
      const record = await maker.make(shard, onImages);
      onShard?.(record);
      made++;
    } catch (error) {
      if (error instanceof BrokenInputError) {
        onBroken?.(error);
        throw new UnrecoverableError(error.message);
      }
      fatal.abort(error);
      await new Promise(() => {}); // never answered: its lock runs out, and another worker takes the shard
    }
  };

  const worker = new Worker<ShardJobData>(run.queue.name, process, {
    ...{ connection, prefix: PREFIX, lockDuration: lock, stalledInterval: Math.ceil(lock / 2) },
    maxStalledCount: MOST_TAKEOVERS,
  });
  // A lost connection is told by the connection itself; a lost lock means that another worker has the shard, too.
  worker.on('error', () => {});
  try {
    await Promise.race([untilDone(run, over), aborted(over)]);
    if (!fatal.signal.aborted) await Promise.race([worker.close(), aborted(signal)]);
    signal?.throwIfAborted();
    fatal.signal.throwIfAborted();
    return made;
  } finally {
    await worker.close(true);
    connection.disconnect();
  }
}

async function untilDone(run: RunQueue, over: AbortSignal): Promise<void> {
  for (; !over.aborted; await delay(POLL)) {
    const { waiting, active } = await run.counts();
    if (waiting + active > 0) continue;
    const failed = new Set((await run.failures()).map(({ shard }) => shard));
    const forgotten = (await run.missing()).filter((name) => !failed.has(name));
    if (forgotten.length === 0) return;
    await run.submit(forgotten);
  }
}

function aborted(signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve();
    else signal?.addEventListener('abort', () => resolve(), { once: true });
  });
}

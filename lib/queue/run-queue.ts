/** A run's shards as jobs of a queue. A job is a shard's name; what it stands for is in the plan, in the run's folder. */
import { createHash } from 'node:crypto';
import type { Queue } from 'bullmq';
import type { PlannedShard } from '../dataset/plan.js';
import type { Manifest } from '../run/manifest.js';
import type { RunFolder } from '../run/run-folder.js';
import { connect, loadBullMQ, type OnConnection } from './redis.js';

export interface ShardJobData {
  shard: string;
}

/** Keys in Redis begin so. */
export const PREFIX = 'tokenflow';

/** The name of a run's queue: the same for the same run, whatever its folder is called on a machine. */
export function queueName({ tokenflow, model, settings, plan }: Manifest): string {
  const identity = JSON.stringify([tokenflow, model.sha256, model.config, settings, plan]);
  return `run-${createHash('sha256').update(identity).digest('hex').slice(0, 16)}`;
}

export interface QueueCounts {
  waiting: number;
  active: number;
  failed: number;
}

export class RunQueue {
  private constructor(
    readonly queue: Queue<ShardJobData>,
    readonly folder: RunFolder,
    readonly shards: readonly PlannedShard[],
    readonly close: () => Promise<void>,
  ) {}

  /** @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_BACKEND_UNAVAILABLE */
  static async open(folder: RunFolder, redis: string, onConnection?: OnConnection): Promise<RunQueue> {
    const { Queue } = await loadBullMQ();
    const manifest = await folder.existingManifest();
    const shards = await folder.plan();
    const connection = await connect(redis, onConnection);
    const queue = new Queue<ShardJobData>(queueName(manifest), { connection, prefix: PREFIX });
    queue.on('error', () => {}); // the connection's, which it tells itself
    const close = async () => {
      await queue.close();
      connection.disconnect();
    };
    return new RunQueue(queue, folder, shards, close);
  }

  async missing(): Promise<string[]> {
    const records = await this.folder.records(this.shards);
    return this.shards.map(({ name }) => name).filter((name) => !records.has(name));
  }

  /** Queues shards that are not queued; those that failed get another chance. */
  async submit(names: readonly string[]): Promise<void> {
    const again = new Set(names);
    for (const job of await this.queue.getFailed()) if (again.has(job.data.shard)) await job.remove();
    const options = (shard: string) => ({ jobId: shard, removeOnComplete: true });
    await this.queue.addBulk(
      names.map((shard) => ({ name: 'shard', data: { shard }, opts: options(shard) })),
    );
  }

  async counts(): Promise<QueueCounts> {
    const kinds = ['wait', 'delayed', 'prioritized', 'active', 'failed'] as const;
    const { active, failed, ...waiting } = await this.queue.getJobCounts(...kinds);
    return { waiting: Object.values(waiting).reduce((sum, count) => sum + count, 0), active, failed };
  }

  /** Shards that could not be made, and why. */
  async failures(): Promise<{ shard: string; message: string }[]> {
    const jobs = await this.queue.getFailed();
    return jobs.map(({ data, failedReason }) => ({ shard: data.shard, message: failedReason }));
  }
}

/** Makes shards in a process of its own, which may die without taking the run along. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import * as path from 'node:path';
import type { PlannedShard } from '../dataset/plan.js';
import { TokenFlowError } from '../errors.js';
import type { ShardRecord } from './run-folder.js';
import type { ShardWorker } from './shard-worker.js';
import { BrokenInputError } from './tokenize-shard.js';
import { type FromWorker, fromMessage, type ToWorker, type WorkerTask } from './worker-messages.js';

/** A shard that has ended so many processes is not tried again. */
const ATTEMPTS = 3;

type OnImages = (done: number, failed: number) => void;

/** The process ended before it answered. */
class WorkerDied extends Error {}

/** @param signal ends the shard that is being made, at once */
export function processWorker(task: WorkerTask, signal?: AbortSignal): ShardWorker {
  let child: ChildProcess | undefined;

  const started = (): ChildProcess => {
    const entry = path.join(__dirname, 'worker-main.js');
    // Its stdout is nobody's: the run's own is for data.
    child = fork(entry, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    tell(child, { type: 'begin', task });
    return child;
  };

  return {
    async make(shard, onImages) {
      for (let attempt = 1; ; attempt++) {
        const progress = new Progress(onImages);
        try {
          signal?.throwIfAborted();
          return await make(child ?? started(), shard, progress, signal);
        } catch (error) {
          signal?.throwIfAborted();
          if (!(error instanceof WorkerDied)) throw error;
          child = undefined;
          progress.takeBack();
          if (attempt === ATTEMPTS) {
            throw new TokenFlowError(
              'ERR_TOKENFLOW_INTERNAL',
              `Gave up on ${shard.name}: ${ATTEMPTS} worker processes ended while making it, the last ${error.message}`,
            );
          }
        }
      }
    },
    async close() {
      if (!child || child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      tell(child, { type: 'close' });
      await ended;
    },
  };
}

function tell(child: ChildProcess, message: ToWorker): void {
  child.send(message, () => {}); // one that is gone is noticed by its exit
}

/** Counts images, so that those of an attempt that came to nothing can be taken back. */
class Progress {
  #done = 0;
  #failed = 0;

  constructor(readonly onImages: OnImages) {}

  add(done: number, failed: number): void {
    this.#done += done;
    this.#failed += failed;
    this.onImages(done, failed);
  }

  takeBack(): void {
    this.onImages(-this.#done, -this.#failed);
  }
}

function make(
  child: ChildProcess,
  shard: PlannedShard,
  progress: Progress,
  signal?: AbortSignal,
): Promise<ShardRecord> {
  return new Promise<ShardRecord>((resolve, reject) => {
    const onMessage = (message: FromWorker) => {
      if (message.type === 'images') progress.add(message.done, message.failed);
      else if (message.type === 'made') settle(() => resolve(message.record));
      else if (message.type === 'failed') settle(() => reject(fromMessage(message.error)));
      else {
        const cause = fromMessage(message.error) as TokenFlowError;
        settle(() => reject(new BrokenInputError(message.shard, cause)));
      }
    };
    const onExit = (code: number | null, signalName: string | null) =>
      settle(() => reject(new WorkerDied(signalName ? `by ${signalName}` : `with exit code ${code}`)));
    const onError = (error: Error) => settle(() => reject(error)); // could not be started
    const onAbort = () => tell(child, { type: 'abort' });
    const settle = (then: () => void) => {
      child.off('message', onMessage).off('exit', onExit).off('error', onError);
      signal?.removeEventListener('abort', onAbort);
      then();
    };
    child.on('message', onMessage).on('exit', onExit).on('error', onError);
    signal?.addEventListener('abort', onAbort);
    tell(child, { type: 'make', shard });
  });
}

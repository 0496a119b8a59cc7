/** The program of a worker process: see `processWorker`. */
import { TokenFlow } from '../tokenizer/tokenflow.js';
import { RunFolder } from './run-folder.js';
import { localWorker, type ShardWorker } from './shard-worker.js';
import { BrokenInputError } from './tokenize-shard.js';
import { type FromWorker, type ToWorker, toMessage, type WorkerTask } from './worker-messages.js';

/** Images are told about at most so often, in milliseconds. */
const PROGRESS_INTERVAL = 100;

const aborting = new AbortController();
let worker: Promise<ShardWorker> | undefined;

process.on('SIGINT', () => {}); // Ctrl-C reaches the whole group; the run decides and tells
process.on('disconnect', () => process.exit(1)); // the run is gone

const tell = (message: FromWorker) => process.send!(message);

async function begin({ folder, settings, strict, model, load }: WorkerTask): Promise<ShardWorker> {
  const { signal } = aborting;
  const tokenizer = await TokenFlow.load(model, { ...load, preload: ['encode'], signal });
  return localWorker(tokenizer, { folder: new RunFolder(folder), settings, strict, signal });
}

async function make(shard: Parameters<ShardWorker['make']>[0]): Promise<void> {
  let done = 0;
  let failed = 0;
  const flush = () => {
    if (done > 0) tell({ type: 'images', done, failed });
    done = failed = 0;
  };
  const timer = setInterval(flush, PROGRESS_INTERVAL);
  try {
    const record = await (await worker!).make(shard, (newlyDone, newlyFailed) => {
      done += newlyDone;
      failed += newlyFailed;
    });
    flush();
    tell({ type: 'made', record });
  } catch (error) {
    flush();
    if (error instanceof BrokenInputError) {
      tell({ type: 'broken', shard: error.shard, error: toMessage(error.cause) });
    } else tell({ type: 'failed', error: toMessage(error) });
  } finally {
    clearInterval(timer);
  }
}

process.on('message', async (message: ToWorker) => {
  if (message.type === 'abort') aborting.abort();
  else if (message.type === 'make') await make(message.shard);
  else if (message.type === 'begin') {
    worker = begin(message.task);
    worker.catch(() => {}); // told when the first shard is asked for
  } else {
    await worker?.then((started) => started.close()).catch(() => {}); // it ends either way
    process.exit(0);
  }
});

/** What a run and its worker processes say to each other. */
import type { PlannedShard } from '../dataset/plan.js';
import { type ErrorCode, TokenFlowError } from '../errors.js';
import type { LoadOptions } from '../tokenizer/types.js';
import type { RunSettings } from './manifest.js';
import type { ShardRecord } from './run-folder.js';

/** What a worker process needs to know to make any shard of a run. */
export interface WorkerTask {
  folder: string;
  settings: RunSettings;
  strict: boolean;
  /** Path of the checkpoint. */
  model: string;
  load: Pick<LoadOptions, 'device' | 'precision' | 'config' | 'threads' | 'batchSize'>;
}

export type ToWorker =
  | { type: 'begin'; task: WorkerTask }
  | { type: 'make'; shard: PlannedShard }
  | { type: 'abort' }
  | { type: 'close' };

export interface ErrorMessage {
  /** Absent for an error that is no TokenFlowError. */
  code?: ErrorCode;
  message: string;
}

export type FromWorker =
  | { type: 'images'; done: number; failed: number }
  | { type: 'made'; record: ShardRecord }
  | { type: 'broken'; shard: string; error: ErrorMessage }
  | { type: 'failed'; error: ErrorMessage };

export function toMessage(error: unknown): ErrorMessage {
  const message = error instanceof Error ? error.message : String(error);
  return error instanceof TokenFlowError ? { code: error.code, message } : { message };
}

export function fromMessage({ code, message }: ErrorMessage): Error {
  return code ? new TokenFlowError(code, message) : new Error(message);
}

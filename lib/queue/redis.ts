/** BullMQ over Redis, both optional packages, loaded when a queue is first used. */
import type * as BullMQ from 'bullmq';
import type { Redis as RedisClient } from 'ioredis';
import { TokenFlowError } from '../errors.js';

export const DEFAULT_REDIS = 'redis://127.0.0.1:6379';

/** Connections say here when they are lost and when they are back. */
export type OnConnection = (state: 'lost' | 'back', reason?: string) => void;

async function load<T>(name: string, importing: () => Promise<T>): Promise<T> {
  try {
    return await importing();
  } catch (cause) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
      `A queue needs the optional packages bullmq and ioredis, and ${name} could not be loaded ` +
        `(${(cause as Error).message.split('\n')[0]}). Install them: npm install bullmq ioredis`,
      { cause },
    );
  }
}

export const loadBullMQ = (): Promise<typeof BullMQ> => load('bullmq', () => import('bullmq'));

/**
 * A connection that waits for Redis when it goes away, once it was there.
 *
 * @param seen whether Redis was there before: then it is waited for from the beginning
 * @throws TokenFlowError ERR_TOKENFLOW_IO when Redis was not seen and does not answer now
 */
export async function connect(
  url: string,
  onConnection: OnConnection = () => {},
  seen = false,
): Promise<RedisClient> {
  const { Redis } = await load('ioredis', () => import('ioredis'));
  let everReady = seen;
  let lost = false;
  let reason = 'no answer';
  const client = new Redis(url, {
    lazyConnect: !seen,
    maxRetriesPerRequest: null, // commands wait until it is back
    retryStrategy: (times) => (everReady ? Math.min(times * 100, 2000) : null),
  });
  client.on('error', (error: Error) => {
    reason = error.message || (error as NodeJS.ErrnoException).code || 'no answer';
  });
  client.on('ready', () => {
    everReady = true;
    if (lost) onConnection('back');
    lost = false;
  });
  client.on('reconnecting', () => {
    if (!lost) onConnection('lost', reason);
    lost = true;
  });
  if (seen) return client;
  try {
    await client.connect();
  } catch {
    client.disconnect();
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IO',
      `Cannot reach Redis at ${url}: ${reason}; start one with redis-server, or say where it is with --redis`,
    );
  }
  return client;
}

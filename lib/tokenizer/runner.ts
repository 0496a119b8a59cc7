import { TokenFlowError } from '../errors.js';
import type { BuiltGraph } from '../graph/builder.js';
import { defaultBatch, lanesOf, splitBatch } from './batching.js';
import type { Inputs, Outputs, ProgramSource, Programs } from './programs.js';

/** What a program computes, for any batch size. */
export interface Kind {
  /** The same key for the same graphs. */
  readonly key: string;
  readonly build: (batch: number) => BuiltGraph;
}

/** Images `start` to `start + count` of a call. */
export interface Chunk {
  readonly start: number;
  readonly count: number;
}

/** A computation over any number of images: where each chunk's inputs come from and its outputs go. */
export interface Work<I> {
  readonly kind: Kind;
  readonly count: number;
  /** Images per run; default: `Runner.batchOf`. */
  readonly batchSize?: number;
  inputs(chunk: Chunk): I;
  take(outputs: Outputs, chunk: Chunk): void;
}

/** Cuts work into chunks that bound the memory and runs each as a program. */
export class Runner {
  readonly #programs: Programs;
  readonly #threads: () => number;
  readonly #batchSize: number | undefined;
  readonly #batches = new Map<string, number>();
  readonly #calls = new Set<Promise<void>>();
  #closed = false;

  /** @param threads that can each run a lane of a program; 1 where there are no lanes */
  constructor(programs: Programs, threads: () => number, batchSize?: number) {
    this.#programs = programs;
    this.#threads = threads;
    this.#batchSize = batchSize;
  }

  /** Compiles the program of whole chunks and reads its weights. */
  async prepare(kind: Kind, signal?: AbortSignal): Promise<void> {
    await this.#programs.prepare(this.#program(kind, this.batchOf(kind)), signal);
  }

  /** Images per run of a program. */
  batchOf(kind: Kind): number {
    if (this.#batchSize !== undefined) return this.#batchSize;
    let batch = this.#batches.get(kind.key);
    if (batch === undefined) {
      batch = defaultBatch(kind.build(1).graph, this.#threads());
      this.#batches.set(kind.key, batch);
    }
    return batch;
  }

  /** Refuses further calls; resolves once those that were accepted have settled. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#calls);
  }

  /** Rejects with ERR_TOKENFLOW_DISPOSED once closed. */
  async run(work: Work<Inputs | Promise<Inputs>>, signal?: AbortSignal): Promise<void> {
    this.checkOpen();
    const call = this.#run(work, signal);
    this.#calls.add(call);
    try {
      await call;
    } finally {
      this.#calls.delete(call);
    }
  }

  /** The inputs of the next chunk are made ready while one is computed. */
  async #run(
    { kind, count, batchSize, inputs, take }: Work<Inputs | Promise<Inputs>>,
    signal?: AbortSignal,
  ): Promise<void> {
    signal?.throwIfAborted();
    const chunks = splitBatch(count, batchSize ?? this.batchOf(kind));
    const ready = async (chunk: Chunk) => inputs(chunk);
    let next = ready(chunks[0]);
    for (const [i, chunk] of chunks.entries()) {
      const current = await next;
      if (i + 1 < chunks.length) {
        next = ready(chunks[i + 1]);
        next.catch(() => {}); // awaited in the next round; until then a failure must not count as unhandled
      }
      take(await this.#programs.run(this.#program(kind, chunk.count), current, signal), chunk);
    }
  }

  runSync({ kind, count, inputs, take }: Work<Inputs>): void {
    this.checkOpen();
    for (const chunk of splitBatch(count, this.batchOf(kind))) {
      take(this.#programs.runSync(this.#program(kind, chunk.count), inputs(chunk)), chunk);
    }
  }

  /** @throws TokenFlowError ERR_TOKENFLOW_DISPOSED */
  checkOpen(): void {
    if (this.#closed) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_DISPOSED',
        'This tokenizer was disposed; load it again to use it',
      );
    }
  }

  #program(kind: Kind, batch: number): ProgramSource {
    const lanes = lanesOf(batch, this.#threads());
    return {
      key: `${kind.key} x${batch} in ${lanes}`,
      build: () => kind.build(batch / lanes),
      lanes,
    };
  }
}

import { Transform } from 'node:stream';
import type { StreamItem, StreamResult, StreamSource } from './stream.js';

/** `encodeStream` between two ends of a Node stream, see `TokenFlow.createEncodeStream`. */
export class EncodeTransform<M> extends Transform {
  readonly #destroyed = new AbortController();
  readonly #items = new ItemChannel<StreamItem<M>>();
  /** Settles when the reader has room again. */
  #room = () => {};
  #flushed: ((error?: Error | null) => void) | undefined;

  /** @param encode `encodeStream` with everything but these. */
  constructor(
    encode: (source: StreamSource<M>, signal: AbortSignal) => AsyncIterable<StreamResult<M>>,
    { batchSize, signal }: { batchSize: number; signal?: AbortSignal },
  ) {
    super({ objectMode: true, highWaterMark: batchSize });
    const either = signal ? AbortSignal.any([signal, this.#destroyed.signal]) : this.#destroyed.signal;
    this.#forward(encode(this.#items, either)).catch((error) => this.destroy(error));
  }

  override _transform(item: StreamItem<M>, _: BufferEncoding, callback: (error?: Error | null) => void) {
    this.#items.give(item, callback);
  }

  override _flush(callback: (error?: Error | null) => void): void {
    this.#flushed = callback;
    this.#items.end();
  }

  override _read(size: number): void {
    this.#room();
    super._read(size);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#destroyed.abort(error ?? undefined);
    this.#room();
    callback(error);
  }

  async #forward(results: AsyncIterable<StreamResult<M>>): Promise<void> {
    for await (const result of results) {
      if (this.push(result) || this.destroyed) continue;
      await new Promise<void>((resolve) => {
        this.#room = resolve;
      });
    }
    this.#flushed?.();
  }
}

/** Hands items over one at a time: whoever gives is told when the item was taken. */
class ItemChannel<T> implements AsyncIterableIterator<T> {
  #given: { item: T; taken: () => void }[] = [];
  #asked: ((next: IteratorResult<T>) => void) | undefined;
  #ended = false;

  give(item: T, taken: () => void): void {
    this.#given.push({ item, taken });
    this.#meet();
  }

  end(): void {
    this.#ended = true;
    this.#meet();
  }

  next(): Promise<IteratorResult<T>> {
    return new Promise((resolve) => {
      this.#asked = resolve;
      this.#meet();
    });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #meet(): void {
    const answer = this.#asked;
    if (!answer) return;
    const given = this.#given.shift();
    if (!given && !this.#ended) return;
    this.#asked = undefined;
    answer(given ? { value: given.item, done: false } : { value: undefined, done: true });
    given?.taken();
  }
}

/** Any number of images to tokens: read, decoded and computed at the same time, in bounded memory. */
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import type { ImageProcessor } from '../image/processor.js';
import { type ImageSource, type RawImage, readImageFile } from '../image/source.js';
import { native } from '../native.js';
import type { StreamOptions } from './types.js';

/** An image on its way in. It has one of `bytes`, `pixels`, `path` and `load`. */
export interface StreamItem<M = unknown> {
  /** How messages call it. */
  id: string;
  /** Of an image file. */
  bytes?: Uint8Array;
  pixels?: RawImage;
  path?: string | URL;
  /** Reads the bytes of an image file when its turn has come. What it rejects with is an error of this image alone. */
  load?: (signal?: AbortSignal) => Promise<Uint8Array>;
  /** Goes along with the tokens. */
  meta?: M;
}

/** The tokens of an image. */
export interface StreamResult<M = unknown> {
  id: string;
  /** `[T]`, coarse scale to fine. */
  tokens: Int32Array;
  /** Of the image before it was made a square, in pixels, after its EXIF turn. */
  width: number;
  height: number;
  meta?: M;
}

/** Items come from anything that can be iterated: arrays, generators, Node's and the Web's streams of objects. */
export type StreamSource<M = unknown> = AsyncIterable<StreamItem<M>> | Iterable<StreamItem<M>>;

/** Of what a tokenizer can do, what a stream needs. */
export interface StreamEncoder {
  readonly processor: ImageProcessor;
  /** Images per run. */
  readonly batchSize: number;
  /** Encodes `[count, size, size, 3]`. Runs are computed in the order of the calls. */
  encode(image: Uint8Array, count: number, signal: AbortSignal): Promise<Int32Array>;
}

/**
 * One run is computed while the next one waits, so that the compute thread never waits for JavaScript. On a card two are in its
 * streams, one computed and one on its way up or down, and the third waits.
 */
const RUNS_UNDER_WAY = 3;

/** Decoded images, by default, in batches: those of the runs under way, and one that is being made ready. */
const DECODED_BATCHES = 4;

export const STREAM_OPTIONS = [
  'signal',
  'batchSize',
  'ordered',
  'onError',
  'maxDecoded',
  'fit',
  'maxPixels',
] as const;

/** Checks the options of a stream. Throws ERR_TOKENFLOW_INVALID_ARGUMENT. */
export function checkStreamOptions<M>(where: string, options: StreamOptions<M>): void {
  checkOptions(where, options, STREAM_OPTIONS);
  const { batchSize, maxDecoded, ordered, onError } = options;
  for (const [name, value] of Object.entries({ batchSize, maxDecoded })) {
    if (value !== undefined && (!Number.isSafeInteger(value) || value < 1)) {
      throw invalidArgument(name, 'a positive integer', value);
    }
  }
  if (ordered !== undefined && typeof ordered !== 'boolean') {
    throw invalidArgument('ordered', 'true or false', ordered);
  }
  if (onError !== undefined && typeof onError !== 'function') {
    throw invalidArgument('onError', 'a function', onError);
  }
}

interface Place<M> {
  /** In the source. */
  readonly position: number;
  readonly id: string;
  readonly meta?: M;
}

interface Prepared<M> {
  readonly place: Place<M>;
  readonly square: Uint8Array;
  readonly width: number;
  readonly height: number;
}

type Outcome<M> = { place: Place<M> } & ({ result: StreamResult<M> } | { error: TokenFlowError });

/**
 * The images under way. Each is read, waits for a decoder, is decoded and made a square, waits for a run, is computed, and
 * its outcome waits to be taken. Every change calls `#advance`, which starts whatever may start now.
 */
class Pipeline<M> {
  readonly #encoder: StreamEncoder;
  readonly #iterator: AsyncIterator<StreamItem<M>> | Iterator<StreamItem<M>>;
  readonly #ordered: boolean;
  readonly #batchSize: number;
  readonly #maxDecoded: number;
  readonly #stopping = new AbortController();

  #pulling = false;
  #exhausted = false;
  #pulled = 0;
  #taken = 0;
  /** Images from their arrival to their tokens. */
  #held = 0;
  #read: { place: Place<M>; image: ImageSource }[] = [];
  #decoding = 0;
  #prepared: Prepared<M>[] = [];
  #runs = 0;
  #outcomes = new Map<number, Outcome<M>>();
  #sourceError: { error: unknown } | undefined;
  #failure: { error: unknown } | undefined;
  #wake = () => {};

  constructor(encoder: StreamEncoder, source: StreamSource<M>, options: StreamOptions<M>) {
    this.#encoder = encoder;
    this.#iterator =
      Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
    this.#ordered = options.ordered ?? true;
    this.#maxDecoded = options.maxDecoded ?? DECODED_BATCHES * encoder.batchSize;
    this.#batchSize = Math.min(encoder.batchSize, this.#maxDecoded);
  }

  /** The next outcome; undefined at the end. Rejects with the first error that is not one image's alone. */
  async take(): Promise<Outcome<M> | undefined> {
    for (;;) {
      this.#advance();
      if (this.#failure) throw this.#failure.error;
      const [position] = this.#ordered ? [this.#taken] : this.#outcomes.keys();
      const outcome = this.#outcomes.get(position);
      if (outcome) {
        this.#outcomes.delete(position);
        this.#taken++;
        this.#advance(); // whoever takes may be long about it
        return outcome;
      }
      if (this.#exhausted && this.#taken === this.#pulled) {
        if (this.#sourceError) throw this.#sourceError.error;
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Ends everything that is under way; `take` rejects with `error` from now on. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#stopping.abort();
    this.#wake();
  }

  /** Lets go of the source. Waits for it, unless it is busy finding an item that nobody wants any more. */
  async close(): Promise<void> {
    this.#stopping.abort();
    this.#prepared = [];
    this.#read = [];
    if (this.#exhausted) return;
    this.#exhausted = true;
    const closed = Promise.resolve(this.#iterator.return?.());
    if (this.#pulling) closed.catch(() => {});
    else await closed;
  }

  #advance(): void {
    if (this.#stopping.signal.aborted) return;
    const waiting = this.#outcomes.size;
    if (!this.#pulling && !this.#exhausted && this.#held < this.#maxDecoded && waiting < this.#maxDecoded) {
      this.#start(this.#pull());
    }
    while (this.#read.length > 0 && this.#decoding < this.#encoder.processor.concurrency) {
      this.#start(this.#decode(this.#read.shift()!));
    }
    while (this.#runs < RUNS_UNDER_WAY && this.#batchIsReady()) {
      this.#start(this.#run(this.#prepared.splice(0, this.#batchSize)));
    }
  }

  /** A batch that is not full waits for what is on its way, but never for what the source has not given yet. */
  #batchIsReady(): boolean {
    const { length } = this.#prepared;
    return length >= this.#batchSize || (this.#runs === 0 && length > 0 && length === this.#held);
  }

  /** Sees a step through; what it throws is no single image's error. */
  #start(step: Promise<void>): void {
    step
      .catch((error) => this.fail(error))
      .finally(() => {
        this.#advance();
        this.#wake();
      });
  }

  async #pull(): Promise<void> {
    this.#pulling = true;
    let next: IteratorResult<StreamItem<M>>;
    try {
      next = await this.#iterator.next();
    } catch (error) {
      this.#exhausted = true;
      this.#sourceError = { error };
      return;
    } finally {
      this.#pulling = false;
    }
    if (this.#stopping.signal.aborted) return;
    if (next.done) {
      this.#exhausted = true;
      return;
    }
    const item = next.value;
    const open = opening(item);
    const { id, meta } = item;
    const place = { position: this.#pulled++, id, ...(meta === undefined ? {} : { meta }) };
    this.#held++;
    this.#start(this.#open(place, open));
  }

  async #open(place: Place<M>, open: Opening): Promise<void> {
    try {
      this.#read.push({ place, image: await open(this.#stopping.signal) });
    } catch (cause) {
      this.#refuse(place, cause);
    }
  }

  async #decode({ place, image }: { place: Place<M>; image: ImageSource }): Promise<void> {
    this.#decoding++;
    try {
      const { processor } = this.#encoder;
      const { signal } = this.#stopping;
      const { data, original } = await processor.prepare(image, { signal, name: `'${place.id}'` });
      this.#prepared.push({ place, square: data, ...original });
    } catch (error) {
      this.#refuse(place, error);
    } finally {
      this.#decoding--;
    }
  }

  /** The outcome of an image that cannot be read. */
  #refuse(place: Place<M>, cause: unknown): void {
    if (this.#stopping.signal.aborted) return;
    this.#held--;
    this.#outcomes.set(place.position, { place, error: errorOf(place.id, cause) });
  }

  async #run(batch: Prepared<M>[]): Promise<void> {
    this.#runs++;
    try {
      const { length } = batch[0].square;
      const image = new Uint8Array(batch.length * length);
      for (const [i, { square }] of batch.entries()) {
        image.set(square, i * length);
        native().release(square);
      }
      const places = batch.map(({ place, width, height }) => ({ place, width, height }));
      const tokens = await this.#encoder.encode(image, places.length, this.#stopping.signal);
      native().release(image);
      const count = tokens.length / places.length;
      for (const [i, { place, width, height }] of places.entries()) {
        const { position, ...named } = place;
        const result = { ...named, tokens: tokens.slice(i * count, (i + 1) * count), width, height };
        this.#outcomes.set(position, { place, result });
      }
      this.#held -= places.length;
    } finally {
      this.#runs--;
    }
  }
}

type Opening = (signal: AbortSignal) => Promise<ImageSource>;

/** Checks an item and says how its image is come by. */
function opening(item: StreamItem): Opening {
  if (typeof item !== 'object' || item === null || typeof item.id !== 'string') {
    throw invalidArgument('an item of the source', 'an object { id, bytes | pixels | path | load }', item);
  }
  const { id, bytes, pixels, path, load } = item;
  const given = [bytes, pixels, path, load].filter((image) => image !== undefined);
  if (given.length !== 1) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected one of bytes, pixels, path and load for '${id}' but received ${given.length} of them`,
    );
  }
  if (load !== undefined) return load;
  if (path !== undefined) return (signal) => readImageFile(path, `'${id}'`, signal);
  return async () => (bytes ?? pixels)!;
}

function errorOf(id: string, cause: unknown): TokenFlowError {
  if (cause instanceof TokenFlowError) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new TokenFlowError('ERR_TOKENFLOW_IO', `Cannot read '${id}': ${reason}`, { cause });
}

/** The tokens of a source's images, see `TokenFlow.encodeStream`. */
export async function* encodeStream<M>(
  encoder: StreamEncoder,
  source: StreamSource<M>,
  { signal, onError, ...options }: StreamOptions<M>,
): AsyncGenerator<StreamResult<M>, void, undefined> {
  signal?.throwIfAborted();
  const pipeline = new Pipeline(encoder, source, options);
  const abort = () => pipeline.fail(signal!.reason);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    for (let outcome = await pipeline.take(); outcome; outcome = await pipeline.take()) {
      if ('result' in outcome) {
        yield outcome.result;
        continue;
      }
      const { error, place } = outcome;
      if (!onError) throw error;
      const { position: _, ...item } = place;
      await onError(error, item);
    }
  } finally {
    signal?.removeEventListener('abort', abort);
    await pipeline.close();
  }
}

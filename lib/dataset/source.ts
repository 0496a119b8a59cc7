/** Where many images come from: anything that can be iterated for items. */
import type { RawImage } from '../image/source.js';
import type { JsonObject } from './json.js';

/** One image of a dataset. It has exactly one of `bytes`, `pixels` and `load`. */
export interface SourceItem {
  /** Not empty, and once only in a dataset. Images are called so in messages, in `errors.jsonl` and in token shards. */
  id: string;
  /** Of an image file. */
  bytes?: Uint8Array;
  pixels?: RawImage;
  /**
   * Reads the bytes of an image file when its turn has come. What it rejects with is the error of this image alone;
   * an error of the iteration ends the whole run.
   */
  load?: (signal?: AbortSignal) => Promise<Uint8Array>;
  /** Goes along with the tokens. */
  meta?: JsonObject;
}

/** Images, one after the other: an array, a generator, a stream of objects, one of this package's sources. */
export type Source = AsyncIterable<SourceItem> | Iterable<SourceItem>;

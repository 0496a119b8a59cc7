/** Token shards: files that hold the tokens of some thousand images each. What is in them: docs/formats.md. */
import type { JsonObject } from './json.js';

/** The tokens of one image. */
export interface TokenRecord {
  /** Not empty, and once only in a shard. */
  id: string;
  /** `[T]`, coarse scale to fine. */
  tokens: Int32Array;
  /** Of the image the tokens come from, in pixels, after its EXIF turn. */
  width: number;
  height: number;
  meta?: JsonObject;
}

export type TokenFormat = 'npy' | 'jsonl' | 'parquet' | 'webdataset' | 'safetensors';

/** How tokens are stored in the formats that hold arrays. */
export type TokenDtype = 'uint16' | 'int32';

export interface ShardOptions {
  /** T: every record has so many. */
  tokensPerImage: number;
  /** Tokens are 0 to this less one. */
  codebookSize: number;
  /**
   * Of `npy`, `webdataset` and `safetensors`. Default: `uint16` where the codebook has at most 65536 codes, else
   * `int32`. `parquet` always holds int32, `jsonl` numbers.
   */
  dtype?: TokenDtype;
}

/** A file of a shard that is on the disk under its final name. */
export interface ShardFile {
  path: string;
  bytes: number;
  /** Of its content, in hexadecimal. */
  sha256: string;
}

/**
 * A shard being written. Its files have hidden names beside the final ones until `finish` flushes and renames them, so
 * that a reader sees a whole shard or none. The same records give the same bytes, always.
 */
export interface ShardWriter {
  /**
   * Adds a record; calls are to be awaited in turn.
   *
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT for a record that does not fit (the shard stays as it was),
   * ERR_TOKENFLOW_IO
   */
  write(record: TokenRecord): Promise<void>;
  /** Puts the shard in place. Its files, the one whose presence says that the shard is whole last. */
  finish(): Promise<ShardFile[]>;
  /** Removes what was written; does nothing after `finish`. */
  abort(): Promise<void>;
}

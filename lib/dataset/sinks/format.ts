import type { TokenDtype, TokenRecord } from '../sink.js';
import type { PendingFile } from './pending-file.js';

/** What a format needs to know to write; checked. */
export interface FormatOptions {
  readonly tokensPerImage: number;
  readonly dtype: TokenDtype;
}

/** Puts records that were checked into pending files. */
export interface FormatWriter {
  write(record: TokenRecord): Promise<void>;
  /** Writes what can only be written at the end; the files are sealed afterwards. */
  end(): Promise<void>;
  /** Lets go of what it holds besides the files, when they are not to be ended. */
  close?(): Promise<void>;
}

/** A way to lay records down in files. */
export interface Format {
  /** Of its files, in the order in which they get their names: the last one's presence says that the shard is whole. */
  readonly extensions: readonly string[];
  /** Whether `dtype` is the caller's to choose. */
  readonly hasDtype: boolean;
  /** `files` as in `extensions`. */
  open(files: readonly PendingFile[], options: FormatOptions): Promise<FormatWriter> | FormatWriter;
  /** `paths` as in `extensions`. Throws ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT. */
  read(paths: readonly string[]): AsyncIterable<TokenRecord>;
}

import { createReadStream } from 'node:fs';
import { TokenFlowError } from '../../errors.js';
import { systemError } from '../../system-error.js';
import type { JsonObject } from '../json.js';
import type { TokenRecord } from '../sink.js';
import type { Format, FormatWriter } from './format.js';
import type { PendingFile } from './pending-file.js';
import { brokenShard } from './token-array.js';

/** What a record says besides its tokens. */
export type RecordHead = Omit<TokenRecord, 'tokens'>;

/** The line of a record; `tokens` only where they are stored in it. */
export function recordLine({ id, width, height, meta }: RecordHead, tokens?: Int32Array): Buffer {
  const line = { id, width, height, ...(tokens ? { tokens: [...tokens] } : {}), ...(meta ? { meta } : {}) };
  return Buffer.from(`${JSON.stringify(line)}\n`);
}

/** The objects of a JSON Lines file. Lines end at U+000A alone: strings may hold every other separator there is. */
export async function* readLines(file: string): AsyncGenerator<JsonObject> {
  let number = 0;
  const parse = (line: Buffer): JsonObject => {
    number++;
    try {
      return JSON.parse(line.toString()) as JsonObject;
    } catch (cause) {
      throw brokenShard(file, `line ${number} is not valid JSON`, cause);
    }
  };
  let rest: Buffer[] = [];
  for await (const piece of pieces(file)) {
    let begin = 0;
    for (let end = piece.indexOf(0x0a); end >= 0; end = piece.indexOf(0x0a, begin)) {
      yield parse(Buffer.concat([...rest, piece.subarray(begin, end)]));
      rest = [];
      begin = end + 1;
    }
    rest.push(piece.subarray(begin));
  }
  if (rest.some(({ length }) => length > 0)) throw brokenShard(file, 'its last line is cut off');
}

async function* pieces(file: string): AsyncGenerator<Buffer> {
  try {
    yield* createReadStream(file);
  } catch (cause) {
    if (cause instanceof TokenFlowError) throw cause;
    throw systemError('read', file, cause);
  }
}

/** Checks what a file says of a record besides its tokens. */
export function recordHead(file: string, { id, width, height, meta }: JsonObject): RecordHead {
  const isSide = (side: unknown) => Number.isSafeInteger(side) && (side as number) > 0;
  const isObject = typeof meta === 'object' && meta !== null && !Array.isArray(meta);
  if (typeof id !== 'string' || !isSide(width) || !isSide(height) || !(meta === undefined || isObject)) {
    const found = JSON.stringify({ id, width, height, meta })?.slice(0, 200);
    throw brokenShard(file, `expected a record { id, width, height, meta? } but found ${found}`);
  }
  return {
    id,
    width: width as number,
    height: height as number,
    ...(meta ? { meta: meta as JsonObject } : {}),
  };
}

/** `NAME.jsonl`: one object a line. */
export const jsonLines: Format = {
  extensions: ['.jsonl'],
  hasDtype: false,

  open([file]: readonly PendingFile[]): FormatWriter {
    return {
      write: (record) => file.write(recordLine(record, record.tokens)),
      async end() {},
    };
  },

  async *read([file]) {
    for await (const line of readLines(file)) {
      const { tokens } = line;
      if (!Array.isArray(tokens) || !tokens.every((token) => Number.isInteger(token))) {
        throw brokenShard(
          file,
          `expected a list of whole numbers as the tokens of ${JSON.stringify(line.id)}`,
        );
      }
      yield { ...recordHead(file, line), tokens: Int32Array.from(tokens as number[]) };
    }
  },
};

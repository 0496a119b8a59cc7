import { encodeNpyHeader, readNpyHeader } from '../../checkpoint/npy.js';
import { openFile, readRange } from '../../checkpoint/source.js';
import type { TokenDtype } from '../sink.js';
import type { Format, FormatWriter } from './format.js';
import { readLines, recordHead, recordLine } from './json-lines.js';
import { brokenShard, tokenBytes, tokensOfBytes } from './token-array.js';

/** NumPy's names of the types. */
export const NPY_KINDS = { uint16: 'u2', int32: 'i4' } as const;

/** The type of stored tokens by NumPy's name. */
export function dtypeOfNpy(file: string, kind: string): TokenDtype {
  if (kind === 'u2') return 'uint16';
  if (kind === 'i4') return 'int32';
  throw brokenShard(file, `expected tokens in uint16 or int32 but found the type '${kind}'`);
}

/** Rows are read so many bytes at a time. */
const PIECE_BYTES = 512 * 1024;

/** `NAME.ids.jsonl`, a line of `{ id, width, height, meta? }` for each row of `NAME.npy`, `[N, T]`. */
export const npy: Format = {
  extensions: ['.ids.jsonl', '.npy'],
  hasDtype: true,

  async open([ids, array], { tokensPerImage, dtype }): Promise<FormatWriter> {
    let count = 0;
    const header = () => encodeNpyHeader(NPY_KINDS[dtype], [count, tokensPerImage]);
    await array.write(header());
    return {
      async write(record) {
        await ids.write(recordLine(record));
        await array.write(tokenBytes(record.tokens, dtype));
        count++;
      },
      end: () => array.overwrite(header()),
    };
  },

  async *read([ids, array]) {
    const { descr, fortranOrder, shape, offset } = readNpyHeader(array);
    const dtype = dtypeOfNpy(array, descr);
    if (fortranOrder || shape.length !== 2) {
      throw brokenShard(array, `expected an array [N, T] in C order but found [${shape.join(', ')}]`);
    }
    const [count, width] = shape;
    const rowBytes = width * (dtype === 'uint16' ? 2 : 4);
    const perPiece = Math.max(1, Math.floor(PIECE_BYTES / Math.max(1, rowBytes)));
    const source = openFile(array, 'ERR_TOKENFLOW_FORMAT');
    try {
      let row = 0;
      let piece: Uint8Array = new Uint8Array();
      for await (const line of readLines(ids)) {
        if (row === count) throw brokenShard(ids, `it names more images than the ${count} rows of ${array}`);
        const at = row % perPiece;
        if (at === 0) {
          piece = readRange(source, offset + row * rowBytes, Math.min(perPiece, count - row) * rowBytes);
        }
        const bytes = piece.subarray(at * rowBytes, (at + 1) * rowBytes);
        yield { ...recordHead(ids, line), tokens: tokensOfBytes(bytes, dtype) };
        row++;
      }
      if (row !== count) throw brokenShard(ids, `it names ${row} images but ${array} has ${count} rows`);
    } finally {
      source.close();
    }
  },
};

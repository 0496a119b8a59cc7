import { openSafetensors } from '../../checkpoint/safetensors.js';
import { encodeSafetensorsHeader } from '../../checkpoint/safetensors-writer.js';
import { openFile } from '../../checkpoint/source.js';
import { TokenFlowError } from '../../errors.js';
import type { JsonObject, JsonValue } from '../json.js';
import type { TokenDtype } from '../sink.js';
import type { Format, FormatWriter } from './format.js';
import { recordHead } from './json-lines.js';
import { brokenShard, tokenBytes, tokensOfBytes } from './token-array.js';

/** What readers of the format allow. */
const LONGEST_HEADER = 100_000_000;

const DTYPES = { uint16: 'U16', int32: 'I32' } as const;

/**
 * `NAME.safetensors`: `tokens` `[N, T]`, `sizes` `[N, 2]` (width, height); ids and metadata as JSON in the header's
 * `__metadata__`. The header comes first and names everything, so a shard is held in memory while it is written.
 */
export const safetensors: Format = {
  extensions: ['.safetensors'],
  hasDtype: true,

  open([file], { tokensPerImage, dtype }): FormatWriter {
    const rows: Uint8Array[] = [];
    const sizes: number[] = [];
    const ids: string[] = [];
    const metas: (JsonObject | null)[] = [];
    return {
      async write({ id, tokens, width, height, meta }) {
        rows.push(tokenBytes(tokens, dtype));
        sizes.push(width, height);
        ids.push(id);
        metas.push(meta ?? null);
      },
      async end() {
        const header = encodeSafetensorsHeader(
          [
            { name: 'sizes', dtype: 'I32', shape: [ids.length, 2] },
            { name: 'tokens', dtype: DTYPES[dtype], shape: [ids.length, tokensPerImage] },
          ],
          {
            ids: JSON.stringify(ids),
            ...(metas.some((meta) => meta !== null) ? { meta: JSON.stringify(metas) } : {}),
          },
        );
        if (header.length - 8 > LONGEST_HEADER) {
          throw new TokenFlowError(
            'ERR_TOKENFLOW_INVALID_ARGUMENT',
            `Expected ids and metadata of at most ${LONGEST_HEADER} bytes in ${file.path} but they take ${header.length - 8}; make shards of fewer images (--shard-size)`,
          );
        }
        await file.write(header);
        await file.write(new Uint8Array(Int32Array.from(sizes).buffer));
        for (const row of rows) await file.write(row);
      },
    };
  },

  async *read([file]) {
    const source = openFile(file, 'ERR_TOKENFLOW_FORMAT');
    try {
      const { tensors, metadata } = openSafetensors(source);
      const [tokens, sizes] = [tensors.get('tokens'), tensors.get('sizes')];
      const ids = list(file, 'ids', metadata.ids);
      const metas = metadata.meta === undefined ? [] : list(file, 'meta', metadata.meta);
      const [count, width] = tokens?.shape ?? [];
      const dtype = (Object.keys(DTYPES) as TokenDtype[]).find((name) => DTYPES[name] === tokens?.dtype);
      if (!tokens || !dtype || tokens.shape.length !== 2 || ids.length !== count) {
        throw brokenShard(file, "expected a tensor 'tokens' [N, T] in U16 or I32 and N ids in its metadata");
      }
      if (
        sizes?.dtype !== 'I32' ||
        sizes.shape.length !== 2 ||
        sizes.shape[0] !== count ||
        sizes.shape[1] !== 2
      ) {
        throw brokenShard(file, `expected a tensor 'sizes' [${count}, 2] in I32`);
      }
      const sides = tokensOfBytes(sizes.readRaw(), 'int32');
      const all = tokensOfBytes(tokens.readRaw(), dtype);
      for (const [i, id] of ids.entries()) {
        const head = {
          id,
          width: sides[2 * i],
          height: sides[2 * i + 1],
          ...(metas[i] ? { meta: metas[i] } : {}),
        };
        yield { ...recordHead(file, head), tokens: all.slice(i * width, (i + 1) * width) };
      }
    } finally {
      source.close();
    }
  },
};

function list(file: string, name: string, text: string | undefined): JsonValue[] {
  try {
    const value = JSON.parse(text ?? '') as JsonValue;
    if (Array.isArray(value)) return value;
  } catch (cause) {
    throw brokenShard(file, `expected a list in JSON as '${name}' of its metadata`, cause);
  }
  throw brokenShard(file, `expected a list in JSON as '${name}' of its metadata`);
}

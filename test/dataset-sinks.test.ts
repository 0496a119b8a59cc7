import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import type { JsonObject } from '../lib/dataset/json.js';
import {
  openShard,
  readShard,
  type ShardFile,
  type ShardOptions,
  shardPaths,
  TOKEN_FORMATS,
  type TokenFormat,
  type TokenRecord,
} from '../lib/dataset/sink.js';
import { isPart } from '../lib/dataset/sinks/pending-file.js';
import { webDatasetKey } from '../lib/dataset/sinks/webdataset.js';
import { TokenFlowError } from '../lib/errors.js';
import { packageRoot } from '../lib/native.js';
import { random } from './support/random.js';

/** Readers of other programs; a Python with more packages than the system's may be named. */
const python = process.env.TOKENFLOW_TEST_PYTHON ?? '/usr/bin/python3';

const T = 30;

function records(count: number, codebookSize: number, seed = 1): TokenRecord[] {
  const next = random(seed);
  return Array.from({ length: count }, (_, i) => ({
    id: i % 3 === 0 ? `folder ${i}/bild.ä${i}.jpg` : `${i}`.padStart(6, '0'),
    tokens: Int32Array.from({ length: T }, () => Math.floor(next() * codebookSize)),
    width: 1 + Math.floor(next() * 4000),
    height: 1 + Math.floor(next() * 4000),
    ...(i % 2 === 0 ? { meta: { label: i, caption: 'line\u2028 "and" 漢字' } } : {}),
  }));
}

async function writeShard(
  format: TokenFormat,
  base: string,
  content: readonly TokenRecord[],
  options: Partial<ShardOptions> = {},
): Promise<ShardFile[]> {
  const shard = await openShard(format, base, { tokensPerImage: T, codebookSize: 512, ...options });
  for (const record of content) await shard.write(record);
  return shard.finish();
}

async function collect(items: AsyncIterable<TokenRecord>): Promise<TokenRecord[]> {
  const all = [];
  for await (const item of items) all.push(item);
  return all;
}

function isError(code: string, message?: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof TokenFlowError, `${(error as Error)?.stack}`);
    assert.equal(error.code, code, error.stack);
    if (message) assert.match(error.message, message);
    return true;
  };
}

describe('token shards', function () {
  this.timeout(240_000);
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-shards-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const at = (name: string) => path.join(folder, name);

  for (const format of TOKEN_FORMATS) {
    describe(format, () => {
      it('gives back what was written, whatever ids and metadata are', async () => {
        const names = fc.string({ unit: 'binary', minLength: 1, maxLength: 150 });
        const record = fc.record(
          {
            id: names,
            tokens: fc
              .array(fc.nat({ max: 511 }), { minLength: T, maxLength: T })
              .map((tokens) => Int32Array.from(tokens)),
            width: fc.integer({ min: 1, max: 0x7fffffff }),
            height: fc.integer({ min: 1, max: 65535 }),
            meta: fc
              .dictionary(fc.string({ unit: 'binary' }), fc.jsonValue())
              .map((meta) => JSON.parse(JSON.stringify(meta)) as JsonObject),
          },
          { requiredKeys: ['id', 'tokens', 'width', 'height'], noNullPrototype: true },
        );
        const shards = fc.uniqueArray(record, { selector: ({ id }) => id, maxLength: 12 });
        let run = 0;
        await fc.assert(
          fc.asyncProperty(shards, async (content) => {
            const base = at(`${run++}`);
            await writeShard(format, base, content);
            assert.deepEqual(await collect(readShard(format, base)), content);
          }),
          { numRuns: format === 'parquet' ? 4 : 12, seed: 7 }, // a thread is started for each Parquet file,
        );
      });

      it('gives the same bytes for the same records, and says their size and checksum', async () => {
        const content = records(700, 512);
        const files = await writeShard(format, at('a'), content);
        await new Promise((resolve) => setTimeout(resolve, 1100)); // a time in the bytes would be another second
        mkdirSync(at('elsewhere'));
        const again = await writeShard(format, at('elsewhere/b'), content);
        assert.deepEqual(
          files.map(({ path }) => path),
          shardPaths(format, at('a')),
        );
        for (const [i, { path: file, bytes, sha256 }] of files.entries()) {
          const content = readFileSync(file);
          assert.equal(content.length, bytes);
          assert.equal(createHash('sha256').update(content).digest('hex'), sha256);
          assert.equal(again[i].sha256, sha256);
        }
        assert.deepEqual(await collect(readShard(format, at('a'))), content);
      });

      it('is not there until it is finished, and leaves nothing when it is aborted', async () => {
        const [first, ...rest] = records(20, 512);
        const options = { tokensPerImage: T, codebookSize: 512 };
        const shard = await openShard(format, at('a'), options);
        for (const record of rest) await shard.write(record);
        assert.ok(readdirSync(folder).every((name) => isPart(name)));
        const other = await openShard(format, at('a'), options);
        await other.write(first);
        await other.abort();
        await assert.rejects(other.write(first), isError('ERR_TOKENFLOW_DISPOSED'));
        await other.abort();
        const files = await shard.finish();
        assert.deepEqual(readdirSync(folder).sort(), files.map((file) => path.basename(file.path)).sort());
        await shard.abort();
        assert.deepEqual(await collect(readShard(format, at('a'))), rest);
        await assert.rejects(shard.write(first), isError('ERR_TOKENFLOW_DISPOSED', /finished/));
      });

      it('replaces an older shard of its name', async () => {
        await writeShard(format, at('a'), records(9, 512, 1));
        await writeShard(format, at('a'), records(5, 512, 2));
        assert.deepEqual(await collect(readShard(format, at('a'))), records(5, 512, 2));
      });

      it('takes no record that does not fit, and goes on', async () => {
        const shard = await openShard(format, at('a'), { tokensPerImage: T, codebookSize: 512 });
        const [first, second] = records(2, 512);
        await shard.write(first);
        const wrong: [Partial<Record<keyof TokenRecord, unknown>>, RegExp][] = [
          [{ id: '' }, /id/],
          [{ id: '\ud800' }, /id/],
          [{ id: first.id }, /each id once/],
          [{ tokens: new Int32Array(T - 1) }, /an Int32Array of 30/],
          [{ tokens: new Uint16Array(T) }, /an Int32Array of 30/],
          [{ tokens: new Int32Array(T).fill(512) }, /from 0 to 511.*512/],
          [{ tokens: new Int32Array(T).fill(-1) }, /from 0 to 511.*-1/],
          [{ width: 0 }, /width/],
          [{ height: 1.5 }, /height/],
          [{ meta: [] }, /meta/],
          [{ meta: { big: 1n } }, /meta/],
        ];
        for (const [change, message] of wrong) {
          await assert.rejects(
            shard.write({ ...second, ...change } as TokenRecord),
            isError('ERR_TOKENFLOW_INVALID_ARGUMENT', message),
          );
        }
        await shard.write(second);
        await shard.finish();
        assert.deepEqual(await collect(readShard(format, at('a'))), [first, second]);
      });

      it('says what is wrong with a damaged shard, and never more than that', async () => {
        const content = records(40, 512);
        const files = await writeShard(format, at('a'), content);
        const next = random(11);
        let refused = 0;
        for (let run = 0; run < 120; run++) {
          const bytes = files.map(({ path: file }) => readFileSync(file));
          const victim = Math.floor(next() * bytes.length);
          const offset = Math.floor(next() * bytes[victim].length);
          if (run % 2 === 0) bytes[victim] = bytes[victim].subarray(0, offset);
          else for (let i = 0; i < 4; i++) bytes[victim][(offset + i) % bytes[victim].length] ^= 0x55;
          for (const [i, file] of shardPaths(format, at('b')).entries()) writeFileSync(file, bytes[i]);
          try {
            await collect(readShard(format, at('b')));
          } catch (error) {
            refused++;
            isError('ERR_TOKENFLOW_FORMAT')(error);
            assert.ok((error as Error).message.includes(at('b')), (error as Error).message);
          }
        }
        assert.ok(refused >= 60, `${refused} of 120 were refused`); // at least those that are cut off
        await assert.rejects(collect(readShard(format, at('none'))), isError('ERR_TOKENFLOW_IO', /none/));
      });

      it('fails clearly, and leaves nothing, where it cannot be written', async () => {
        const options = { tokensPerImage: T, codebookSize: 512 };
        await assert.rejects(
          openShard(format, at('missing/a'), options),
          isError('ERR_TOKENFLOW_IO', /missing.*there is no folder/),
        );
        assert.deepEqual(readdirSync(folder), []);

        // A limit on the size of files stands in for a full disk.
        const script = `
          const { openShard } = require(${JSON.stringify(path.join(packageRoot(), 'dist-test/lib/dataset/sink.js'))});
          (async () => {
            const shard = await openShard('${format}', process.argv[1], { tokensPerImage: 2000, codebookSize: 60000 });
            try {
              for (let i = 0; i < 100; i++) {
                await shard.write({ id: 'i' + i, tokens: Int32Array.from({ length: 2000 }, (_, t) => (t * 7919 * (i + 1)) % 60000), width: 1, height: 1 });
              }
              await shard.finish();
              console.log('written');
            } catch (error) {
              console.log(error.code, error.message);
              await shard.abort();
            }
          })();`;
        const limited = spawnSync(
          'bash',
          ['-c', 'ulimit -f 64; exec "$0" "$@"', process.execPath, '-e', script, at('a')],
          { encoding: 'utf8' },
        );
        assert.match(
          limited.stdout,
          /^ERR_TOKENFLOW_IO Cannot write '.*': the file would be larger than the system or a limit/,
          limited.stderr,
        );
        assert.deepEqual(readdirSync(folder), []);
      });

      it('leaves only hidden parts when the process dies', () => {
        const script = `
          const { openShard } = require(${JSON.stringify(path.join(packageRoot(), 'dist-test/lib/dataset/sink.js'))});
          (async () => {
            const shard = await openShard('${format}', process.argv[1], { tokensPerImage: 3, codebookSize: 9 });
            for (let i = 0; i < 5000; i++) await shard.write({ id: 'i' + i, tokens: Int32Array.of(1, 2, 3), width: 1, height: 1 });
            process.kill(process.pid, 'SIGKILL');
          })();`;
        const killed = spawnSync(process.execPath, ['-e', script, at('a')], { encoding: 'utf8' });
        assert.equal(killed.signal, 'SIGKILL', killed.stderr);
        assert.ok(readdirSync(folder).length > 0);
        assert.ok(readdirSync(folder).every((name) => isPart(name)));
      });
    });
  }

  it('of two files has the one whose presence says that it is whole last', async () => {
    const [ids, array] = shardPaths('npy', at('a'));
    assert.match(ids, /\.ids\.jsonl$/);
    mkdirSync(array); // nothing can be renamed to this
    await assert.rejects(writeShard('npy', at('a'), records(3, 512)), isError('ERR_TOKENFLOW_IO'));
    assert.ok(readdirSync(folder).includes('a.ids.jsonl'));
  });

  it('stores tokens in 16 bits where they fit, or as asked', async () => {
    for (const [codebookSize, dtype, expected] of [
      [65536, undefined, 'uint16'],
      [65537, undefined, 'int32'],
      [8192, 'int32', 'int32'],
    ] as const) {
      const content = records(5, codebookSize);
      for (const format of ['npy', 'webdataset', 'safetensors'] as const) {
        await writeShard(format, at('a'), content, { codebookSize, dtype });
        assert.deepEqual(await collect(readShard(format, at('a'))), content);
      }
      const described = readFileSync(at('a.npy'), 'latin1').slice(0, 128);
      assert.match(described, expected === 'uint16' ? /'<u2'/ : /'<i4'/);
    }
    const refused: [TokenFormat, Partial<ShardOptions>][] = [
      ['npy', { codebookSize: 65537, dtype: 'uint16' }],
      ['npy', { dtype: 'float32' as never }],
      ['jsonl', { dtype: 'int32' }],
      ['parquet', { dtype: 'uint16' }],
      ['npy', { codebookSize: 0 }],
      ['csv' as never, {}],
    ];
    for (const [format, options] of refused) {
      await assert.rejects(
        writeShard(format, at('b'), [], options),
        isError('ERR_TOKENFLOW_INVALID_ARGUMENT'),
      );
    }
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith('b') || isPart(name)),
      [],
    );
  });

  it('makes a WebDataset key of every id: one only, without a dot, inside the folder', () => {
    assert.equal(webDatasetKey('000017'), '000017');
    assert.equal(webDatasetKey('cats/17.jpg'), 'cats/17%2Ejpg');
    assert.equal(webDatasetKey('/../a//b/'), '%2F%2E%2E/a/%2Fb%2F');
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary', minLength: 1 }),
        fc.string({ unit: fc.constantFrom('/', '.', '%', '\\', 'a', '2', 'E', '\n'), minLength: 1 }),
        (any, marks) => {
          for (const id of [any, marks]) {
            const key = webDatasetKey(id);
            assert.doesNotMatch(key, /[.\\\n]|^\/|\/$|\/\//);
            assert.equal(decodeURIComponent(key), id);
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  describe('read by other programs', () => {
    /** Ids, tokens and sizes that a Python script prints as JSON; skips with a reason where it cannot run. */
    function readWith(context: Mocha.Context, module: string, script: string, file: string): unknown {
      const check = spawnSync(python, ['-c', `import numpy, ${module}`]);
      if (check.status !== 0) {
        console.log(`      skipped: no ${python} with numpy and ${module}`);
        return context.skip();
      }
      const result = spawnSync(python, ['-c', script, file], { encoding: 'utf8', maxBuffer: 1 << 28 });
      assert.equal(result.status, 0, result.stderr);
      return JSON.parse(result.stdout);
    }

    const content = records(150, 8192);
    const expected = content.map(({ id, tokens, width, height, meta }) => [
      id,
      [...tokens],
      width,
      height,
      meta ?? null,
    ]);
    const write = (format: TokenFormat) => writeShard(format, at('s'), content, { codebookSize: 8192 });

    it('npy: NumPy', async function () {
      await write('npy');
      const script = `
import json, sys, numpy
base = sys.argv[1]
tokens = numpy.load(base + '.npy', mmap_mode='r')
assert tokens.dtype == numpy.uint16 and tokens.flags.c_contiguous
heads = [json.loads(line) for line in open(base + '.ids.jsonl', encoding='utf-8')]
print(json.dumps([[h['id'], t.tolist(), h['width'], h['height'], h.get('meta')] for h, t in zip(heads, tokens)]))`;
      assert.deepEqual(readWith(this, 'numpy', script, at('s')), expected);
      const copy = readWith(
        this,
        'io',
        `
import io, sys, numpy
b = io.BytesIO(); numpy.save(b, numpy.load(sys.argv[1]))
print(1 if b.getvalue() == open(sys.argv[1], 'rb').read() else 0)`,
        at('s.npy'),
      );
      assert.equal(copy, 1, 'NumPy writes the same array in the same bytes');
    });

    it('jsonl: json of Python', async function () {
      await write('jsonl');
      const script = `
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1], encoding='utf-8')]
print(json.dumps([[r['id'], r['tokens'], r['width'], r['height'], r.get('meta')] for r in rows]))`;
      assert.deepEqual(readWith(this, 'json', script, at('s.jsonl')), expected);
    });

    it('webdataset: tarfile and NumPy, grouped as WebDataset does', async function () {
      await write('webdataset');
      const script = `
import io, itertools, json, re, sys, tarfile, numpy
split = lambda name: re.match(r'^((?:.*/|)[^.]+)[.]([^/]*)$', name).groups()
rows = []
with tarfile.open(sys.argv[1]) as tar:
  for key, members in itertools.groupby(tar, key=lambda m: split(m.name)[0]):
    sample = {split(m.name)[1]: tar.extractfile(m).read() for m in members}
    head = json.loads(sample['json'])
    tokens = numpy.load(io.BytesIO(sample['tokens.npy']))
    rows.append([head['id'], tokens.tolist(), head['width'], head['height'], head.get('meta')])
print(json.dumps(rows))`;
      assert.deepEqual(readWith(this, 'tarfile', script, at('s.tar')), expected);
    });

    it('webdataset: GNU tar, without a warning', async function () {
      await write('webdataset');
      const check = spawnSync('tar', ['--version'], { encoding: 'utf8' });
      if (!check.stdout?.includes('GNU tar')) {
        console.log('      skipped: no GNU tar');
        return this.skip();
      }
      mkdirSync(at('unpacked'));
      const result = spawnSync('tar', ['-xvf', at('s.tar'), '-C', at('unpacked')], {
        encoding: 'utf8',
        env: { ...process.env, LC_ALL: 'C.UTF-8' },
      });
      assert.equal(result.status, 0, result.stderr);
      assert.equal(result.stderr, '');
      assert.equal(result.stdout.trim().split('\n').length, 2 * content.length);
      for (const { id, width } of content) {
        const head = JSON.parse(readFileSync(at(`unpacked/${webDatasetKey(id)}.json`), 'utf8'));
        assert.equal(head.id, id);
        assert.equal(head.width, width);
      }
    });

    const parquetRows = `
print(json.dumps([[r['id'], list(r['tokens']), r['width'], r['height'], r['meta'] and json.loads(r['meta'])] for r in rows]))`;

    it('parquet: pyarrow', async function () {
      await write('parquet');
      const script = `
import json, sys, pyarrow as pa, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
assert table.schema.field('tokens').type == pa.list_(pa.field('element', pa.int32(), nullable=False)), table.schema
assert table.schema.field('id').type == pa.string() and table.schema.field('meta').type == pa.string(), table.schema
rows = table.to_pylist()${parquetRows}`;
      assert.deepEqual(readWith(this, 'pyarrow', script, at('s.parquet')), expected);
    });

    it('parquet: DuckDB', async function () {
      await write('parquet');
      const script = `
import json, sys, duckdb
result = duckdb.connect().execute('select id, tokens, width, height, meta from read_parquet(?)', [sys.argv[1]])
names = [column[0] for column in result.description]
rows = [dict(zip(names, row)) for row in result.fetchall()]${parquetRows}`;
      assert.deepEqual(readWith(this, 'duckdb', script, at('s.parquet')), expected);
    });

    it('safetensors: the package of that name', async function () {
      await write('safetensors');
      const script = `
import json, sys, numpy
from safetensors import safe_open
with safe_open(sys.argv[1], 'numpy') as file:
  tokens, sizes, ids = file.get_tensor('tokens'), file.get_tensor('sizes'), json.loads(file.metadata()['ids'])
  meta = json.loads(file.metadata()['meta'])
assert tokens.dtype == numpy.uint16
print(json.dumps([[i, t.tolist(), int(s[0]), int(s[1]), m] for i, t, s, m in zip(ids, tokens, sizes, meta)]))`;
      assert.deepEqual(readWith(this, 'safetensors', script, at('s.safetensors')), expected);
    });

    it('safetensors: as its documentation has it, with NumPy alone', async function () {
      await write('safetensors');
      const script = `
import json, sys, numpy
raw = open(sys.argv[1], 'rb').read()
size = int.from_bytes(raw[:8], 'little')
header = json.loads(raw[8:8 + size]); about = header.pop('__metadata__')
def tensor(name, dtype):
  begin, end = header[name]['data_offsets']
  return numpy.frombuffer(raw[8 + size + begin:8 + size + end], dtype).reshape(header[name]['shape'])
rows = zip(json.loads(about['ids']), tensor('tokens', '<u2'), tensor('sizes', '<i4'), json.loads(about['meta']))
print(json.dumps([[i, t.tolist(), int(s[0]), int(s[1]), m] for i, t, s, m in rows]))`;
      assert.deepEqual(readWith(this, 'numpy', script, at('s.safetensors')), expected);
    });
  });
});

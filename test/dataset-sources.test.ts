// Where images come from: folders, lists, patterns, tars, Parquet files.
import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { findInputs } from '../lib/dataset/find-inputs.js';
import { naturalOrder } from '../lib/dataset/natural-order.js';
import { openSource } from '../lib/dataset/open-source.js';
import { planShards, type ShardInput, shardItems } from '../lib/dataset/plan.js';
import type { SourceItem } from '../lib/dataset/source.js';
import { listFolder } from '../lib/dataset/sources/files.js';
import { readList } from '../lib/dataset/sources/list.js';
import { checkParquetColumns, countParquetRows, parquetItems } from '../lib/dataset/sources/parquet.js';
import { countTarSamples, tarItems } from '../lib/dataset/sources/tar.js';
import { TokenFlowError } from '../lib/errors.js';
import { packageRoot } from '../lib/native.js';
import { packTar } from './support/dataset.js';

type Items = AsyncIterable<SourceItem> | Iterable<SourceItem>;

async function collect(items: Items): Promise<SourceItem[]> {
  const all: SourceItem[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const idsOf = async (items: Items) => (await collect(items)).map(({ id }) => id);
const refuses = (work: Promise<unknown>, code: string, message: RegExp) =>
  assert.rejects(work, (error) => {
    assert.ok(error instanceof TokenFlowError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });

describe('sources of images', () => {
  let folder: string;
  const at = (...names: string[]) => path.join(folder, ...names);
  const put = (name: string, content: string | Uint8Array = name) => {
    mkdirSync(path.dirname(at(name)), { recursive: true });
    writeFileSync(at(name), content);
    return at(name);
  };
  const openFiles = () =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).startsWith(folder);
      } catch {
        return false; // the listing's own
      }
    }).length;

  /** Files are closed a turn or two after their last byte. */
  const allClosed = async () => {
    for (let tries = 0; openFiles() > 0; tries++) {
      assert.ok(tries < 100, 'a file stays open');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };

  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-sources-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  describe('natural order', () => {
    it('reads numbers', () => {
      const names = [
        'b',
        'a10',
        'a2',
        'a',
        'a02',
        'a2b',
        'a/1',
        'a1/10',
        'a1/9',
        'B',
        'a99999999999999999999',
        'é',
      ];
      assert.deepEqual(names.sort(naturalOrder), [
        ...['B', 'a', 'a/1', 'a1/9', 'a1/10', 'a02', 'a2', 'a2b', 'a10', 'a99999999999999999999', 'b', 'é'],
      ]);
    });

    it('is a total order', () => {
      const name = fc.stringMatching(/^[a0-3/]{0,6}$/);
      const sign = (a: string, b: string) => Math.sign(naturalOrder(a, b));
      fc.assert(
        fc.property(name, name, name, (a, b, c) => {
          assert.equal(sign(a, b) === 0, a === b);
          assert.equal(sign(a, b) + sign(b, a), 0);
          if (sign(a, b) <= 0 && sign(b, c) <= 0) assert.ok(sign(a, c) <= 0);
        }),
        { numRuns: 3000 },
      );
    });
  });

  describe('folders', () => {
    it('lists what is below, links followed, hidden names passed over', async () => {
      for (const name of [
        'b/10.png',
        'b/9.PNG',
        'a.jpg',
        '.hidden.jpg',
        '.cache/c.jpg',
        'b/._d.png',
        'note.md',
      ])
        put(name);
      const other = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-linked-'));
      try {
        writeFileSync(path.join(other, 'far.jpg'), '');
        symlinkSync(other, at('linked'));
        symlinkSync(folder, at('b', 'loop'));
        symlinkSync(at('a.jpg'), at('z.jpg'));
        symlinkSync(at('nowhere'), at('dangling.jpg'));
        const found = await listFolder(folder, (file) => /\.(jpg|png)$/i.test(file));
        assert.deepEqual(found, ['a.jpg', 'b/9.PNG', 'b/10.png', 'linked/far.jpg', 'z.jpg']);
      } finally {
        rmSync(other, { recursive: true });
      }
    });

    it('reads a file when its turn has come, and says which it could not read', async () => {
      put('a.jpg', 'one');
      put('b.jpg');
      const [input] = await findInputs([folder]);
      assert.equal(input.kind, 'files');
      const [a, b] = await collect(shardItems(input as ShardInput));
      rmSync(at('b.jpg'));
      assert.equal(Buffer.from(await a.load!()).toString(), 'one');
      await refuses(b.load!(), 'ERR_TOKENFLOW_IO', /^Cannot read 'b\.jpg': there is no such file/);
      await assert.rejects(a.load!(AbortSignal.abort(new Error('enough'))), /enough/);
    });
  });

  describe('what a name means', () => {
    const filesOf = async (names: string[], options = {}) => {
      const inputs = await findInputs(names, options);
      return inputs.flatMap((input) =>
        input.kind === 'files' ? input.ids : [path.relative(folder, input.file)],
      );
    };

    it('a folder: its images, else its tars or Parquet files', async () => {
      put('photos/a.jpg');
      put('photos/b/c.webp');
      put('photos/read.me');
      put('tars/s-10.tar');
      put('tars/s-9.tar.gz');
      put('hub/data/train-0.parquet');
      put('mixed/a.jpg');
      put('mixed/b.tar');
      assert.deepEqual(await filesOf([at('photos')]), ['a.jpg', 'b/c.webp']);
      assert.deepEqual(await filesOf([at('tars')]), ['tars/s-9.tar.gz', 'tars/s-10.tar']);
      assert.deepEqual(await filesOf([at('hub')]), ['hub/data/train-0.parquet']);
      const problem = /has 1 images and 1 tars; .*--glob '\*\*\/\*\.jpg'/;
      await refuses(findInputs([at('mixed')]), 'ERR_TOKENFLOW_INVALID_ARGUMENT', problem);
      assert.deepEqual(await filesOf([at('mixed')], { glob: '*.tar' }), ['mixed/b.tar']);
      assert.deepEqual(await filesOf([at('photos')], { glob: 'b/**' }), ['b/c.webp']);
      assert.deepEqual(await filesOf([at('photos')], { glob: '**/*.me' }), ['read.me']);
      await refuses(
        findInputs([at('photos')], { glob: '*.png' }),
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        /matches '\*\.png'/,
      );
      mkdirSync(at('none'));
      await refuses(
        findInputs([at('none')]),
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        /has no images, tars or Parquet/,
      );
    });

    it('a pattern', async () => {
      for (const i of [8, 9, 10, 11]) put(`shard-0${String(i).padStart(2, '0')}.tar`);
      put('p/x/1.jpg');
      put('p/y/2.jpg');
      put('p/#odd[1].jpg');
      assert.deepEqual(await filesOf([at('shard-{009..011}.tar')]), [
        'shard-009.tar',
        'shard-010.tar',
        'shard-011.tar',
      ]);
      await refuses(
        findInputs([at('shard-{009..012}.tar')]),
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        /there is no '.*shard-012\.tar', which '.*\{009\.\.012\}\.tar' names/,
      );
      assert.deepEqual(await filesOf([at('p', '*/*.jpg')]), [at('p/x/1.jpg'), at('p/y/2.jpg')]);
      assert.deepEqual(await filesOf([at('p', '**', '2.*')]), [at('p/y/2.jpg')]);
      assert.deepEqual(await filesOf([at('p', '#odd[1].jpg')]), [at('p/#odd[1].jpg')]);
      await refuses(findInputs([at('q', '*.jpg')]), 'ERR_TOKENFLOW_INVALID_ARGUMENT', /no file matches/);
      const before = process.cwd();
      try {
        process.chdir(folder);
        for (const pattern of ['p/*/*.jpg', './p/**/?.jpg']) {
          const prefix = pattern.startsWith('.') ? './' : '';
          assert.deepEqual(await filesOf([pattern]), [`${prefix}p/x/1.jpg`, `${prefix}p/y/2.jpg`]);
        }
        assert.deepEqual(await filesOf(['*.tar']), [
          'shard-008.tar',
          'shard-009.tar',
          'shard-010.tar',
          'shard-011.tar',
        ]);
      } finally {
        process.chdir(before);
      }
    });

    it('a list, in its own order', async () => {
      put('list.txt', 'b.jpg\r\n\na 1.jpg\n');
      put('zero.lst', 'b\nc.jpg\0a.jpg\0');
      assert.deepEqual(await filesOf([at('list.txt')]), ['b.jpg', 'a 1.jpg']);
      assert.deepEqual(await filesOf([at('zero.lst')]), ['b\nc.jpg', 'a.jpg']);
      assert.deepEqual(
        await filesOf(['-'], { stdin: Readable.from([Buffer.from('x.png\ny'), Buffer.from('.png')]) }),
        [...['x.png', 'y.png']],
      );
      put('empty.txt', '\n');
      await refuses(
        findInputs([at('empty.txt')]),
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        /the list '.*empty\.txt' is empty/,
      );
      await refuses(
        readList(put('latin.txt', Buffer.from([0xe9, 10])), 'latin'),
        'ERR_TOKENFLOW_FORMAT',
        /UTF-8/,
      );
      await refuses(readList(folder, 'a folder'), 'ERR_TOKENFLOW_IO', /a folder/);
    });

    it('several, of one kind or of many, each image once', async () => {
      put('a.jpg');
      put('b.png');
      put('c.tar');
      put('d/e.jpg');
      assert.deepEqual(await filesOf([at('a.jpg'), at('b.png'), at('c.tar'), at('d')]), [
        ...[at('a.jpg'), at('b.png'), 'c.tar', 'e.jpg'],
      ]);
      assert.equal((await findInputs([at('a.jpg'), at('b.png'), at('c.tar'), at('d')])).length, 3);
      await refuses(findInputs([at('a.jpg'), at('a.jpg')]), 'ERR_TOKENFLOW_INVALID_ARGUMENT', /named twice/);
      await refuses(
        findInputs([put('f.doc')]),
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        /Cannot tell what '.*f\.doc' is/,
      );
      await refuses(findInputs([at('no')]), 'ERR_TOKENFLOW_INVALID_ARGUMENT', /there is no '.*no'/);
    });
  });

  describe('tars', () => {
    const samples: [string, string | Uint8Array][] = [
      ['./x/1.jpg', 'one'],
      ['./x/1.cls', ' 7\n'],
      ['./x/1.json', '{"a":[1]}'],
      ['x/2.left.png', 'left'],
      ['x/2.right.png', 'right'],
      ['x/2.txt', 'ein Bär'],
      ['x/2.seg', 'unused'],
      ['3.txt', 'no image'],
      ['4.constructor', 'no meta'],
      ['4.jpg', 'four'],
      ['__index__.json', '{}'],
      ['noextension', 'x'],
      ['5.cls', 'cat'],
      ['5.jpg', 'five'],
      ['6.jpg', 'six'],
      ['6.json', '{broken'],
    ];

    it('give samples with image and meta, plain and gzip', async () => {
      const tar = await packTar(samples);
      put('plain.tar', tar);
      put('zipped.tar', gzipSync(tar));
      for (const file of [at('plain.tar'), at('zipped.tar')]) {
        const items = await collect(tarItems(file));
        assert.deepEqual(
          items.map(({ id, bytes, meta }) => [id, bytes && Buffer.from(bytes).toString(), meta]),
          [
            ['x/1', 'one', { cls: 7, json: { a: [1] } }],
            ['x/2', 'left', { txt: 'ein Bär' }],
            ['3', undefined, { txt: 'no image' }],
            ['4', 'four', undefined],
            ['5', 'five', { cls: 'cat' }],
            ['6', undefined, undefined],
          ],
        );
        await refuses(
          items[2].load!(),
          'ERR_TOKENFLOW_IMAGE',
          /sample '3' of .*no image; its members are \.txt$/,
        );
        await refuses(items[5].load!(), 'ERR_TOKENFLOW_IMAGE', /sample '6'.*\.json cannot be parsed/);
        assert.equal(await countTarSamples(file), 6);
        const right = await collect(tarItems(file, { image: 'right.png' }));
        assert.equal(Buffer.from(right[1].bytes!).toString(), 'right');
        await refuses(
          right[0].load!(),
          'ERR_TOKENFLOW_IMAGE',
          /no member \.right\.png; its members are \.jpg, \.cls, \.json/,
        );
      }
    });

    it('give the same samples in slices', async () => {
      const file = put('s.tar', await packTar(samples));
      const whole = await idsOf(tarItems(file));
      for (const size of [1, 2, 4, 6, 7]) {
        const slices: string[] = [];
        for (let start = 0; start < 8; start += size)
          slices.push(...(await idsOf(tarItems(file, { start, count: size }))));
        assert.deepEqual(slices, whole);
      }
      await allClosed();
    });

    it('are closed when the reader leaves early', async () => {
      const many = Array.from({ length: 200 }, (_, i): [string, string] => [`${i}.jpg`, 'x'.repeat(9000)]);
      for (const file of [put('s.tar', await packTar(many)), put('s.tgz', gzipSync(await packTar(many)))]) {
        for await (const { id } of tarItems(file)) if (id === '3') break;
      }
      await allClosed();
    });

    it('that are broken, cut off or missing are an error', async () => {
      const tar = await packTar(samples);
      const zipped = gzipSync(tar);
      truncateSync(put('cut.tar', tar), 512 * 5 + 100);
      truncateSync(put('cut.tgz', zipped), zipped.length - 20);
      put('text.tar', 'this is no tar '.repeat(100));
      for (const name of ['cut.tar', 'cut.tgz', 'text.tar', 'none.tar', '.']) {
        const file = at(name);
        await refuses(collect(tarItems(file)), 'ERR_TOKENFLOW_IO', /Cannot read the tar '/);
      }
      put('empty.tar', await packTar([]));
      assert.deepEqual(await collect(tarItems(at('empty.tar'))), []);
    });
  });

  describe('Parquet files', () => {
    /** Seven rows in groups of three, the image as Hugging Face has it. */
    async function hub(name: string): Promise<string> {
      const { parquetWriteBuffer } = await import('hyparquet-writer');
      const images = Array.from({ length: 7 }, (_, i) =>
        i === 4 ? { bytes: null, path: 'only.jpg' } : { bytes: Buffer.from(`image ${i}`), path: null },
      );
      const columns = [
        { name: 'image', data: images },
        { name: 'label', data: Array.from({ length: 7 }, (_, i) => BigInt(i)) },
        { name: 'caption', data: Array.from({ length: 7 }, (_, i) => (i === 1 ? null : `Nr. ${i}`)) },
        { name: 'mask', data: Array.from({ length: 7 }, () => Buffer.from('mask')) },
      ];
      const schema = [
        { name: 'root', num_children: 4 },
        { name: 'image', num_children: 2, repetition_type: 'OPTIONAL' },
        { name: 'bytes', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' },
        { name: 'path', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
        { name: 'label', type: 'INT64', repetition_type: 'OPTIONAL' },
        { name: 'caption', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
        { name: 'mask', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' },
      ] as Parameters<typeof parquetWriteBuffer>[0]['schema'];
      return put(name, Buffer.from(parquetWriteBuffer({ columnData: columns, schema, rowGroupSize: 3 })));
    }

    it('give rows with image and meta', async () => {
      const file = await hub('train-0.parquet');
      assert.equal(await countParquetRows(file), 7);
      const items = await collect(parquetItems(file));
      assert.deepEqual(
        items.map(({ id }) => id),
        Array.from({ length: 7 }, (_, i) => `train-0/${i}`),
      );
      assert.equal(Buffer.from(items[6].bytes!).toString(), 'image 6');
      assert.deepEqual(items[6].meta, { label: 6, caption: 'Nr. 6' });
      assert.deepEqual(items[1].meta, { label: 1, caption: null });
      await refuses(
        items[4].load!(),
        'ERR_TOKENFLOW_IMAGE',
        /row 4 of train-0\.parquet: its image has no bytes/,
      );
      assert.deepEqual(await idsOf(parquetItems(file, { id: 'label' })), ['0', '1', '2', '3', '4', '5', '6']);
      const captions = await collect(parquetItems(file, { id: 'caption', image: 'mask' }));
      assert.equal(Buffer.from(captions[0].bytes!).toString(), 'mask');
      assert.equal(captions[0].id, 'Nr. 0');
      assert.deepEqual(captions[0].meta, { label: 0 });
      await refuses(captions[1].load!(), 'ERR_TOKENFLOW_IMAGE', /row 1 .* it has no caption/);
    });

    it('are read as Hugging Face datasets write them: by pyarrow, a struct, snappy', async () => {
      const { parquetMetadataAsync, asyncBufferFromFile } = await import('hyparquet');
      const file = path.join(packageRoot(), 'test', 'fixtures', 'dataset', 'hub.parquet');
      const metadata = await parquetMetadataAsync(await asyncBufferFromFile(file));
      assert.match(metadata.created_by!, /parquet-cpp-arrow/);
      const codecs = metadata.row_groups.flatMap(({ columns }) => columns.map((c) => c.meta_data!.codec));
      assert.deepEqual(new Set(codecs), new Set(['SNAPPY']));
      await checkParquetColumns(file, { image: 'image', id: 'caption' });
      const items = await collect(parquetItems(file));
      assert.deepEqual(
        items.map(({ id, meta }) => [id, meta]),
        [
          ['hub/0', { label: 0, caption: 'a cat' }],
          ['hub/1', { label: 1, caption: null }],
          ['hub/2', { label: 0, caption: 'ein Kätzchen' }],
        ],
      );
      for (const [i, name] of ['plain.jpg', 'grey.png', 'palette.png'].entries()) {
        const expected = readFileSync(path.join(packageRoot(), 'test', 'fixtures', 'image', name));
        assert.deepEqual(Buffer.from(items[i].bytes!), expected);
      }
    });

    it('give the same rows in slices', async () => {
      const file = await hub('t.parquet');
      for (const count of [1, 2, 3, 5, 9]) {
        const ids: string[] = [];
        for (let start = 0; start < 7; start += count)
          ids.push(...(await idsOf(parquetItems(file, { start, count }))));
        assert.deepEqual(ids, await idsOf(parquetItems(file)));
      }
      await allClosed();
    });

    it('without such columns, or broken, are an error', async () => {
      const { parquetWriteBuffer } = await import('hyparquet-writer');
      const file = await hub('t.parquet');
      const format = 'ERR_TOKENFLOW_FORMAT';
      await refuses(
        collect(parquetItems(file, { image: 'label' })),
        format,
        /a column 'label' of image bytes.*'image', 'label', 'caption', 'mask'/,
      );
      await refuses(collect(parquetItems(file, { id: 'name' })), format, /a column 'name' of ids/);
      await refuses(collect(parquetItems(file, { id: 'mask', image: 'image' })), format, /text or numbers/);
      const numbers = parquetWriteBuffer({ columnData: [{ name: 'n', data: [1, 2], type: 'INT32' }] });
      await refuses(
        collect(parquetItems(put('n.parquet', Buffer.from(numbers)))),
        format,
        /a column of image bytes/,
      );
      const two = parquetWriteBuffer({
        columnData: ['a', 'b'].map((name) => ({
          name,
          data: [Buffer.from('x')],
          type: 'BYTE_ARRAY' as const,
        })),
      });
      await refuses(
        collect(parquetItems(put('two.parquet', Buffer.from(two)))),
        format,
        /'a' and 'b' are such.*--image/,
      );
      const bytes = readFileSync(file);
      const broken = Buffer.from(bytes);
      broken.fill(0xff, 4, 60);
      for (const content of [
        bytes.subarray(0, bytes.length - 30),
        Buffer.alloc(0),
        Buffer.from('PAR1 no'),
        broken,
      ]) {
        await refuses(
          collect(parquetItems(put('broken.parquet', content))),
          'ERR_TOKENFLOW_IO',
          /Cannot read the Parquet file '/,
        );
      }
      await refuses(countParquetRows(at('none.parquet')), 'ERR_TOKENFLOW_IO', /none\.parquet/);
    });
  });

  it('are opened by name, one after the other', async () => {
    put('photos/b.jpg');
    const tar = put('s.tar', await packTar([['a.jpg', 'a']]));
    assert.deepEqual(await idsOf(openSource([at('photos'), tar])), ['b.jpg', 'a']);
    assert.deepEqual(await idsOf(openSource(tar)), ['a']);
    await refuses(
      idsOf(openSource(tar, { images: 'x' } as object)),
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      /'image'/,
    );
  });

  describe('the plan', () => {
    it('cuts every input into slices that cover it, the same each time', async () => {
      for (let i = 0; i < 10; i++) put(`photos/${i}.jpg`);
      const tar = put(
        's.tar',
        await packTar(Array.from({ length: 5 }, (_, i): [string, string] => [`${i}.jpg`, `${i}`])),
      );
      const inputs = await findInputs([at('photos'), tar]);
      const plan = await planShards(inputs, { shardSize: 4 });
      assert.deepEqual(
        plan.shards.map(({ name }) => name),
        [...['shard-000000', 'shard-000001', 'shard-000002', 'shard-000003', 'shard-000004']],
      );
      const ids: string[] = [];
      for (const { input } of plan.shards) ids.push(...(await idsOf(shardItems(input))));
      assert.deepEqual(ids, [...Array.from({ length: 10 }, (_, i) => `${i}.jpg`), '0', '1', '2', '3', '4']);
      assert.equal(
        (await planShards(await findInputs([at('photos'), tar]), { shardSize: 4 })).sha256,
        plan.sha256,
      );
      assert.notEqual((await planShards(inputs, { shardSize: 5 })).sha256, plan.sha256);
      put('photos/10.jpg');
      assert.notEqual(
        (await planShards(await findInputs([at('photos'), tar]), { shardSize: 4 })).sha256,
        plan.sha256,
      );
      const whole = await planShards(inputs);
      assert.deepEqual(
        whole.shards.map(({ input }) => input.kind),
        ['files', 'tar'],
      );
      await refuses(planShards(inputs, { shardSize: 0 }), 'ERR_TOKENFLOW_INVALID_ARGUMENT', /shardSize/);
    });
  });
});

/** From what a person names to what is read: folders, patterns, lists, tars and Parquet files. */
import { stat } from 'node:fs/promises';
import * as path from 'node:path';
import type { Readable } from 'node:stream';
import { Minimatch } from 'minimatch';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { type FileList, listFolder } from './sources/files.js';
import { extensionOf, IMAGE_EXTENSIONS, isImageName } from './sources/image-names.js';
import { readList } from './sources/list.js';

/** Image files, or a file that holds images. Paths are absolute. */
export type Input =
  | ({ kind: 'files' } & FileList)
  | { kind: 'tar'; file: string }
  | { kind: 'parquet'; file: string };

export interface FindOptions {
  /** Of a folder, take the files that match this only (`cats/**` + `/*.png`), images or not. */
  glob?: string;
  /** What `-` reads a list from. Default: stdin. */
  stdin?: Readable;
}

/** What begins with `#` or `!` is a name like any other. */
const PATTERN = { nocomment: true, nonegate: true };
const MAGIC = /[*?[]/;
const LISTS = ['txt', 'lst', 'list'];
const isTarName = (name: string): boolean => /\.(tar|tar\.gz|tgz)$/i.test(name);
const isParquetName = (name: string): boolean => extensionOf(name) === 'parquet';

/**
 * Finds the inputs that `names` mean, in their order:
 * - a folder: the images below it; or its tar or Parquet files where it has no images;
 * - a pattern (`photos/*.jpg`, `shard-{000000..000099}.tar`), in quotes so that the shell leaves it alone;
 * - a list of image files (`.txt`, `.lst`, `.list`), or `-` for a list on stdin;
 * - a tar (`.tar`, `.tar.gz`, `.tgz`), a Parquet file, an image.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT, ERR_TOKENFLOW_INVALID_ARGUMENT: nothing found, or an image twice
 */
export async function findInputs(names: readonly string[], options: FindOptions = {}): Promise<Input[]> {
  const found: Input[][] = [];
  for (const name of names) found.push(await findInput(name, options));
  const inputs = joinFiles(found.flat());
  checkIds(inputs);
  return inputs;
}

async function findInput(name: string, options: FindOptions): Promise<Input[]> {
  if (name === '-')
    return listed(await readList(options.stdin ?? process.stdin, 'the list on stdin'), 'the list on stdin');
  const status = await statOf(name);
  if (status?.isDirectory()) return folderInputs(name, options.glob);
  if (status?.isFile()) {
    if (LISTS.includes(extensionOf(name)))
      return listed(await readList(name, `the list '${name}'`), `the list '${name}'`);
    return [fileInput(name)];
  }
  return patternInputs(name);
}

async function statOf(name: string) {
  try {
    return await stat(name);
  } catch (cause) {
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes((cause as NodeJS.ErrnoException).code ?? ''))
      return undefined;
    throw systemError('read', name, cause);
  }
}

function fileInput(name: string): Input {
  if (isTarName(name)) return { kind: 'tar', file: path.resolve(name) };
  if (isParquetName(name)) return { kind: 'parquet', file: path.resolve(name) };
  if (isImageName(name)) return { kind: 'files', root: process.cwd(), ids: [name] };
  throw new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Cannot tell what '${name}' is: expected a folder, a pattern, a list (.txt), a .tar, a .parquet or an image ` +
      `(.${IMAGE_EXTENSIONS.join(', .')})`,
  );
}

function listed(ids: string[], name: string): Input[] {
  if (ids.length === 0) throw nothing(`${name} is empty`);
  return [{ kind: 'files', root: process.cwd(), ids }];
}

async function folderInputs(folder: string, glob?: string): Promise<Input[]> {
  const root = path.resolve(folder);
  const matches = glob === undefined ? undefined : new Minimatch(glob, PATTERN);
  const files = await listFolder(root, (file) =>
    matches ? matches.match(file) : isImageName(file) || isTarName(file) || isParquetName(file),
  );
  const tars = files.filter(isTarName);
  const parquets = files.filter(isParquetName);
  const images = files.filter((file) => !isTarName(file) && !isParquetName(file));
  const kinds = [
    images.length && `${images.length} images`,
    tars.length && `${tars.length} tars`,
    parquets.length && `${parquets.length} Parquet files`,
  ].filter(Boolean);
  if (kinds.length === 0) {
    throw nothing(
      glob
        ? `'${folder}' has no file that matches '${glob}'`
        : `'${folder}' has no images, tars or Parquet files`,
    );
  }
  if (kinds.length > 1) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `'${folder}' has ${kinds.join(' and ')}; say which to take by a pattern, such as --glob '**/*.${images.length ? extensionOf(images[0]) : 'tar'}'`,
    );
  }
  if (images.length > 0) return [{ kind: 'files', root, ids: images }];
  return [...tars, ...parquets].map((file) => fileInput(path.join(root, file)));
}

/** Braces as the shell expands them, each result a file or, with `*`, `?` or `[`, any number of files. */
async function patternInputs(pattern: string): Promise<Input[]> {
  const found: Input[][] = [];
  for (const name of new Minimatch(pattern, PATTERN).braceExpand()) {
    const status = await statOf(name);
    if (status?.isFile()) found.push([fileInput(name)]);
    else if (MAGIC.test(name)) found.push(await globInputs(name));
    else {
      const named = name === pattern ? '' : `, which '${pattern}' names`;
      throw nothing(status ? `'${name}'${named} is no file` : `there is no '${name}'${named}`);
    }
  }
  return found.flat();
}

async function globInputs(glob: string): Promise<Input[]> {
  const parts = glob.split('/');
  const first = parts.findIndex((part) => MAGIC.test(part));
  const folder = parts.slice(0, first).join('/');
  const matches = new Minimatch(parts.slice(first).join('/'), PATTERN);
  const prefix = first === 0 ? '' : `${folder}/`; // '/' for a pattern at the root
  const status = await statOf(prefix || '.');
  const files = status?.isDirectory() ? await listFolder(prefix || '.', (file) => matches.match(file)) : [];
  if (files.length === 0) throw nothing(`no file matches '${glob}'`);
  return files.map((file) => fileInput(prefix + file));
}

function nothing(reason: string): TokenFlowError {
  return new TokenFlowError('ERR_TOKENFLOW_INVALID_ARGUMENT', `Found nothing to read: ${reason}`);
}

/** Image files that were named one by one, as one list. */
function joinFiles(inputs: readonly Input[]): Input[] {
  const joined: Input[] = [];
  let list: { root: string; ids: string[] } | undefined;
  for (const input of inputs) {
    if (input.kind !== 'files') {
      list = undefined;
      joined.push(input);
    } else if (list?.root === input.root) {
      for (const id of input.ids) list.ids.push(id);
    } else {
      list = { root: input.root, ids: [...input.ids] };
      joined.push({ kind: 'files', ...list });
    }
  }
  return joined;
}

function checkIds(inputs: readonly Input[]): void {
  const seen = new Set<string>();
  for (const input of inputs) {
    for (const id of input.kind === 'files' ? input.ids : []) {
      if (seen.has(id)) {
        throw new TokenFlowError(
          'ERR_TOKENFLOW_INVALID_ARGUMENT',
          `Expected each image once, but '${id}' is named twice; name a folder that holds both, or sort the list with 'sort -u'`,
        );
      }
      seen.add(id);
    }
  }
}

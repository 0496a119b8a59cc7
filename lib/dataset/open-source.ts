import { checkOptions } from '../errors.js';
import { type FindOptions, findInputs } from './find-inputs.js';
import type { ItemOptions } from './plan.js';
import type { SourceItem } from './source.js';
import { fileItems } from './sources/files.js';
import { parquetItems } from './sources/parquet.js';
import { tarItems } from './sources/tar.js';

export interface OpenSourceOptions extends FindOptions, ItemOptions {}

/**
 * The images that names mean, in an order that depends on the names alone:
 * - a folder: the images below it, in natural order (`2.jpg` before `10.jpg`), links followed, hidden names passed over; or
 *   its tar or Parquet files where it has no images;
 * - a pattern (`photos/*.jpg`, `shard-{000000..000099}.tar`);
 * - a list of image files (`.txt`, `.lst`, `.list`), or `-` for a list on stdin;
 * - a WebDataset tar (`.tar`, `.tar.gz`, `.tgz`), a Parquet file with a column of image bytes, an image.
 *
 * Nothing is read before its turn. An image that cannot be read is an error of its item; a tar or Parquet file that cannot
 * be read ends the iteration.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT, ERR_TOKENFLOW_INVALID_ARGUMENT
 */
export async function* openSource(
  names: string | readonly string[],
  options: OpenSourceOptions = {},
): AsyncGenerator<SourceItem> {
  checkOptions('openSource', options, ['glob', 'stdin', 'image', 'id']);
  const { image, id, ...find } = options;
  for (const input of await findInputs(typeof names === 'string' ? [names] : names, find)) {
    if (input.kind === 'files') yield* fileItems(input);
    else if (input.kind === 'tar') yield* tarItems(input.file, { image });
    else yield* parquetItems(input.file, { image, id });
  }
}

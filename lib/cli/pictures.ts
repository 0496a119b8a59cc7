/** Pictures as results: in a folder, as one file, or on stdout. */
import * as path from 'node:path';
import { toPng, writePng } from '../image/png.js';
import { loadSharp } from '../image/sharp.js';
import { usageError } from './session.js';
import { writeStdout } from './streams.js';
import { checkFile, checkFolder, checkNotRead, checkStdout, makeFolder } from './targets.js';

interface Picture {
  data: Uint8Array;
  width: number;
  height: number;
}

/** What `--out` names: a folder, or for a single picture a `.png` file or `-`. */
export class PictureTarget {
  readonly #files: string[];
  readonly #folder: string | undefined;

  /**
   * Checks that they can be written.
   * @param names of the files, should it be a folder
   * @param inputs paths that must not be written over
   */
  constructor(out: string, names: readonly string[], inputs: readonly string[]) {
    const single = out === '-' || /\.png$/i.test(out);
    if (single && names.length !== 1) {
      throw usageError(`--out ${out} takes one picture, but there are ${names.length}; name a folder`);
    }
    if (out === '-') checkStdout('--out');
    loadSharp(); // its absence is better known now
    this.#folder = single ? undefined : out;
    this.#files = single ? [out] : names.map((name) => path.join(out, name));
    if (this.#folder !== undefined) checkFolder(this.#folder);
    else if (out !== '-') checkFile(out);
    for (const file of this.#files) if (file !== '-') checkNotRead(file, inputs);
  }

  /** Writes the i-th picture and returns its path, or `-`. */
  async write(i: number, { data, width, height }: Picture): Promise<string> {
    const file = this.#files[i];
    if (this.#folder !== undefined) makeFolder(this.#folder);
    if (file === '-') await writeStdout(await toPng(data, width, height));
    else await writePng(file, { data, width, height });
    return file;
  }
}

/** Datasets for tests. */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { pack } from 'tar-stream';
import { toPng } from '../../lib/image/png.js';

/** A tar of files in this order. */
export async function packTar(
  files: readonly (readonly [name: string, content: string | Uint8Array])[],
): Promise<Buffer> {
  const archive = pack();
  for (const [name, content] of files) archive.entry({ name, mtime: new Date(0) }, Buffer.from(content));
  archive.finalize();
  return buffer(archive as unknown as AsyncIterable<Uint8Array>);
}

/** A small picture that differs with `index`, as PNG. */
export async function picture(index: number, side = 24): Promise<Buffer> {
  const data = new Uint8Array(side * side * 3);
  let state = index + 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    data[i] = (state >>> 16) & 0xff;
  }
  return Buffer.from(await toPng(data, side, side));
}

/** Writes pictures `0.png`, `1.png`, … */
export async function writePictures(folder: string, count: number): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (let i = 0; i < count; i++) writeFileSync(path.join(folder, `${i}.png`), await picture(i));
}

/** Content of every file below a folder, by path, what `ignored` matches left out. */
export function contentOf(folder: string, ignored?: RegExp): Map<string, string> {
  const names = (readdirSync(folder, { recursive: true }) as string[]).sort();
  const files = names.filter((name) => statSync(path.join(folder, name)).isFile() && !ignored?.test(name));
  return new Map(files.map((name) => [name, readFileSync(path.join(folder, name)).toString('base64')]));
}

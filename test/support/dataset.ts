/** Datasets for tests. */
import { buffer } from 'node:stream/consumers';
import { pack } from 'tar-stream';

/** A tar of files in this order. */
export async function packTar(
  files: readonly (readonly [name: string, content: string | Uint8Array])[],
): Promise<Buffer> {
  const archive = pack();
  for (const [name, content] of files) archive.entry({ name, mtime: new Date(0) }, Buffer.from(content));
  archive.finalize();
  return buffer(archive as unknown as AsyncIterable<Uint8Array>);
}

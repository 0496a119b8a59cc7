import type { Graph } from '../graph/ops.js';

/** A batch is made no larger than this for the sake of speed: beyond it the widest map falls out of every cache. */
const WIDEST_MAP_BYTES = 64 * 2 ** 20;
const LARGEST_BATCH = 8;

/** The widest maps of all lanes together, which compute an image each: a bound on their memory. */
const LANES_BYTES = 256 * 2 ** 20;

/** The batch a graph is best run at, from its form for one image: where it can be, images for each of `threads` lanes. */
export function defaultBatch(single: Graph, threads = 1): number {
  const bytes = { f32: 4, i32: 4, u8: 1 };
  const widest = Math.max(
    ...single.values.map(({ shape, dtype }) => shape.reduce((a, b) => a * b, bytes[dtype])),
  );
  const fitting = Math.max(1, Math.min(LARGEST_BATCH, WIDEST_MAP_BYTES / widest));
  const batch = 2 ** Math.floor(Math.log2(fitting));
  return threads * widest > LANES_BYTES ? batch : threads * Math.max(1, Math.floor(batch / threads));
}

/**
 * Lanes a batch is run in. With images for every thread each does its own, from beginning to end; fewer are computed by all
 * threads together, op by op. The results are the same.
 */
export function lanesOf(batch: number, threads: number): number {
  return batch % threads === 0 ? threads : 1;
}

/**
 * Splits `count` images into runs of at most `size`. What is left over is run in powers of two, so that few programs
 * serve every count.
 */
export function splitBatch(count: number, size: number): { start: number; count: number }[] {
  const chunks: { start: number; count: number }[] = [];
  for (let start = 0; start < count; ) {
    const left = count - start;
    const run = left >= size ? size : 2 ** Math.floor(Math.log2(left));
    chunks.push({ start, count: run });
    start += run;
  }
  return chunks;
}

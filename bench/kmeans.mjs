/** k-means against FAISS's: the same vectors, the same first codes, the time of one iteration and the objective after it. */
import { createRequire } from 'node:module';
import { gaussian } from './codebook-data.mjs';
import { LoadGuard, median, withThreads } from './frame.mjs';

const { kMeansSync } = createRequire(import.meta.url)('../dist/codebook/index.js');

const CASE = { rows: 1_000_000, dim: 32, size: 8192 };

export const kMeansName = (threads) => `kmeans/${CASE.dim}/${CASE.size}/${CASE.rows}/${threads}`;

export async function benchKMeans(report, faiss, threads) {
  const { rows, dim, size } = CASE;
  const vectors = gaussian(rows, dim, 1);
  const init = vectors.slice(0, size * dim);
  await withThreads(threads, async () => {
    const guard = new LoadGuard();
    const times = [];
    let last = 0;
    const onProgress = ({ phase }) => {
      const now = performance.now();
      if (phase === 'iterate') times.push((now - last) / 1000);
      last = now;
    };
    const { objectives } = kMeansSync(vectors, {
      dim,
      size,
      init,
      maxIterations: 3,
      tolerance: 0,
      onProgress,
    });
    const othersShare = guard.othersShare();
    // Its iterations take tens of times as long: two of them, which also gives the objective after the first.
    const rival = await faiss?.kMeans({ vectors, init, dim, threads, iterations: 2 });
    report.add({
      name: kMeansName(threads),
      seconds: median(times),
      operations: 2 * rows * size * dim,
      threads,
      rival: rival && faiss.name,
      rivalSeconds: rival?.seconds,
      othersShare,
      objectives,
      rivalObjectives: rival?.objectives,
    });
    if (rival === undefined) return;
    const [ours, theirs] = [objectives[1], rival.objectives[1]];
    report.note(
      `objective after one iteration: ours ${ours.toPrecision(7)}, theirs ${theirs.toPrecision(7)} ` +
        `(${(100 * (ours / theirs - 1)).toFixed(3)} %)`,
    );
  });
}

/** Lookups against what else a Node.js program could use: onnxruntime, usearch, plain JavaScript. */
import { createRequire } from 'node:module';
import { agreement, unitHalves } from './codebook-data.mjs';
import { LoadGuard, timeInTurn, withThreads } from './frame.mjs';
import { openOnnxLookup } from './rivals/onnx-lookup.mjs';

const { Codebook } = createRequire(import.meta.url)('../dist/codebook/index.js');

const [DIM, CODES] = [40, 32768];
const REST = 30; // milliseconds before a call: the rival's threads spin on after their work

/** Exact search of usearch, or the reason why there is none. It is no dependency: `npm install --no-save usearch`. */
async function openUsearch({ codes, queries, dim, threads }) {
  try {
    const { exactSearch, MetricKind } = await import('usearch');
    return {
      name: 'usearch exactSearch',
      search: () =>
        Int32Array.from(exactSearch(codes, queries, dim, 1, MetricKind.L2sq, threads).keys, Number),
    };
  } catch (error) {
    return { reason: `usearch: ${error.message.split('\n')[0]}` };
  }
}

/** The lookup as one would write it in JavaScript. */
function openJavaScript({ codes, queries, dim }) {
  const search = () => {
    const indices = new Int32Array(queries.length / dim);
    for (let i = 0; i < indices.length; i++) {
      let best = Infinity;
      for (let j = 0; j * dim < codes.length; j++) {
        let distance = 0;
        for (let e = 0; e < dim; e++) {
          const difference = queries[i * dim + e] - codes[j * dim + e];
          distance += difference * difference;
        }
        if (distance >= best) continue;
        best = distance;
        indices[i] = j;
      }
    }
    return indices;
  };
  return { name: 'plain JavaScript', search };
}

const RIVALS = [
  { kind: 'onnx-argmax', open: openOnnxLookup, metric: 'ip', k: 1, queries: 817 },
  { kind: 'onnx-top10', open: openOnnxLookup, metric: 'ip', k: 10, queries: 817 },
  { kind: 'usearch', open: openUsearch, metric: 'l2', k: 1, queries: 100 },
  { kind: 'javascript', open: openJavaScript, metric: 'l2', k: 1, queries: 40, threads: [1] },
];

const nameOf = ({ kind, queries }, threads) => [kind, DIM, CODES, queries, threads].join('/');

export async function benchLookupRivals(report, wanted, processors) {
  const codes = unitHalves(CODES, DIM, 1);
  for (const rival of RIVALS) {
    for (const threads of rival.threads ?? processors) {
      if (wanted(nameOf(rival, threads))) await run(report, rival, codes, threads);
    }
  }
}

async function run(report, { kind, open, metric, k, queries: n }, codes, threads) {
  const queries = unitHalves(n, DIM, 2);
  const { name, search, release, reason } = await open({ codes, queries, dim: DIM, k, threads });
  const codebook = new Codebook(codes, { dim: DIM, metric, screen: 'always' });
  await withThreads(threads, async () => {
    const guard = new LoadGuard();
    const functions = { ours: () => codebook.nearestSync(queries, { k }), ...(search && { theirs: search }) };
    const { ours, theirs } = await timeInTurn(functions, { seconds: 1, least: 3, rest: REST });
    report.add({
      name: nameOf({ kind, queries: n }, threads),
      seconds: ours,
      operations: 2 * n * CODES * DIM,
      threads,
      rival: name,
      rivalSeconds: theirs,
      agreement: search && agreement(codebook.nearestSync(queries, { k }).indices, await search()),
      othersShare: search ? undefined : guard.othersShare(), // the rival's own threads count as others'
    });
    if (reason) report.note(`left out: ${reason}`);
  });
  codebook.dispose();
  await release?.();
}

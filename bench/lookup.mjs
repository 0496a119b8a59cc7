/** The lookup of the tokenizer's dual codebook: 32 semantic and 8 pixel elements, 32768 codes, one image's tokens. */
import { createRequire } from 'node:module';
import { unitHalves } from './codebook-data.mjs';
import { LoadGuard, timeInTurn, withThreads } from './frame.mjs';

const { DualCodebook } = createRequire(import.meta.url)('../dist/index.js');

const CODES = 32768;
const QUERIES = 817;
const DIMS = [32, 8];
const DIM = DIMS[0] + DIMS[1];

function columns(rows, from, to) {
  const out = new Float32Array((rows.length / DIM) * (to - from));
  for (let i = 0, at = 0; i < rows.length; i += DIM) for (let k = from; k < to; k++) out[at++] = rows[i + k];
  return out;
}

/** Adds the row `lookup/dual/40/32768/<threads>` for each of `threads`. */
export async function benchDualLookup(report, { threads = [2] } = {}) {
  const codes = unitHalves(CODES, DIM, 1);
  const queries = unitHalves(QUERIES, DIM, 2);
  const dual = new DualCodebook([
    { vectors: columns(codes, 0, DIMS[0]), dim: DIMS[0], normalize: true },
    { vectors: columns(codes, DIMS[0], DIM), dim: DIMS[1], normalize: true },
  ]);
  for (const count of threads) {
    await withThreads(count, async () => {
      const guard = new LoadGuard();
      const { ours } = await timeInTurn({ ours: () => dual.nearestSync(queries) });
      report.add({
        name: `lookup/dual/${DIM}/${CODES}/${count}`,
        seconds: ours,
        operations: 2 * QUERIES * CODES * DIM,
        threads: count,
        othersShare: guard.othersShare(),
      });
    });
  }
  dual.dispose();
}

/** Memory stays flat over many calls: the slope of the resident size, in a process of its own. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';

// Rounds of a few calls, the heap collected now and then; twice as many before the first sample, in the same way: heap and
// allocator take so long to find their size.
const SCRIPT = `
  const library = require(process.argv[1]);
  const calls = Number(process.argv[2]);
  const { Codebook, DualCodebook, EmaCodebook, FiniteScalarQuantizer, kMeansSync, MultiScaleQuantizer,
    ProductQuantizer, ResidualQuantizer } = library;
  const vectors = Float32Array.from({ length: 64 * 4 }, (_, i) => Math.sin(i * i));
  const codebook = new Codebook(vectors, { dim: 4 });
  const dual = new DualCodebook([{ vectors, dim: 4 }, { vectors, dim: 4, normalize: true }]);
  const residual = new ResidualQuantizer([codebook, codebook]);
  const product = new ProductQuantizer([codebook, codebook]);
  const scales = new MultiScaleQuantizer(codebook, { scales: [1, 2] });
  const scalar = new FiniteScalarQuantizer({ levels: [3, 3, 3, 3] });
  const ema = new EmaCodebook(vectors, { dim: 4 });
  const queries = vectors.slice(0, 16);
  const signal = new AbortController().signal;
  const round = [
    () => codebook.nearest(queries),
    () => codebook.nearest(queries, { k: 3, margin: true, signal }),
    () => codebook.nearestSync(queries, { format: 'f32' }),
    () => codebook.quantize(queries),
    () => codebook.lookup([1, 2, 3]),
    () => dual.nearest([queries, queries], { weights: [1, Math.random()], partDistances: true }),
    () => dual.quantizeSync(vectors.subarray(0, 8)),
    () => residual.encode(queries, { beam: 2 }),
    () => residual.decodeSync([0, 1]),
    () => product.encode(queries),
    () => product.searchSync(queries, new Int32Array(8)),
    () => scales.encode(queries),
    () => scales.decodeSync(new Int32Array(5)),
    () => scalar.encode(queries),
    () => ema.update(queries, [0, 1, 2, 3]),
    () => ema.reviveSync(queries, { threshold: 0.5, seed: 1 }),
    () => new Codebook(vectors, { dim: 4 }).dispose(),
    () => void new Codebook(vectors, { dim: 4 }),
    () => kMeansSync(vectors, { dim: 4, size: 2, maxIterations: 1 }),
    () => codebook.nearest(new Float32Array(3)).catch(() => {}),
    () => codebook.nearest(queries, { signal: AbortSignal.abort() }).catch(() => {}),
    () => ema.apply({ counts: new Float64Array(64).fill(-1), sums: new Float64Array(256) }).catch(() => {}),
  ];
  (async () => {
    const samples = [];
    for (let done = -2 * calls, next = done; done < calls; ) {
      for (const call of round) await call();
      done += round.length;
      if (done < next) continue;
      next += calls / 100;
      gc();
      await new Promise(setImmediate);
      if (done > 0) samples.push([done, process.memoryUsage.rss()]);
    }
    console.log(JSON.stringify(samples));
  })();
`;

/** Bytes per call, by least squares. */
function slope(samples: [number, number][]): number {
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const [x, y] = [mean(samples.map(([at]) => at)), mean(samples.map(([, size]) => size))];
  const top = samples.reduce((sum, [at, size]) => sum + (at - x) * (size - y), 0);
  return top / samples.reduce((sum, [at]) => sum + (at - x) ** 2, 0);
}

describe('memory over many calls', () => {
  it('100 000 calls leave the resident size flat', () => {
    const library = path.join(__dirname, '..', 'lib', 'codebook', 'index.js');
    const run = spawnSync(
      process.execPath,
      ['--expose-gc', '--max-semi-space-size=1', '-e', SCRIPT, library, '100000'],
      {
        encoding: 'utf8',
        env: { ...process.env, TOKENFLOW_NUM_THREADS: '1' }, // the calls are too small to share out
      },
    );
    assert.equal(run.status, 0, run.stderr);
    const samples: [number, number][] = JSON.parse(run.stdout);
    assert.ok(samples.length >= 90);
    const grown = slope(samples);
    assert.ok(grown < 20, `the resident size grows by ${grown.toFixed(1)} bytes a call`);
  }).timeout(300_000);
});

/**
 * Every kind of bad input, at every entrance of the codebook layer: an error with a stable code whose message says what was
 * expected, what came and what to do; no crash, and the caller's arrays as they were.
 */
import assert from 'node:assert/strict';
import {
  BinarySphericalQuantizer,
  Codebook,
  DualCodebook,
  EmaCodebook,
  FiniteScalarQuantizer,
  kMeans,
  kMeansSync,
  LookupFreeQuantizer,
  MiniBatchKMeans,
  MultiScaleQuantizer,
  ProductQuantizer,
  ResidualQuantizer,
  TokenFlowError,
} from '../lib/codebook/index.js';

const INVALID = 'ERR_TOKENFLOW_INVALID_ARGUMENT';

/** Fails unless `call` throws, or rejects with, such an error. */
async function refuses(call: () => unknown, message: RegExp, code = INVALID): Promise<void> {
  let error: unknown;
  try {
    await call();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error instanceof TokenFlowError, `${call}: ${error}`);
  assert.equal(error.code, code, String(call));
  assert.match(error.message, message, String(call));
}

const corners = () => Float32Array.of(0, 0, 1, 0, 0, 1, 1, 1);

/** One of each, over four codes of two elements where there are codes. */
function everything() {
  const codebook = new Codebook(corners(), { dim: 2 });
  const part = { vectors: corners(), dim: 2 };
  return {
    codebook,
    dual: new DualCodebook([part, part]),
    residual: new ResidualQuantizer([codebook, codebook]),
    product: new ProductQuantizer([codebook]),
    scales: new MultiScaleQuantizer(codebook, { scales: [1, 2] }),
    finite: new FiniteScalarQuantizer({ levels: [3, 3] }),
    free: new LookupFreeQuantizer({ dim: 2 }),
    spherical: new BinarySphericalQuantizer({ dim: 2 }),
    ema: new EmaCodebook(corners(), { dim: 2 }),
    batches: new MiniBatchKMeans(corners(), { dim: 2 }),
  };
}

/** Every call that takes vectors, given these. The rows wanted are of 2 elements, but for the dual's 4 and the scales' 8. */
function callsWith(of: ReturnType<typeof everything>, vectors: never): Record<string, () => unknown> {
  const two = [0, 0] as never;
  return {
    'new Codebook': () => new Codebook(vectors, { dim: 2 }),
    'new DualCodebook': () =>
      new DualCodebook([
        { vectors, dim: 2 },
        { vectors, dim: 2 },
      ]),
    'new EmaCodebook': () => new EmaCodebook(vectors, { dim: 2 }),
    'new MiniBatchKMeans': () => new MiniBatchKMeans(vectors, { dim: 2 }),
    'codebook.nearest': () => of.codebook.nearest(vectors),
    'codebook.nearestSync': () => of.codebook.nearestSync(vectors),
    'codebook.quantize': () => of.codebook.quantize(vectors),
    'codebook.quantizeSync': () => of.codebook.quantizeSync(vectors),
    'dual.nearest': () => of.dual.nearest(vectors),
    'dual.nearest of parts': () => of.dual.nearest([corners(), vectors]),
    'dual.quantizeSync': () => of.dual.quantizeSync(vectors),
    'residual.encode': () => of.residual.encode(vectors),
    'residual.encodeSync': () => of.residual.encodeSync(vectors),
    'product.encode': () => of.product.encode(vectors),
    'product.distanceTables': () => of.product.distanceTables(vectors),
    'product.search': () => of.product.search(vectors, two),
    'scales.encode': () => of.scales.encode(vectors),
    'finite.encode': () => of.finite.encode(vectors),
    'free.encodeSync': () => of.free.encodeSync(vectors),
    'spherical.encode': () => of.spherical.encode(vectors),
    'ema.accumulate': () => of.ema.accumulate(vectors, two),
    'ema.update': () => of.ema.update(vectors, two),
    'ema.revive': () => of.ema.revive(vectors, { threshold: 2, seed: 0 }),
    'batches.update': () => of.batches.update(vectors),
    'batches.updateSync': () => of.batches.updateSync(vectors),
    kMeans: () => kMeans(vectors, { dim: 2, size: 1 }),
    'kMeans init': () => kMeansSync(corners(), { dim: 2, size: 1, init: vectors }),
  };
}

/** Every call that takes indices, given these. */
function callsWithIndices(of: ReturnType<typeof everything>, indices: never): Record<string, () => unknown> {
  return {
    'codebook.lookup': () => of.codebook.lookup(indices),
    'dual.lookup': () => of.dual.lookup(indices),
    'residual.decode': () => of.residual.decode(indices),
    'residual.decodeSync': () => of.residual.decodeSync(indices),
    'product.decode': () => of.product.decode(indices),
    'product.search': () => of.product.search(corners(), indices),
    'scales.decode': () => of.scales.decode(indices, { scales: 1 }),
    'finite.decode': () => of.finite.decode(indices),
    'free.decodeSync': () => of.free.decodeSync(indices),
    'spherical.decode': () => of.spherical.decode(indices),
    'ema.accumulate': () => of.ema.accumulate(new Float32Array(4), indices),
  };
}

describe('bad input to the codebook layer', () => {
  const of = everything();

  it('a length that is no multiple of dim', async () => {
    for (const [name, call] of Object.entries(callsWith(of, new Float32Array(7) as never))) {
      const rows =
        name === 'scales.encode'
          ? /\[batch, 2, 2, 2\], a multiple of 8 .*received 7/
          : /rows of [24].*received 7/;
      await refuses(call, rows);
    }
    await refuses(
      () => of.residual.decode([0, 0, 0]),
      /multiple of 2 elements \(one index per stage\).*received 3/,
    );
    await refuses(() => of.scales.decode(new Int32Array(6)), /multiple of 5 tokens.*received 6/);
    const wide = new ProductQuantizer([of.codebook, of.codebook]);
    await refuses(() => wide.decode([0]), /multiple of 2 elements \(one index per group\).*received 1/);
  });

  it('a wrong type', async () => {
    const wrong: [unknown, RegExp][] = [
      [[0, 1, 2, 3, 4, 5, 6, 7], /Float32Array .*received an array of 8/],
      [new Float64Array(8), /Float32Array .*received a Float64Array of 64 bytes/],
      [new ArrayBuffer(32), /Float32Array .*received an object \(ArrayBuffer\)/],
      [null, /Float32Array .*received null/],
      ['vectors', /Float32Array .*received 'vectors' \(a string\)/],
      [7, /Float32Array .*received 7 \(a number\)/],
    ];
    for (const [value, message] of wrong) {
      for (const [name, call] of Object.entries(callsWith(of, value as never))) {
        if (name === 'kMeans init') continue; // its names come first: below
        if (name.startsWith('dual.') && Array.isArray(value)) continue; // an array of parts
        await refuses(call, message);
      }
    }
    await refuses(() => of.dual.nearest([corners()] as never), /2 arrays, one per part/);
    await refuses(
      () => kMeansSync(corners(), { dim: 2, size: 1, init: 'kmeans++' as never }),
      /'k-means\+\+' or 'random' for init.*did you mean 'k-means\+\+'/,
    );
    for (const value of ['0', 3, null, new Uint8Array(2), new Float32Array(2)]) {
      for (const call of Object.values(callsWithIndices(of, value as never)))
        await refuses(call, /for (indices|vectors)/);
    }
    for (const call of Object.values(callsWithIndices(of, [0, 0.5] as never)))
      await refuses(call, /whole number for indices\[1\] but received 0\.5/);
    const out = { indices: new Float32Array(4) } as never;
    await refuses(() => of.codebook.nearest(corners(), { out }), /Int32Array for out\.indices/);
    await refuses(() => of.codebook.lookup([0], new Float32Array(3)), /Float32Array of 2 elements for out/);
    await refuses(() => of.codebook.nearest(corners(), 7 as never), /options of nearest but received 7/);
  });

  it('an unknown option, with the nearest name', async () => {
    const odd = (options: object) => options as never;
    const calls: [() => unknown, RegExp][] = [
      [
        () => new Codebook(corners(), odd({ dim: 2, metrics: 'l2' })),
        /'metrics' for Codebook; did you mean 'metric'/,
      ],
      [() => of.codebook.nearest(corners(), odd({ kk: 2 })), /'kk' for nearest; did you mean 'k'/],
      [
        () => of.codebook.nearest(corners(), odd({ out: { indexes: 1 } })),
        /'indexes' for out; did you mean 'indices'/,
      ],
      [
        () => of.codebook.quantize(corners(), odd({ singal: 1 })),
        /'singal' for quantize; did you mean 'signal'/,
      ],
      [
        () => of.dual.nearest(corners(), odd({ weigths: [1, 1] })),
        /'weigths' for nearest; did you mean 'weights'/,
      ],
      [
        () => new DualCodebook([odd({ vector: 1, dim: 2 }), odd({})]),
        /'vector' for parts\[0\]; did you mean 'vectors'/,
      ],
      [() => of.residual.encode(corners(), odd({ beams: 2 })), /'beams' for encode; did you mean 'beam'/],
      [
        () => of.product.search(corners(), new Int32Array(1), odd({ K: 1 })),
        /'K' for search; did you mean 'k'/,
      ],
      [() => new MultiScaleQuantizer(of.codebook, odd({ scale: [1] })), /'scale' .*did you mean 'scales'/],
      [
        () => of.scales.decode(new Int32Array(5), odd({ scale: 1 })),
        /'scale' for decode; did you mean 'scales'/,
      ],
      [() => new FiniteScalarQuantizer(odd({ level: [3] })), /'level' .*did you mean 'levels'/],
      [() => new LookupFreeQuantizer(odd({ dims: 2 })), /'dims' .*did you mean 'dim'/],
      [() => new EmaCodebook(corners(), odd({ dim: 2, decai: 0.5 })), /'decai' .*did you mean 'decay'/],
      [
        () => of.ema.revive(corners(), odd({ treshold: 1, seed: 0 })),
        /'treshold' .*did you mean 'threshold'/,
      ],
      [
        () => of.batches.update(corners(), odd({ signals: 1 })),
        /'signals' for update; did you mean 'signal'/,
      ],
      [
        () => kMeans(corners(), odd({ dim: 2, size: 1, tolerence: 0 })),
        /'tolerence' .*did you mean 'tolerance'/,
      ],
    ];
    for (const [call, message] of calls) await refuses(call, message);
    await refuses(() => of.codebook.nearest(corners(), odd({ banana: 1 })), /Known options: format, k, /);
  });

  it('something disposed of', async () => {
    const gone = everything();
    const { codebook, dual, residual, product, scales, finite, free, spherical } = gone;
    const own = { codebook, dual, residual, product, scales, finite, free, spherical };
    for (const one of Object.values(own)) {
      one.dispose();
      one[Symbol.dispose]();
    }
    const valid = new Float32Array(8) as never;
    const calls = { ...callsWith(gone, valid), ...callsWithIndices(gone, new Int32Array(2) as never) };
    for (const [name, call] of Object.entries(calls)) {
      if (!(name.split('.')[0] in own)) continue;
      await refuses(call, /was disposed; make a new one/, 'ERR_TOKENFLOW_DISPOSED');
    }
    await refuses(
      () => new MultiScaleQuantizer(codebook, { scales: [1] }),
      /disposed/,
      'ERR_TOKENFLOW_DISPOSED',
    );
    await refuses(() => new ResidualQuantizer([codebook]), /disposed/, 'ERR_TOKENFLOW_DISPOSED');
    await refuses(() => codebook.stats, /disposed/, 'ERR_TOKENFLOW_DISPOSED');
  });

  it('a detached or resized buffer', async () => {
    const detached = corners();
    structuredClone(detached, { transfer: [detached.buffer] });
    const Resizable = ArrayBuffer as unknown as new (
      bytes: number,
      options: object,
    ) => ArrayBuffer & { resize(to: number): void };
    const buffer = new Resizable(32, { maxByteLength: 64 });
    const cut = new Float32Array(buffer, 0, 8);
    buffer.resize(16);
    for (const vectors of [detached, cut]) {
      for (const call of Object.values(callsWith(of, vectors as never)))
        await refuses(call, /live array .*transferred or resized; pass a copy/);
      const out = vectors as Float32Array;
      await refuses(() => of.codebook.lookup([0, 1, 2, 3], out), /live array for out/);
      await refuses(
        () => of.codebook.nearest(corners(), { out: { distances: out } }),
        /live array for out\.distances/,
      );
    }
    const indices = new Int32Array(2);
    structuredClone(indices, { transfer: [indices.buffer] });
    for (const call of Object.values(callsWithIndices(of, indices as never)))
      await refuses(call, /live array/);
    // What was handed out for a result may go while the call is under way.
    const out = { indices: new Int32Array(4) };
    const pending = of.codebook.nearest(corners(), { out });
    structuredClone(out.indices, { transfer: [out.indices.buffer] });
    await refuses(() => pending, /live array for out\.indices/);
  });

  it('an index out of range', async () => {
    for (const wrong of [-1, 99]) {
      for (const call of Object.values(callsWithIndices(of, Int32Array.of(0, wrong) as never)))
        await refuses(call, new RegExp(`0 to \\d.* ${wrong}\\b.*position 1`));
    }
    await refuses(() => of.codebook.lookup([2 ** 31]), /whole number for indices\[0\]/);
    await refuses(() => of.codebook.nearest(corners(), { k: 5 }), /1 to 4 for k but received 5/);
    await refuses(() => of.codebook.nearest(corners(), { k: 65 }), /for k but received 65/);
  });

  it('NaN codes', async () => {
    const codes = Float32Array.of(0, 0, 1, Number.NaN, 2, 2);
    for (const learner of [EmaCodebook, MiniBatchKMeans])
      await refuses(() => new learner(codes, { dim: 2 }), /finite codes but row 1 has NaN/);
    await refuses(() => kMeans(codes, { dim: 2, size: 1 }), /finite vectors but row 1/);
    await refuses(
      () => kMeansSync(corners(), { dim: 2, size: 3, init: codes }),
      /finite codes for init but received .*NaN/,
    );
    await refuses(
      () => new Codebook(codes, { dim: 2, onNonFinite: 'throw' }),
      /finite codes but 1 of 3 have NaN.*mend them, or pass onNonFinite: 'skip'/,
    );
    // The default is the rule of lookups: such a code is counted and never chosen.
    const codebook = new Codebook(codes, { dim: 2 });
    assert.equal(codebook.nonFinite, 1);
    const { indices } = codebook.nearestSync(Float32Array.of(1, 1), { k: 3 });
    assert.deepEqual(indices, Int32Array.of(0, 2, -1));
  });

  it("leaves the caller's arrays as they were", async () => {
    const bad = Float32Array.of(0, 1, 2, Number.NaN, 4, 5, 6, 7);
    const before = Uint8Array.from(new Uint8Array(bad.buffer));
    const indices = Int32Array.of(0, 99);
    const out = { indices: new Int32Array(4).fill(7), distances: new Float32Array(4).fill(7) };
    const strict = new Codebook(corners(), { dim: 2, onNonFinite: 'throw' });
    await refuses(() => strict.nearest(bad, { out }), /row 1/);
    await refuses(() => of.codebook.nearest(new Float32Array(7), { out }), /rows of 2/);
    await assert.rejects(of.codebook.nearest(corners(), { out, signal: AbortSignal.abort() }));
    const row = new Float32Array(4).fill(7);
    await refuses(() => of.codebook.lookup(indices, row), /99 at position 1/);
    const counts = Float64Array.of(1, 1, 1, -1);
    const sums = new Float64Array(8).fill(3);
    await refuses(() => of.ema.apply({ counts, sums }), /counts\[3\]/);
    for (const call of Object.values(callsWith(of, bad as never)))
      await Promise.resolve()
        .then(call)
        .catch(() => {});
    for (const call of Object.values(callsWithIndices(of, indices as never)))
      await Promise.resolve()
        .then(call)
        .catch(() => {});
    assert.deepEqual(new Uint8Array(bad.buffer), before);
    assert.deepEqual(indices, Int32Array.of(0, 99));
    assert.deepEqual(out, { indices: new Int32Array(4).fill(7), distances: new Float32Array(4).fill(7) });
    assert.deepEqual(row, new Float32Array(4).fill(7));
    assert.deepEqual([counts, sums], [Float64Array.of(1, 1, 1, -1), new Float64Array(8).fill(3)]);
  });
});

/**
 * Group norms that their neighbours compute on a card (native/cuda/norm_fusion.h), in whole programs over the emulated
 * machine: against float64, against the separate pass, in any batch, and where a graph forbids it.
 */
import assert from 'node:assert/strict';
import type { TokenFlowError } from '../../lib/errors.js';
import { GraphBuilder } from '../../lib/graph/builder.js';
import type { Precision } from '../../lib/graph/ops.js';
import { native } from '../../lib/native.js';
import { runReference } from '../program-reference.js';
import { compile, randomArray, randomWeights, relativeError } from '../program-support.js';

const norm = { groups: 8, epsilon: 1e-6, swish: true };
const WAYS = ['fused', 'moments', 'separate'] as const;

/** What a program does in each way. TOKENFLOW_CUDA_GROUP_NORM is read when a program is made. */
function inEachWay<T>(make: (way: string) => T): Record<(typeof WAYS)[number], T> {
  try {
    return Object.fromEntries(
      WAYS.map((way) => {
        process.env.TOKENFLOW_CUDA_GROUP_NORM = way;
        return [way, make(way)];
      }),
    ) as Record<(typeof WAYS)[number], T>;
  } finally {
    delete process.env.TOKENFLOW_CUDA_GROUP_NORM;
  }
}

const bits = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/** Two residual blocks, one with a wider result, an attention block, a last norm before three columns. */
function decoder(batch: number, [height, width]: [number, number]) {
  const graph = new GraphBuilder(batch);
  const conv = { kernel: 3, padding: 1 } as const;
  let x = graph.conv2d(graph.input('x', [height, width, 8]), 'conv_in', { ...conv, out: 32 });
  for (const [block, out] of [
    ['a', 32],
    ['b', 64],
  ] as const) {
    const first = graph.conv2d(graph.groupNorm(x, `norm1_${block}`, norm), `conv1_${block}`, {
      ...conv,
      out,
    });
    const skip =
      out === x.shape.at(-1) ? x : graph.conv2d(x, `skip_${block}`, { out, kernel: 1, padding: 0 });
    x = graph.conv2d(graph.groupNorm(first, `norm2_${block}`, norm), `conv2_${block}`, {
      ...conv,
      out,
      residual: skip,
    });
  }
  const tokens = height * width;
  const normed = graph.reshape(graph.groupNorm(x, 'norm_at', { ...norm, swish: false }), [tokens, 64]);
  const attended = graph.attention(
    graph.linear(normed, { weight: ['q', 'k', 'v'], bias: ['qb', 'kb', 'vb'], out: 192 }),
    1,
  );
  const projected = graph.linear(attended, {
    weight: 'proj',
    out: 64,
    residual: graph.reshape(x, [tokens, 64]),
  });
  const map = graph.reshape(projected, [height, width, 64]);
  const last = graph.groupNorm(map, 'norm_out', norm);
  graph.output('y', graph.conv2d(last, 'conv_out', { ...conv, out: 3 }));
  return graph.build();
}

describe('group norms on a card, computed by their neighbours', function () {
  this.timeout(120_000);
  before(function () {
    if (native().cudaStatus().devices[0]?.name === 'Emulated card') return;
    console.log('    skipped: no emulated card here; npm run test:simt runs these');
    this.skip();
  });

  for (const size of [
    [16, 16],
    [8, 30],
    [6, 7],
  ] as [number, number][]) {
    for (const [precision, bound] of [
      ['f32', 1e-5],
      ['bf16', 3e-2],
    ] as [Precision, number][]) {
      it(`${size.join(' x ')} in ${precision}: float64's result in every way, and the same bits in any batch`, () => {
        const built = decoder(1, size);
        const weights = randomWeights(built);
        const count = size[0] * size[1] * 8;
        const images = [1, 2, 3].map((seed) => randomArray(count, seed).map((v) => v + 2));
        const expected = runReference(built.graph, weights, { x: images[1] })[built.graph.outputs.y];
        const found = inEachWay(() => {
          const program = compile(built, weights, precision);
          const alone = program.runSync({ x: images[1] }).y as Float32Array;
          const triple = compile(decoder(3, size), weights, precision);
          const together = triple.runSync({ x: Float32Array.from(images.flatMap((a) => [...a])) })
            .y as Float32Array;
          assert.deepEqual(together.slice(alone.length, 2 * alone.length), alone);
          return { y: alone, bytes: program.memory().activations };
        });
        for (const way of WAYS) {
          const error = relativeError(found[way].y, expected);
          assert.ok(error < bound, `${way}: relative error ${error}`);
        }
        // Moments differ from the separate pass by the rounding of fp32 sums: far less than bf16 rounds.
        assert.ok(relativeError(found.moments.y, found.separate.y) < bound / 2);
        const patchesFit = precision === 'bf16' && size[1] !== 7;
        // The chains of a halo convolution have another order, so their bits tell that it ran.
        assert.notEqual(Buffer.compare(bits(found.fused.y), bits(found.moments.y)) === 0, patchesFit);
        assert.ok(found.fused.bytes <= found.moments.bytes, 'the normalised map has no memory');
      });
    }
  }

  it('only where one convolution reads the norm, whatever else reads its operand', () => {
    const graph = new GraphBuilder(2);
    const x = graph.conv2d(graph.input('x', [16, 16, 8]), 'c0', { out: 32, kernel: 3, padding: 1 });
    const conv = { out: 32, kernel: 3, padding: 1 } as const;
    const twice = graph.groupNorm(x, 'norm1', norm);
    const a = graph.conv2d(twice, 'c1', { ...conv, residual: twice });
    const b = graph.conv2d(graph.groupNorm(a, 'norm2', norm), 'c2', { ...conv, residual: a });
    const shown = graph.groupNorm(b, 'norm3', norm);
    const c = graph.conv2d(shown, 'c3', conv);
    const quads = graph.groupNorm(c, 'norm4', { ...norm, groups: 16 }); // two channels a group
    const d = graph.conv2d(quads, 'c4', conv);
    const strided = graph.conv2d(graph.groupNorm(d, 'norm5', norm), 'c5', {
      out: 32,
      kernel: 3,
      stride: 2,
      padding: [0, 0, 1, 1],
    });
    for (const [name, value] of Object.entries({ a, b, c, d, shown, strided })) graph.output(name, value);
    const built = graph.build();
    const weights = randomWeights(built);
    const input = randomArray(2 * 16 * 16 * 8, 4);
    const expected = runReference(built.graph, weights, { x: input });
    for (const [precision, bound] of [
      ['f32', 2e-5],
      ['bf16', 4e-2],
    ] as [Precision, number][]) {
      inEachWay((way) => {
        const found = compile(built, weights, precision).runSync({ x: input });
        for (const [name, id] of Object.entries(built.graph.outputs)) {
          const error = relativeError(found[name], expected[id]);
          assert.ok(error < bound, `${name}, ${precision}, ${way}: relative error ${error}`);
        }
      });
    }
  });

  it('refuses a way it does not know', () => {
    process.env.TOKENFLOW_CUDA_GROUP_NORM = 'sometimes';
    try {
      const built = decoder(1, [6, 7]);
      assert.throws(
        () => compile(built, randomWeights(built)),
        (error: TokenFlowError) =>
          error.code === 'ERR_TOKENFLOW_INVALID_ARGUMENT' && /fused, moments or separate/.test(error.message),
      );
    } finally {
      delete process.env.TOKENFLOW_CUDA_GROUP_NORM;
    }
  });
});

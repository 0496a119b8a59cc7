/** Every op, alone and fused, against naive loops in float64 at the instruction-set level in force. */
import assert from 'node:assert/strict';
import { supportsPrecision } from '../lib/backends.js';
import { GraphBuilder, type Value } from '../lib/graph/builder.js';
import type { Activation, Precision } from '../lib/graph/ops.js';
import { native } from '../lib/native.js';
import { ACTIVATIONS, erf, runReference } from './program-reference.js';
import { compile, randomArray, randomWeights, relativeError, testDevice } from './program-support.js';

/** Builds a graph over one float input `x` and compares every output of both implementations. */
function check(
  shape: readonly number[],
  build: (graph: GraphBuilder, x: Value) => Value | Record<string, Value>,
  { bound = 2e-6, batch = 2, precision = 'f32' as Precision, size = 1, offset = 0 } = {},
): void {
  const graph = new GraphBuilder(batch);
  const x = graph.input('x', shape);
  const results = build(graph, x);
  const outputs = 'id' in results ? { y: results as Value } : results;
  for (const [name, value] of Object.entries(outputs)) graph.output(name, value);
  const built = graph.build();
  const weights = randomWeights(built);
  const input = randomArray(
    x.shape.reduce((a, b) => a * b, 1),
    7,
    size,
  ).map((v) => v + offset);
  const actual = compile(built, weights, precision).runSync({ x: input });
  const expected = runReference(built.graph, weights, { x: input });
  for (const [name, value] of Object.entries(outputs)) {
    const error = relativeError(actual[name], expected[value.id]);
    assert.ok(error <= bound, `${name}: relative error ${error} over ${bound}`);
  }
}

describe(`graph ops at level ${native().simdLevel()} on ${testDevice()}`, () => {
  it('the reference knows erf', () => {
    for (const [x, y] of [
      [0.1, 0.112462916],
      [0.5, 0.5204998778],
      [1, 0.8427007929],
      [2.4, 0.9993114861],
      [2.6, 0.9997639656],
      [-3, -0.9999779095],
    ]) {
      assert.ok(Math.abs(erf(x) - y) < 1e-9, `erf(${x})`);
    }
  });

  describe('linear', () => {
    for (const [cin, cout] of [
      [1, 1],
      [3, 40],
      [31, 33],
      [64, 16],
      [130, 97],
      [768, 100],
    ]) {
      it(`${cin} to ${cout}`, () =>
        check([13, cin], (g, x) => g.linear(x, { weight: 'w', bias: 'b', out: cout })));
    }
    for (const activation of Object.keys(ACTIVATIONS) as Activation[]) {
      it(`with ${activation} and a residual`, () =>
        check([29, 48], (g, x) => g.linear(x, { weight: 'w', bias: 'b', out: 48, activation, residual: x }), {
          size: 3,
        }));
    }
    it('with weights in parts, and zeros for one of the biases', () =>
      check([10, 24], (g, x) => g.linear(x, { weight: ['q', 'k', 'v'], bias: ['qb', null, 'vb'], out: 72 })));
    it('over many rows', () => check([701, 40], (g, x) => g.linear(x, { weight: 'w', out: 50 })));
  });

  describe('conv2d', () => {
    const sizes = [
      { cin: 3, out: 20, kernel: 3, padding: 1 },
      { cin: 3, out: 33, kernel: 5, stride: 5 },
      { cin: 5, out: 7, kernel: 3, stride: 2, padding: [0, 0, 1, 1] as const },
      { cin: 4, out: 6, kernel: 3, padding: 1, upsample: 2 as const },
      { cin: 17, out: 35, kernel: 3, padding: 1 },
      { cin: 24, out: 40, kernel: 3, stride: 2, padding: [0, 0, 1, 1] as const },
      { cin: 24, out: 3, kernel: 3, padding: 1 },
      { cin: 18, out: 20, kernel: 3, padding: 1, upsample: 2 as const },
      { cin: 20, out: 12, kernel: 2, stride: 3, padding: [2, 1, 0, 3] as const },
      { cin: 32, out: 16, kernel: 3, padding: 1 },
      { cin: 16, out: 48, kernel: 3, padding: 1, upsample: 2 as const },
    ];
    for (const { cin, ...options } of sizes) {
      it(`${cin} channels, ${JSON.stringify(options)}`, () => {
        check([9, 11, cin], (g, x) => g.conv2d(x, 'c', options), { bound: 4e-6 });
      });
    }
    it('without a bias, with activation and residual', () => {
      check([7, 6, 20], (g, x) =>
        g.conv2d(x, 'c', { out: 20, kernel: 3, padding: 1, bias: false, activation: 'swish', residual: x }),
      );
      check(
        [7, 6, 32],
        (g, x) => g.conv2d(x, 'c', { out: 32, kernel: 3, padding: 1, bias: false, residual: x }),
        { bound: 4e-6 },
      );
    });
    it('of a map smaller than its window', () => {
      check([1, 1, 32], (g, x) => g.conv2d(x, 'c', { out: 32, kernel: 3, padding: 1 }), { bound: 4e-6 });
      check([2, 1, 3], (g, x) => g.conv2d(x, 'c', { out: 4, kernel: 3, padding: 1 }));
    });
  });

  describe('norms', () => {
    for (const [channels, groups] of [
      [32, 32],
      [32, 8],
      [35, 5],
      [64, 1],
      [7, 7],
    ]) {
      it(`group norm of ${channels} channels in ${groups} groups`, () => {
        for (const swish of [false, true]) {
          check([13, 11, channels], (g, x) => g.groupNorm(x, 'norm', { groups, epsilon: 1e-6, swish }));
        }
      });
    }
    it('group norm far from zero', () =>
      check([19, 17, 32], (g, x) => g.groupNorm(x, 'norm', { groups: 8, epsilon: 1e-6, swish: false }), {
        offset: 100,
        bound: 2e-5, // the input itself has a step of 8e-6
      }));
    for (const channels of [1, 5, 16, 50, 768]) {
      it(`layer norm of ${channels}`, () => check([6, channels], (g, x) => g.layerNorm(x, 'norm', 1e-5)));
    }
  });

  describe('attention', () => {
    for (const [length, heads, width] of [
      [1, 1, 8],
      [17, 2, 16],
      [50, 3, 24],
      [130, 1, 72],
      [65, 1, 96],
    ]) {
      it(`${length} tokens, ${heads} heads of ${width}`, () =>
        check([length, 3 * heads * width], (g, x) => g.attention(x, heads), { size: 1.5 }));
    }
    it('with one score far above the others', () =>
      check([20, 48], (g, x) => g.attention(x, 2), { size: 12, bound: 2e-5 }));
  });

  describe('movements', () => {
    it('tokens and channels', () => {
      check([6, 10], (g, x) => g.prependToken(x, 'token', [1, 1, 10]), { bound: 0 });
      check([6, 10], (g, x) => g.addTable(x, 'table', [1, 6, 10]), { bound: 1e-7 });
      check([6, 10], (g, x) => g.sliceTokens(x, 2, 3), { bound: 0 });
      check([6, 10], (g, x) => g.sliceChannels(x, 3, 5), { bound: 0 });
      check([6, 10], (g, x) => g.concatChannels([x, g.sliceChannels(x, 1, 2), x]), { bound: 0 });
    });
    it('reshape, also of an input and twice into an output', () => {
      check([6, 10], (g, x) => ({ y: g.reshape(x, [3, 20]), z: g.reshape(g.reshape(x, [60]), [4, 15]) }), {
        bound: 0,
      });
      check([6, 10], (_g, x) => ({ y: x, z: x }), { bound: 0 });
    });
    for (const [from, to] of [
      [5, 9],
      [9, 5],
      [1, 4],
      [12, 13],
      [6, 6],
    ]) {
      it(`bicubic ${from} to ${to}`, () => check([from, from, 3], (g, x) => g.resizeBicubic(x, to)));
    }
    it('scale_input', () => check([5, 4, 3], (g, x) => g.scaleInput(x, 'norm')));
    it('pixels there and back, every byte', () => {
      const graph = new GraphBuilder(1);
      const x = graph.input('x', [16, 16, 1], 'u8');
      const y = graph.pixelsToFloat(x);
      graph.output('float', y);
      graph.output('bytes', graph.floatToPixels(y));
      const input = Uint8Array.from({ length: 256 }, (_, i) => i);
      const { float, bytes } = compile(graph.build(), new Map()).runSync({ x: input });
      input.forEach((v, i) => {
        assert.equal(float[i], Math.fround(Math.fround(Math.fround(Math.fround(v) / 255) - 0.5) / 0.5));
        assert.equal(bytes[i], Math.trunc(Math.fround(Math.fround(127.5 * float[i]) + 128)));
      });
    });
    it('float_to_pixels clamps, and makes 0 of what is not a number', () => {
      const graph = new GraphBuilder(1);
      graph.output('y', graph.floatToPixels(graph.input('x', [1, 1, 5])));
      const { y } = compile(graph.build(), new Map()).runSync({
        x: Float32Array.of(-2, 1, 5, NaN, -Infinity),
      });
      assert.deepEqual([...y], [0, 255, 255, 0, 0]);
    });
  });

  describe('the quantiser', () => {
    const scales = [1, 2, 3, 5];
    const codebooks = new Map([
      ['semantic', [300, 6]],
      ['pixel', [300, 4]],
    ]);
    it('encodes', () =>
      check(
        [5, 5, 10],
        (g, x) => {
          const { tokens, sum } = g.multiscaleEncode(x, codebooks, scales);
          return { tokens, sum };
        },
        { bound: 1e-6 },
      ));
    it('decodes all scales and a prefix', () => {
      for (const used of [scales, scales.slice(0, 2)]) {
        const graph = new GraphBuilder(2);
        const count = used.reduce((sum, s) => sum + s * s, 0);
        const tokens = graph.input('tokens', [count], 'i32');
        const y = graph.multiscaleDecode(tokens, codebooks, used, 5);
        graph.output('y', y);
        const built = graph.build();
        const weights = randomWeights(built);
        const input = Int32Array.from({ length: 2 * count }, (_, i) => (i * 37) % 300);
        const { y: actual } = compile(built, weights).runSync({ tokens: input });
        const expected = runReference(built.graph, weights, { tokens: input })[y.id];
        assert.ok(relativeError(actual, expected) < 1e-6);
      }
    });
    it('refuses a token out of range', () => {
      const graph = new GraphBuilder(1);
      graph.output('y', graph.multiscaleDecode(graph.input('tokens', [1], 'i32'), codebooks, [1], 5));
      const built = graph.build();
      const program = compile(built, randomWeights(built));
      for (const token of [-1, 300, 2147483647]) {
        assert.throws(() => program.runSync({ tokens: Int32Array.of(token) }), {
          code: 'ERR_TOKENFLOW_INVALID_ARGUMENT',
        });
      }
    });
  });

  describe('fusions', () => {
    const norm = { groups: 8, epsilon: 1e-6, swish: true };
    it('a residual block: norms into convolutions, sums out of them, the residual in place', () =>
      check(
        [13, 10, 32],
        (g, x) => {
          const first = g.conv2d(g.groupNorm(x, 'norm1', norm), 'conv1', { out: 48, kernel: 3, padding: 1 });
          const skip = g.linear(x, { weight: 'skip', bias: 'skip_bias', out: 48 });
          const y = g.conv2d(g.groupNorm(first, 'norm2', norm), 'conv2', {
            out: 48,
            kernel: 3,
            padding: 1,
            residual: skip,
          });
          const z = g.conv2d(g.groupNorm(y, 'norm3', norm), 'conv3', {
            out: 48,
            kernel: 3,
            padding: 1,
            residual: y,
          });
          return g.conv2d(z, 'up', { out: 32, kernel: 3, padding: 1, upsample: 2 });
        },
        { bound: 6e-6 },
      ));
    it('not where the normalised value is read twice, or is an output', () =>
      check(
        [8, 9, 32],
        (g, x) => {
          const normed = g.groupNorm(x, 'norm', norm);
          const conv = g.conv2d(normed, 'conv', { out: 32, kernel: 3, padding: 1, residual: normed });
          const other = g.groupNorm(conv, 'norm2', norm);
          return { y: g.conv2d(other, 'conv2', { out: 16, kernel: 3, padding: 1 }), other };
        },
        { bound: 6e-6 },
      ));
    it('sums of a convolution reach a norm behind a reshape, and norms of other groups do without', () =>
      check(
        [6, 6, 16],
        (g, x) => {
          const conv = g.conv2d(x, 'conv', { out: 64, kernel: 3, padding: 1 });
          const a = g.groupNorm(g.reshape(conv, [36, 64]), 'norm1', { ...norm, swish: false });
          const b = g.groupNorm(conv, 'norm2', { ...norm, groups: 4 });
          const c = g.groupNorm(g.reshape(conv, [72, 32]), 'norm3', norm);
          return { a, b, c };
        },
        { bound: 6e-6 },
      ));
    it('an attention block, its norm before a projection in parts', () =>
      check(
        [5, 7, 32],
        (g, x) => {
          const normed = g.groupNorm(x, 'norm', { ...norm, swish: false });
          const qkv = g.linear(g.reshape(normed, [35, 32]), {
            weight: ['q', 'k', 'v'],
            bias: ['qb', 'kb', 'vb'],
            out: 96,
          });
          const out = g.linear(g.attention(qkv, 1), {
            weight: 'proj',
            out: 32,
            residual: g.reshape(x, [35, 32]),
          });
          return g.reshape(out, [5, 7, 32]);
        },
        { bound: 6e-6 },
      ));
  });

  describe('bf16', () => {
    const precision = 'bf16';
    before(function () {
      if (!supportsPrecision(testDevice(), 'bf16')) {
        console.log('      skipped: no bf16 on this device at this level');
        this.skip();
      }
    });
    it('stays within its rounding of float32', () => {
      const bound = 6e-3; // products of two numbers rounded to 8 bits
      for (const width of [31, 64, 200]) {
        check(
          [33, width],
          (g, x) =>
            g.linear(x, {
              weight: 'w',
              bias: 'b',
              out: 70,
              activation: 'gelu',
              residual: x.shape[2] === 70 ? x : undefined,
            }),
          { bound, precision },
        );
        check([7, 9, width], (g, x) => g.conv2d(x, 'c', { out: 24, kernel: 3, stride: 2, padding: 1 }), {
          bound,
          precision,
        });
      }
    });
  });
});

// The resizes of the official graph, one in/out pair each.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { GraphBuilder } from '../lib/graph/builder.js';
import { native, packageRoot } from '../lib/native.js';
import { channelsFirst, channelsLast } from '../lib/tokenizer/layout.js';
import { resizePositionTable } from '../lib/tokenizer/position-resize.js';
import { testDevice } from './program-support.js';
import { floats, relativeError } from './support/arrays.js';

const folder = path.join(packageRoot(), 'test', 'golden', 'resize');
const TOLERANCE = 1e-5;

/** The pairs whose name begins with `kind`, channels last. */
function pairs(kind: string) {
  return readdirSync(folder)
    .filter((name) => name.startsWith(`${kind}_`) && name.endsWith('_in.npy'))
    .map((name) => {
      const [from, to] = name.split('_').slice(1, 3).map(Number);
      const read = (file: string) => floats(path.join(folder, file));
      const channels = read(name).shape[1];
      const last = (file: string) => channelsLast(read(file).data, 1, channels);
      return { from, to, channels, input: last(name), output: last(name.replace('_in', '_out')) };
    });
}

describe('golden resizes', function () {
  this.timeout(60_000);
  it('bicubic: the op', () => {
    const found = pairs('bicubic');
    assert.equal(found.length, 8);
    for (const { from, to, channels, input, output } of found) {
      const graph = new GraphBuilder(1);
      graph.output('y', graph.resizeBicubic(graph.input('x', [from, from, channels]), to));
      const store = native().createWeightStore(testDevice());
      const { y } = native().createProgram(graph.build().graph, store, 'f32').runSync({ x: input });
      const error = relativeError(y, output);
      assert.ok(error <= TOLERANCE, `${from} to ${to}: ${error}`);
    }
  });

  it('area: the pooling of the quantiser', () => {
    const found = pairs('area');
    assert.equal(found.length, 6);
    for (const { from, to, channels, input, output } of found) {
      const error = relativeError(native().areaDown(input, { batch: 1, from, to, channels }), output);
      assert.ok(error <= TOLERANCE, `${from} to ${to}: ${error}`);
    }
  });

  // In a program the pooled map never leaves the quantiser; what it is shows in the code that is nearest to it. Of each
  // position's true vector the codebook holds the vector itself and copies turned by 0.005, which must all lose.
  it('area: the op', () => {
    for (const { from, to, channels, input, output } of pairs('area')) {
      const codes: number[][] = [];
      const own: number[] = []; // the row of each position's true vector
      for (let n = 0; n < to * to; n++) {
        const vector = Array.from(output.subarray(n * channels, (n + 1) * channels));
        const length = Math.hypot(...vector);
        const unit = vector.map((v) => v / length);
        own.push(codes.push(unit) - 1);
        for (let c = 0; c < channels; c++) {
          const across = unit.map((v, i) => (i === c ? 1 : 0) - unit[c] * v);
          const size = Math.hypot(...across);
          if (size < 0.1) continue; // the vector lies along this axis
          for (const turn of [-0.005, 0.005]) codes.push(unit.map((v, i) => v + (turn * across[i]) / size));
        }
      }
      const graph = new GraphBuilder(1);
      const x = graph.input('x', [from, from, channels]);
      const books = new Map([['codes', [codes.length, channels]]]);
      graph.output('tokens', graph.multiscaleEncode(x, books, [to, from]).tokens);
      const program = native().createProgram(
        graph.build().graph,
        native().createWeightStore(testDevice()),
        'f32',
      );
      program.setWeight('codes', Float32Array.from(codes.flat()));
      const { tokens } = program.runSync({ x: input });
      assert.deepEqual(Array.from(tokens.subarray(0, to * to)), own, `${from} to ${to}`);
    }
  });

  it('bicubic with a scale factor: the position tables', () => {
    const [{ from, to, channels, input, output }, ...rest] = pairs('position');
    assert.equal(rest.length, 0);
    const table = resizePositionTable(input, { leading: 0, from, to, channels });
    assert.ok(relativeError(table, output) <= TOLERANCE);
    const withToken = resizePositionTable(Float32Array.from([1, 2, 3, 4, ...input]), {
      leading: 1,
      from,
      to,
      channels,
    });
    assert.deepEqual([...withToken], [1, 2, 3, 4, ...table]);
    assert.deepEqual(channelsFirst(channelsLast(input, 1, from * from), 1, from * from), input);
  });
});

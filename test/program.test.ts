/** Native programs as a whole: what is refused, what never changes a result, and what happens when a run is cut short. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import os from 'node:os';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { supportsPrecision } from '../lib/backends.js';
import { TokenFlowError } from '../lib/errors.js';
import { GraphBuilder, type Value } from '../lib/graph/builder.js';
import type { Graph } from '../lib/graph/ops.js';
import { native, packageRoot } from '../lib/native.js';
import { runReference } from './program-reference.js';
import { compile, randomArray, randomWeights, relativeError, testDevice } from './program-support.js';

// biome-ignore lint/suspicious/noExplicitAny: these graphs are to be wrong
type Spoilt = any;

const norm = { groups: 8, epsilon: 1e-6, swish: true };

/** A little of everything that the models are made of. */
function network(batch: number, side = 20) {
  const graph = new GraphBuilder(batch);
  const x = graph.input('x', [side, side, 3]);
  const features = graph.conv2d(x, 'conv_in', { out: 32, kernel: 3, padding: 1 });
  const block = graph.conv2d(graph.groupNorm(features, 'norm1', norm), 'conv1', {
    out: 32,
    kernel: 3,
    padding: 1,
    residual: features,
  });
  const down = graph.conv2d(block, 'down', { out: 64, kernel: 3, stride: 2, padding: [0, 0, 1, 1] });
  const tokens = graph.reshape(down, [(side / 2) ** 2, 64]);
  const qkv = graph.linear(graph.layerNorm(tokens, 'norm2', 1e-5), {
    weight: 'qkv',
    bias: 'qkv_bias',
    out: 192,
  });
  const attended = graph.linear(graph.attention(qkv, 4), { weight: 'proj', out: 64, residual: tokens });
  const mlp = graph.linear(
    graph.linear(attended, { weight: 'fc1', bias: 'fc1_bias', out: 128, activation: 'quick_gelu' }),
    { weight: 'fc2', out: 64, residual: attended },
  );
  const map = graph.reshape(mlp, [side / 2, side / 2, 64]);
  const up = graph.conv2d(graph.groupNorm(map, 'norm3', norm), 'up', { out: 16, kernel: 3, padding: 1 });
  graph.output('y', graph.conv2d(up, 'conv_out', { out: 3, kernel: 3, padding: 1, upsample: 2 }));
  const { tokens: codes, sum } = graph.multiscaleEncode(
    graph.resizeBicubic(graph.sliceChannels(map, 0, 10), 5),
    new Map([
      ['semantic', [500, 6]],
      ['pixel', [500, 4]],
    ]),
    [1, 2, 5],
  );
  graph.output('codes', codes);
  graph.output('sum', sum);
  return graph.build();
}

const one = network(1);
const weights = randomWeights(one);
const image = (seed: number, side = 20) => randomArray(side * side * 3, seed);

function join(arrays: Float32Array[]): Float32Array {
  return Float32Array.from(arrays.flatMap((a) => [...a]));
}

describe('native programs', () => {
  describe('never change a result', () => {
    for (const precision of ['f32', 'bf16'] as const) {
      it(`with the batch or the threads (${precision})`, function () {
        if (precision === 'bf16' && !supportsPrecision(testDevice(), 'bf16')) {
          console.log('      skipped: no bf16 on this device at this level');
          return this.skip();
        }
        const images = [image(1), image(2), image(3)];
        const single = compile(one, weights, precision);
        const triple = compile(network(3), weights, precision);
        const threads = native().threads();
        try {
          native().setThreads(1);
          const expected = images.map((x) => single.runSync({ x }));
          for (const count of [1, 2, 3, 7]) {
            native().setThreads(count);
            const alone = single.runSync({ x: images[1] });
            const together = triple.runSync({ x: join(images) });
            for (const name of ['y', 'codes', 'sum']) {
              assert.deepEqual(alone[name], expected[1][name], `${name} with ${count} threads`);
              assert.deepEqual(
                [...together[name]],
                expected.flatMap((result) => [...result[name]]),
                `${name} in a batch of 3 with ${count} threads`,
              );
            }
          }
        } finally {
          native().setThreads(threads);
        }
      });
    }

    it('with the lanes', async function () {
      if (testDevice() !== 'cpu') {
        console.log('      skipped: lanes are of the CPU');
        return this.skip();
      }
      const images = [image(1), image(2), image(3), image(4)];
      const expected = images.map((x) => compile(one, weights).runSync({ x }));
      const threads = native().threads();
      try {
        for (const [lanes, batch] of [
          [2, 1],
          [4, 1],
          [2, 2],
        ]) {
          const store = native().createWeightStore('cpu');
          const program = native().createProgram(network(batch).graph, store, 'f32', lanes);
          for (const { name } of program.missingWeights()) program.setWeight(name, weights.get(name)!);
          const given = images.slice(0, lanes * batch);
          for (const count of [1, 2, 4]) {
            native().setThreads(count);
            const results = [
              program.runSync({ x: join(given) }),
              await program.run({ x: join(given) }).promise,
            ];
            for (const [result, name] of results.flatMap((r) =>
              ['y', 'codes', 'sum'].map((n) => [r, n] as const),
            )) {
              const wanted = expected.slice(0, given.length).flatMap((one) => [...one[name]]);
              assert.deepEqual([...result[name]], wanted, `${name}: ${lanes} lanes of ${batch}`);
            }
          }
          const whole = native().createProgram(network(batch).graph, store, 'f32').memory();
          assert.equal(program.memory().activations, lanes * whole.activations);
          assert.throws(() => program.runSync({ x: images[0] }), { code: 'ERR_TOKENFLOW_INVALID_ARGUMENT' });
          const spoilt = join(given).fill(Number.NaN);
          assert.throws(() => program.runSync({ x: spoilt }), { code: 'ERR_TOKENFLOW_INVALID_ARGUMENT' });
          assert.ok(program.profile().some(({ milliseconds }) => milliseconds > 0));
        }
      } finally {
        native().setThreads(threads);
      }
    });

    it('with what ran before in the same memory', () => {
      const program = compile(one, weights);
      const first = program.runSync({ x: image(1) });
      program.runSync({ x: image(2).map((v) => v * 1e6) });
      assert.deepEqual(program.runSync({ x: image(1) }), first);
    });

    it('when inputs are changed or detached while a run is queued', async () => {
      const program = compile(one, weights);
      const expected = program.runSync({ x: image(1) });
      const x = image(1);
      const { promise } = program.run({ x });
      x.fill(Number.NaN);
      structuredClone(x.buffer, { transfer: [x.buffer as ArrayBuffer] });
      assert.deepEqual(await promise, expected);
    });

    it('however values share memory: random graphs against the reference', () => {
      fc.assert(
        fc.property(
          fc.array(fc.record({ kind: fc.nat(7), from: fc.nat(), other: fc.nat(), output: fc.boolean() }), {
            minLength: 1,
            maxLength: 25,
          }),
          (plan) => {
            const graph = new GraphBuilder(2);
            const values: Value[] = [graph.input('x', [6, 16])];
            let index = 0;
            for (const { kind, from, other, output } of plan) {
              const x = values[from % values.length];
              const residual = values[other % values.length];
              const name = `w${index++}`;
              const made = [
                () => graph.linear(x, { weight: name, out: 16, residual }),
                () => graph.linear(x, { weight: name, out: 16, activation: 'tanh' }),
                () => graph.addTable(x, name),
                () => graph.layerNorm(x, `norm${name}`, 1e-5),
                () => graph.reshape(graph.reshape(x, [3, 32]), [6, 16]),
                () => graph.sliceChannels(graph.concatChannels([x, residual]), 8, 16),
                () => graph.groupNorm(x, `norm${name}`, { groups: 4, epsilon: 1e-6, swish: true }),
                () => graph.sliceTokens(graph.prependToken(x, name, [16]), 0, 6),
              ][kind]();
              values.push(made);
              if (output) graph.output(name, made);
            }
            graph.output('last', values[values.length - 1]);
            const built = graph.build();
            const own = randomWeights(built);
            const x = randomArray(2 * 6 * 16, 11);
            const actual = compile(built, own).runSync({ x });
            const expected = runReference(built.graph, own, { x });
            for (const [name, id] of Object.entries(built.graph.outputs)) {
              assert.ok(relativeError(actual[name], expected[id]) < 1e-4, name);
            }
          },
        ),
        { numRuns: 150, seed: 5 },
      );
    });
  });

  describe('refuse', () => {
    const invalid = { code: 'ERR_TOKENFLOW_INVALID_ARGUMENT' };
    const store = () => native().createWeightStore(testDevice());
    const create = (graph: unknown) => native().createProgram(graph as Graph, store(), 'f32');
    const copy = () => structuredClone(one.graph) as unknown as Spoilt;

    const faults: Record<string, [(graph: Spoilt) => void, RegExp]> = {
      'no values': [(g) => delete g.values, /an array for graph.values/],
      'an unknown op': [(g) => (g.ops[3].op = 'conv3d'), /one of pixels_to_float.*graph\.ops\[3\]\.op/],
      'a value that is not there': [
        (g) => (g.ops[0].x = 9999),
        /ops\[0\] \(conv2d\): expected the number of a value for x/,
      ],
      'a negative value': [(g) => (g.ops[0].y = -1), /graph\.ops\[0\]\.y/],
      'a value before it is made': [
        (g) => (g.ops[0].x = g.ops[5].y),
        /an input or the result of an earlier op/,
      ],
      'a value made twice': [(g) => (g.ops[2].y = g.ops[1].y), /a value of its own for y|expected/],
      'a wrong shape': [(g) => (g.values[g.ops[0].y].shape[3] = 31), /expected f32 \[1, 20, 20, 3[12]\]|for/],
      'a wrong type': [(g) => (g.values[g.ops[0].y].dtype = 'u8'), /expected f32/],
      'a huge shape': [
        (g) => (g.values[g.ops[0].y].shape = [1, 2 ** 31, 2 ** 31, 8]),
        /at most 2\^36 elements/,
      ],
      'an extent of 0': [(g) => (g.values[0].shape[1] = 0), /extents over 0/],
      'a fraction': [(g) => (g.values[0].shape[1] = 1.5), /a whole number/],
      'not a number': [(g) => (g.ops[0].stride = Number.NaN), /a whole number for graph\.ops\[0\]\.stride/],
      'stride 0': [(g) => (g.ops[0].stride = 0), /stride from 1 to 1024/],
      'padding of three': [(g) => (g.ops[0].padding = [1, 1, 1]), /four numbers/],
      'negative padding': [(g) => (g.ops[0].padding = [-1, 1, 1, 1]), /padding from 0/],
      'a kernel of another size': [(g) => (g.ops[0].kernel = 5), /for y/],
      'an unknown activation': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'linear').activation = 'relu'),
        /one of none, tanh/,
      ],
      'groups that do not divide': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'group_norm').groups = 5),
        /groups that divide/,
      ],
      'heads that do not divide': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'attention').heads = 7),
        /heads that divide/,
      ],
      'an endless scale': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'attention').scale = Infinity),
        /a finite scale/,
      ],
      'a slice outside': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'slice_channels').start = 60),
        /a range within 64/,
      ],
      'scales out of order': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'multiscale_encode').scales = [2, 1, 5]),
        /scales, ascending/,
      ],
      'no codebooks': [
        (g) => (g.ops.find((o: Spoilt) => o.op === 'multiscale_encode').codebooks = []),
        /at least one codebook/,
      ],
      'an output that is never made': [
        (g) => {
          g.values.push({ shape: [1, 2], dtype: 'f32' });
          g.outputs.z = g.values.length - 1;
        },
        /never computed/,
      ],
      'no output': [(g) => (g.outputs = {}), /at least one/],
      'another batch': [(g) => (g.values[3].shape[0] = 2), /the batch of the other values/],
      'one name for two shapes': [(g) => (g.ops[1].bias = 'conv_in.weight'), /one shape for the weight/],
    };
    for (const [name, [spoil, message]] of Object.entries(faults)) {
      it(name, () => {
        const graph = copy();
        spoil(graph);
        assert.throws(() => create(graph), { ...invalid, message });
      });
    }

    it('whatever is no graph at all', () => {
      for (const graph of [
        undefined,
        null,
        3,
        'graph',
        [],
        {},
        { values: [], ops: [], inputs: {}, outputs: {} },
      ]) {
        assert.throws(() => create(graph), invalid);
      }
      assert.throws(() => native().createProgram(one.graph, {} as never, 'f32'), invalid);
      assert.throws(() => native().createProgram(one.graph, store(), 'f16' as never), invalid);
      for (const lanes of [0, -1, 1.5, 1e9, 'two']) {
        assert.throws(() => native().createProgram(one.graph, store(), 'f32', lanes as number), invalid);
      }
      assert.throws(() => native().createWeightStore('abacus'), {
        code: 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
      });
    });

    it('random damage, or run it without harm', () => {
      const junk = fc.oneof(
        fc.integer({ min: -3, max: 70 }),
        fc.constantFrom(null, undefined, '', 'x', [], {}, 1e300, Number.NaN, -0, 2 ** 40, true, [1, 2, 3, 4]),
      );
      fc.assert(
        fc.property(
          fc.array(fc.tuple(fc.nat(), fc.nat(), fc.nat(), junk), { minLength: 1, maxLength: 3 }),
          (damage) => {
            const graph = copy();
            for (const [list, item, field, value] of damage) {
              const target = list % 3 === 0 ? graph.values : graph.ops;
              const entry = target[item % target.length];
              const keys = Object.keys(entry);
              const key = keys[field % keys.length];
              if (Array.isArray(entry[key]) && field % 2) entry[key][field % entry[key].length] = value;
              else entry[key] = value;
            }
            try {
              const program = create(graph);
              for (const { name, shape } of program.missingWeights()) {
                const count = weights.get(name)?.length ?? shape.reduce((a, b) => a * b, 1);
                program.setWeight(
                  name,
                  shape[0] ? new Float32Array(shape.reduce((a, b) => a * b, 1)) : randomArray(count, 3),
                );
              }
              program.runSync({ x: image(1) });
            } catch (error) {
              assert.ok(error instanceof TokenFlowError, String(error));
            }
          },
        ),
        { numRuns: 400, seed: 3 },
      );
    });

    it('weights that are unknown or of another size, and a run before they are all there', () => {
      const program = create(one.graph);
      const missing = program.missingWeights();
      assert.deepEqual(missing.find(({ name }) => name === 'conv1.weight')!.shape, [32, 32, 3, 3]);
      assert.equal(new Set(missing.map(({ name }) => name)).size, missing.length);
      assert.throws(() => program.setWeight('nobody', new Float32Array(3)), {
        ...invalid,
        message: /no weight named 'nobody'/,
      });
      assert.throws(() => program.setWeight('conv1.weight', new Float32Array(3)), {
        ...invalid,
        message: /Expected 9216 elements for the weight 'conv1.weight' but received 3/,
      });
      assert.throws(() => program.setWeight('conv1.weight', new Float64Array(9216) as never), invalid);
      assert.throws(() => program.runSync({ x: image(1) }), { ...invalid, message: /missing/ });
    });

    it('inputs that are missing, of another type or size', async () => {
      const program = compile(one, weights);
      assert.throws(() => program.runSync({}), { ...invalid, message: /an input named 'x'/ });
      assert.throws(() => program.run(undefined as never), invalid);
      assert.throws(() => program.runSync({ x: new Float64Array(1200) }), {
        ...invalid,
        message: /a Float32Array for the input 'x'/,
      });
      assert.throws(() => program.run({ x: new Float32Array(1199) }), {
        ...invalid,
        message: /Expected 1200 elements/,
      });
      const detached = image(1);
      structuredClone(detached.buffer, { transfer: [detached.buffer as ArrayBuffer] });
      assert.throws(() => program.run({ x: detached }), invalid);
    });

    it('more memory than there is, saying how much', function () {
      if (os.totalmem() > 2 ** 37) {
        console.log('      skipped: this machine might have it');
        return this.skip();
      }
      const graph = new GraphBuilder(1);
      let x = graph.input('x', [1, 1024]);
      for (const copies of [64, 64, 64, 256]) x = graph.concatChannels(new Array(copies).fill(x));
      graph.output('y', graph.sliceChannels(x, 0, 1));
      const program = create(graph.build().graph);
      const { activations } = program.memory();
      assert.ok(activations > 2 ** 38);
      assert.throws(() => program.runSync({ x: new Float32Array(1024) }), {
        code: 'ERR_TOKENFLOW_OUT_OF_MEMORY',
        message:
          testDevice() === 'cpu'
            ? new RegExp(`for the activations: ${activations} bytes`)
            : /A batch of 1 needs \d{6,} MiB on the device .* Not even one image fits/,
      });
      graph.output('x', x);
      const given = create(graph.build().graph);
      assert.throws(() => given.runSync({ x: new Float32Array(1024) }), {
        code: 'ERR_TOKENFLOW_OUT_OF_MEMORY',
        message: /for the output 'x': \d+ bytes/,
      });
    });
  });

  describe('cut short', () => {
    it('by cancelling', async () => {
      const program = compile(network(8), weights);
      const x = join(Array.from({ length: 8 }, (_, i) => image(i)));
      const jobs = Array.from({ length: 4 }, () => program.run({ x }));
      jobs[0].cancel();
      jobs[2].cancel();
      await assert.rejects(jobs[2].promise, { code: 'ABORTED' });
      assert.deepEqual(await jobs[1].promise, await jobs[3].promise);
      await jobs[0].promise.catch((error) => assert.equal(error.code, 'ABORTED'));
    });

    it('by disposing of the program and the store while runs are queued', async () => {
      const store = native().createWeightStore(testDevice());
      const program = native().createProgram(one.graph, store, 'f32');
      for (const { name } of program.missingWeights()) program.setWeight(name, weights.get(name)!);
      assert.ok(store.bytes() > 0);
      const jobs = [1, 2, 1].map((seed) => program.run({ x: image(seed) }));
      program.dispose();
      store.dispose();
      const results = await Promise.all(jobs.map(({ promise }) => promise));
      assert.deepEqual(results[0], results[2]);
      assert.throws(() => program.runSync({ x: image(1) }), { code: 'ERR_TOKENFLOW_DISPOSED' });
      assert.throws(() => program.missingWeights(), { code: 'ERR_TOKENFLOW_DISPOSED' });
      assert.throws(() => store.bytes(), { code: 'ERR_TOKENFLOW_DISPOSED' });
      program.dispose();
    });

    it('by ending the worker that runs it', async () => {
      const script = `
        const { parentPort, workerData } = require('node:worker_threads');
        const { native } = require(workerData.lib);
        const program = native().createProgram(workerData.graph, native().createWeightStore(workerData.device), 'f32');
        for (const { name } of program.missingWeights()) program.setWeight(name, workerData.weights.get(name));
        for (let i = 0; i < 50; i++) program.run({ x: workerData.x });
        parentPort.postMessage('running');
        setInterval(() => {}, 1000);`;
      for (let i = 0; i < 3; i++) {
        const x = join(Array.from({ length: 8 }, (_, n) => image(n)));
        const workerData = {
          lib: path.join(packageRoot(), 'dist', 'native.js'),
          device: testDevice(),
          graph: network(8).graph,
          weights,
          x,
        };
        const worker = new Worker(script, { eval: true, workerData });
        assert.equal((await once(worker, 'message'))[0], 'running');
        await worker.terminate();
      }
      compile(one, weights).runSync({ x: image(1) });
    });
  });

  it('share packed weights, and say what they hold and how long they took', () => {
    const store = native().createWeightStore(testDevice());
    const first = native().createProgram(one.graph, store, 'f32');
    const second = native().createProgram(network(2).graph, store, 'f32');
    for (const { name } of first.missingWeights()) first.setWeight(name, weights.get(name)!);
    const bytes = store.bytes();
    assert.deepEqual(second.missingWeights(), []);
    assert.equal(store.bytes(), bytes);
    const total = [...weights.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    assert.ok(bytes >= total && bytes < 2 * total, `${bytes} for ${total}`);

    const values = one.graph.values.reduce((sum, { shape }) => sum + 4 * shape.reduce((a, b) => a * b, 1), 0);
    const { activations, scratch } = first.memory();
    assert.ok(activations > 0 && activations < values / 3, `${activations} of ${values}`);
    assert.ok(scratch > 0);
    first.runSync({ x: image(1) });
    const profile = first.profile();
    assert.deepEqual(
      profile.map(({ op }) => op),
      one.graph.ops.map(({ op }) => op),
    );
    assert.ok(profile.reduce((sum, { milliseconds }) => sum + milliseconds, 0) > 0);
  });
});

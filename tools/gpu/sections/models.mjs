// Encode and decode of the full-size models with random weights: milliseconds a batch by CUDA events, by the clock on the wall
// with uint8 in and tokens out, the same with group norms computed in fewer of their neighbours (native/cuda/norm_fusion.h), and PyTorch's for the same layers (channels-last memory, without the quantiser).
import path from 'node:path';
import { inputsOf, millisecondsByOp, millisecondsEndToEnd, program, sum } from '../measure.mjs';
import { Rival } from '../rival.mjs';
import { device, failure, lib, rehearse, require, root, row } from '../section.mjs';

const { native } = lib('native');
const { openModel } = lib('tokenizer/open-model');
const { encodeGraph, decodeGraph } = lib('tokenizer/graphs');
const { randomWeights } = require('./test/support/random-weights.js');

const golden = (name) => {
  const folder = path.join(root, 'test', 'golden', name);
  const source = lib('checkpoint/checkpoint').openCheckpoint(path.join(folder, 'checkpoint.pt'));
  return { source, model: openModel(source, path.join(folder, 'config.json')) };
};
const fullSize = (weights, variant) => {
  const source = randomWeights(weights);
  return { source, model: openModel(source, variant) };
};
// What matters most comes first: the time may be up before the end.
const PLANS = rehearse
  ? [{ variant: 'clipb', make: () => golden('clipb'), precisions: ['bf16'], batches: [1], compiled: 1 }]
  : [
      {
        variant: 'clipb-256',
        make: () => fullSize('clipb_enhanced', 'clipb-256'),
        precisions: ['bf16', 'f32'],
        batches: [32, 8, 1, 64],
        compiled: 32,
      },
      {
        variant: 'siglip',
        make: () => fullSize('siglip', 'siglip'),
        precisions: ['bf16', 'f32'],
        batches: [8, 1],
        compiled: 8,
      },
    ];

/** Multiply-adds of the products, convolutions and attention of a graph. */
function multiplyAdds(graph) {
  const size = (id) => graph.values[id].shape.reduce((a, b) => a * b, 1);
  const last = (id) => graph.values[id].shape.at(-1);
  return sum(
    graph.ops.map((op) => {
      if (op.op === 'linear') return size(op.y) * last(op.x);
      if (op.op === 'conv2d') return size(op.y) * last(op.x) * op.kernel ** 2;
      if (op.op === 'attention') return 2 * size(op.y) * graph.values[op.y].shape[1];
      return 0;
    }),
  );
}

const [RUNS, WARM_UP, END_TO_END, UNDER_WAY] = rehearse ? [1, 0, 1, 1] : [3, 2, 8, 3];
const card = lib('backends')
  .listBackends()[1]
  .devices.find(({ id }) => id === device);
const rival = Rival.find(device, rehearse);
for (const { variant, make, precisions, batches, compiled } of PLANS) {
  const { source, model } = make();
  const kept = new Map(); // made once for every program
  const read = (name) => {
    if (!kept.has(name)) {
      const derived = model.derived.get(name);
      kept.set(name, derived ? derived.compute(source.read(derived.from)) : source.read(name));
    }
    return kept.get(name);
  };
  const ready = (made) => {
    for (const { name } of made.missingWeights()) made.setWeight(name, read(name));
    return made;
  };
  for (const precision of precisions.filter((one) => card.precisions.includes(one))) {
    const store = native().createWeightStore(device);
    for (const batch of batches) {
      for (const part of ['encode', 'decode']) {
        const { graph } =
          part === 'encode'
            ? encodeGraph(model, batch, { image: 'u8' })
            : decodeGraph(model, batch, model.scales.length, 'u8');
        const key = [variant, part, precision, batch].join(' ');
        const gigaMultiplyAdds = multiplyAdds(graph) / 1e9;
        row(key, { variant, part, precision, batch, gigaMultiplyAdds });
        const inputs = inputsOf(graph);
        try {
          const timed = ready(program(graph, store, precision, { launchesTogether: false }));
          const byOp = millisecondsByOp(timed, inputs, RUNS, WARM_UP);
          timed.dispose();
          const ours = sum(byOp.values());
          const layers = sum([...byOp].map(([op, time]) => (op.startsWith('multiscale') ? 0 : time)));
          row(key, { ours, oursWithoutQuantiser: layers, tflops: (2 * gigaMultiplyAdds) / layers });
          row(key, { byOp: Object.fromEntries([...byOp].sort(([, a], [, b]) => b - a)) });
          // What it is worth that the neighbours of a group norm compute it: with the statistics alone, and without.
          const others = precision === 'bf16' && batch === compiled ? ['moments', 'separate'] : [];
          for (const groupNorm of others) {
            const other = ready(program(graph, store, precision, { launchesTogether: false, groupNorm }));
            const time = sum(millisecondsByOp(other, inputs, RUNS, WARM_UP).values());
            row(key, { [`${groupNorm}GroupNorm`]: time });
            other.dispose();
          }
          const whole = ready(program(graph, store, precision, { launchesTogether: true }));
          row(key, { endToEnd: await millisecondsEndToEnd(whole, inputs, END_TO_END, UNDER_WAY) });
          whole.dispose();
        } catch (error) {
          row(key, { error: error.message });
          if (error.code !== 'ERR_TOKENFLOW_OUT_OF_MEMORY') failure(`${key}: ${error.message}`);
        }
        const ways = [
          ['torch', false],
          ['torchCompiled', true],
        ];
        for (const [name, wanted] of rival === null ? [] : ways) {
          if (wanted && (batch !== compiled || precision !== 'bf16')) continue; // compiling takes long
          const asked = await rival.ask({ do: 'graph', graph, precision, compiled: wanted });
          row(key, { [name]: asked.milliseconds ?? asked.error });
        }
      }
    }
    store.dispose();
  }
  source.close();
}
rival?.end();

import { lib } from './section.mjs';

const { native } = lib('native');

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Seeded, uniform in [-1, 1). */
export function randomFloats(count, seed) {
  const data = new Float32Array(count);
  let state = seed | 1;
  for (let i = 0; i < count; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    data[i] = state / 2 ** 31;
  }
  return data;
}

/** What a graph's inputs take: numbers for maps, zeros for tokens. */
export function inputsOf(graph) {
  return Object.fromEntries(
    Object.entries(graph.inputs).map(([port, id]) => {
      const { shape, dtype } = graph.values[id];
      const count = shape.reduce((a, b) => a * b, 1);
      if (dtype === 'u8') return [port, Uint8Array.from({ length: count }, (_, i) => (i * 7) ^ (i >> 9))];
      return [port, dtype === 'i32' ? new Int32Array(count) : randomFloats(count, 5)];
    }),
  );
}

/**
 * Milliseconds of one run by CUDA events, by op: the median over runs, after those that warm up. The program must have been
 * made with TOKENFLOW_CUDA_GRAPHS=off, because only single launches are timed.
 */
export function millisecondsByOp(program, inputs, runs = 7, warmUp = 2) {
  const totals = () => {
    const sums = new Map();
    for (const { op, milliseconds } of program.profile()) sums.set(op, (sums.get(op) ?? 0) + milliseconds);
    return sums;
  };
  const times = new Map();
  for (let i = 0; i < runs + warmUp; i++) {
    const before = totals();
    program.runSync(inputs);
    if (i < warmUp) continue;
    for (const [op, total] of totals()) times.set(op, [...(times.get(op) ?? []), total - before.get(op)]);
  }
  return new Map([...times].map(([op, values]) => [op, median(values)]));
}

export const sum = (values) => [...values].reduce((a, b) => a + b, 0);

/** Milliseconds a batch by the clock on the wall, inputs and outputs in host memory, with several runs under way. */
export async function millisecondsEndToEnd(program, inputs, runs, underWay) {
  const pending = [];
  let started = 0;
  for (let i = 0; i < runs + underWay; i++) {
    if (pending.length === underWay) await pending.shift();
    if (i === underWay) started = performance.now();
    pending.push(program.run(inputs).promise);
  }
  await Promise.all(pending);
  return (performance.now() - started) / runs;
}

/** A program of `graph`; TOKENFLOW_CUDA_GRAPHS and TOKENFLOW_CUDA_GROUP_NORM are read when it is made. */
export function program(graph, store, precision, { launchesTogether, groupNorm = 'fused' }) {
  process.env.TOKENFLOW_CUDA_GRAPHS = launchesTogether ? 'on' : 'off';
  process.env.TOKENFLOW_CUDA_GROUP_NORM = groupNorm;
  return native().createProgram(graph, store, precision);
}

/** Looks up the cells of `batch` maps of side x side in k codes of d dimensions: one scale, so neither pooling nor resize. */
export function lookupProgram(where, batch, side, k, d) {
  const { GraphBuilder } = lib('graph/builder');
  const graph = new GraphBuilder(batch);
  const codes = new Map([['codes', [k, d]]]);
  const { tokens } = graph.multiscaleEncode(graph.input('x', [side, side, d]), codes, [side]);
  graph.output('tokens', tokens);
  const made = program(graph.build().graph, native().createWeightStore(where), 'f32', {
    launchesTogether: false,
  });
  made.setWeight('codes', randomFloats(k * d, 77));
  return made;
}

/**
 * The whole model at full size with random weights: encoding and decoding against onnxruntime-node on the same layers,
 * and what the speed costs: tokens that Winograd's convolutions or bf16 change.
 *
 * The rival runs the two encoders up to what the quantiser is given, or the decoder from the sum of the codes on; ours
 * runs the quantiser too.
 */
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { fmaPeak, LoadGuard, timeInTurn, withThreads } from './frame.mjs';
import { toOnnx } from './onnx.mjs';
import { fillUniform, graphWeight, model } from './random-model.mjs';

const require = createRequire(import.meta.url);
const { native } = require('../dist/native.js');
const { lanesOf } = require('../dist/tokenizer/batching.js');
const { decodeGraph, encodeGraph } = require('../dist/tokenizer/graphs.js');
const { ImageProcessor } = require('../dist/index.js');

const samples = new URL('../samples/', import.meta.url);
const elements = (shape) => shape.reduce((a, b) => a * b, 1);

/** The sample photographs as [N,256,256,3] bytes. */
export async function photographs() {
  const files = readdirSync(samples).filter((name) => name.endsWith('.jpg'));
  const processor = new ImageProcessor({ size: model.imageSize });
  return (await processor.prepareBatch(files.map((name) => fileURLToPath(new URL(name, samples))))).data;
}

/** Floating-point operations of a graph, a convolution counted as the direct one. */
export function operations(graph) {
  const shape = (id) => graph.values[id].shape;
  let total = 0;
  for (const op of graph.ops) {
    if (op.op === 'conv2d') total += 2 * elements(shape(op.y)) * shape(op.x)[3] * op.kernel ** 2;
    if (op.op === 'linear') total += 2 * elements(shape(op.y)) * shape(op.x).at(-1);
    if (op.op === 'attention') total += 4 * elements(shape(op.y)) * shape(op.x)[1];
  }
  return total;
}

/** Programs over one store of packed weights per precision. */
class Programs {
  #stores = new Map();

  compile(graph, precision, lanes = 1) {
    if (!this.#stores.has(precision)) this.#stores.set(precision, native().createWeightStore('cpu'));
    const program = native().createProgram(graph, this.#stores.get(precision), precision, lanes);
    for (const { name } of program.missingWeights()) program.setWeight(name, graphWeight(name));
    return program;
  }

  dispose() {
    for (const store of this.#stores.values()) store.dispose();
    this.#stores.clear();
  }
}

async function openRival(graph, inputs, outputs, threads) {
  let ort;
  try {
    ort = require('onnxruntime-node');
  } catch (error) {
    return { missing: error.message.split('\n')[0] };
  }
  const names = new Set();
  for (const op of graph.ops) {
    for (const field of ['weight', 'bias', 'token', 'table']) {
      for (const name of [op[field] ?? []].flat()) if (name !== null) names.add(name);
    }
  }
  const weights = new Map([...names].map((name) => [name, graphWeight(name)]));
  const session = await ort.InferenceSession.create(toOnnx(graph, weights, inputs, outputs), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const [name] = Object.keys(inputs);
  const [batch, height, width, channels] = graph.values[inputs[name]].shape;
  return {
    async run(values) {
      const turned = new Float32Array(values.length);
      const area = height * width;
      for (let b = 0; b < batch; b++) {
        for (let i = 0; i < area; i++) {
          for (let c = 0; c < channels; c++) {
            turned[(b * channels + c) * area + i] = values[(b * area + i) * channels + c];
          }
        }
      }
      const feeds = { [name]: new ort.Tensor('float32', turned, [batch, channels, height, width]) };
      return { feeds, results: await session.run(feeds) };
    },
    again: (feeds) => session.run(feeds),
    release: () => session.release(),
  };
}

function relativeError(a, b) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    norm += b[i] ** 2;
  }
  return Math.sqrt(difference / norm);
}

function equalShare(a, b) {
  let equal = 0;
  for (let i = 0; i < b.length; i++) if (a[i] === b[i]) equal++;
  return equal / b.length;
}

/** Tokens of the photographs, one image at a time. */
function tokensOf(programs, precision, images) {
  const { graph } = encodeGraph(model, 1, { image: 'u8' });
  const program = programs.compile(graph, precision);
  const size = model.imageSize ** 2 * 3;
  const tokens = [];
  for (let at = 0; at < images.length; at += size) {
    tokens.push(...program.runSync({ image: images.subarray(at, at + size) }).tokens);
  }
  program.dispose();
  return tokens;
}

/** Tokens with every convolution direct, in float32. */
function directTokens(images) {
  const programs = new Programs();
  process.env.TOKENFLOW_WINOGRAD = 'off';
  try {
    return tokensOf(programs, 'f32', images);
  } finally {
    delete process.env.TOKENFLOW_WINOGRAD;
    programs.dispose();
  }
}

const has = (only, name) => only === undefined || name.includes(only);

/** Rows `encode/clipb-256/<precision>/<batch>`; `agreement` is the share of equal tokens, see the notes. */
export async function benchEncode(report, { threads = 2, quick = false, only } = {}) {
  const wanted = ['f32', 'bf16'].flatMap((precision) =>
    [1, 4].map((batch) => ({ precision, batch, name: `encode/clipb-256/${precision}/${batch}` })),
  );
  const rows = wanted.filter(({ name }) => has(only, name));
  if (rows.length === 0) return;
  const images = quick ? (await photographs()).subarray(0, model.imageSize ** 2 * 3) : await photographs();
  const programs = new Programs();
  const f32 = tokensOf(programs, 'f32', images);
  const agreement = { f32: equalShare(f32, directTokens(images)) };
  if (native().cpuFeatures().avx512Bf16) agreement.bf16 = equalShare(tokensOf(programs, 'bf16', images), f32);
  report.note(
    'agreement of f32: tokens of the photographs equal to those with direct convolutions; of bf16: to f32',
  );

  for (const batch of new Set(rows.map((row) => row.batch))) {
    const { graph } = encodeGraph(model, batch, { image: 'f32', latents: true });
    const image = fillUniform(new Float32Array(batch * model.imageSize ** 2 * 3), 5);
    const { semanticLatent, pixelLatent } = graph.outputs;
    const rival = await openRival(
      graph,
      { image: graph.inputs.image },
      { semanticLatent, pixelLatent },
      threads,
    );
    if (rival.missing) report.note(`onnxruntime-node is left out: ${rival.missing}`);
    const { feeds, results } = rival.missing ? {} : await rival.run(image);
    for (const { precision, name } of rows.filter((row) => row.batch === batch)) {
      if (precision === 'bf16' && agreement.bf16 === undefined) {
        report.note(`${name} is left out: this processor has no AVX512-BF16`);
        continue;
      }
      await withThreads(threads, async () => {
        // As the tokenizer runs a batch.
        const lanes = lanesOf(batch, threads);
        const lane = encodeGraph(model, batch / lanes, { image: 'f32', latents: true });
        const program = programs.compile(lane.graph, precision, lanes);
        const ours = program.runSync({ image });
        const guard = new LoadGuard();
        const times = await timeInTurn(
          { ours: () => program.runSync({ image }), ...(results ? { rival: () => rival.again(feeds) } : {}) },
          { seconds: quick ? 6 : 15, rest: 300 },
        );
        fmaPeak(threads, { again: true }); // the best of several moments, for peakShare
        report.add({
          name,
          seconds: times.ours,
          operations: operations(graph),
          threads,
          rival: results ? 'onnxruntime-node 1.30 f32' : undefined,
          rivalSeconds: times.rival,
          agreement: agreement[precision],
          othersShare: guard.othersShare(),
          memory: program.memory(),
          latentError: results && {
            semantic: relativeError(ours.semanticLatent, results.semanticLatent.data),
            pixel: relativeError(ours.pixelLatent, results.pixelLatent.data),
          },
        });
        program.dispose();
      });
    }
    await rival.release?.();
  }
  programs.dispose();
}

/** Row `decode/clipb-256/f32/1`, the enhanced decoder. */
export async function benchDecode(report, { threads = 2, quick = false, only } = {}) {
  const name = 'decode/clipb-256/f32/1';
  if (!has(only, name)) return;
  const { graph } = decodeGraph(model, 1, model.scales.length, 'f32');
  const programs = new Programs();
  const program = programs.compile(graph, 'f32');
  const [{ y: codes }] = graph.ops.filter(({ op }) => op === 'multiscale_decode');
  const tokens = Int32Array.from(
    fillUniform(
      new Float32Array(elements(graph.values[graph.inputs.tokens].shape)),
      9,
      0,
      model.codebookSize,
    ),
    Math.floor,
  );
  const features = native().createProgram(
    { ...graph, ops: graph.ops.filter(({ op }) => op === 'multiscale_decode'), outputs: { features: codes } },
    native().createWeightStore('cpu'),
    'f32',
  );
  for (const { name: weight } of features.missingWeights()) features.setWeight(weight, graphWeight(weight));
  await withThreads(threads, async () => {
    const ours = program.runSync({ tokens });
    const rival = await openRival(graph, { features: codes }, { image: graph.outputs.image }, threads);
    if (rival.missing) report.note(`onnxruntime-node is left out: ${rival.missing}`);
    const { feeds, results } = rival.missing ? {} : await rival.run(features.runSync({ tokens }).features);
    const guard = new LoadGuard();
    const times = await timeInTurn(
      { ours: () => program.runSync({ tokens }), ...(results ? { rival: () => rival.again(feeds) } : {}) },
      { seconds: quick ? 6 : 25, least: 3, rest: 300 },
    );
    fmaPeak(threads, { again: true });
    report.add({
      name,
      seconds: times.ours,
      operations: operations(graph),
      threads,
      rival: results ? 'onnxruntime-node 1.30 f32' : undefined,
      rivalSeconds: times.rival,
      othersShare: guard.othersShare(),
      memory: program.memory(),
      imageError: results && relativeError(ours.image, results.image.data),
    });
    await rival.release?.();
  });
  program.dispose();
  programs.dispose();
}

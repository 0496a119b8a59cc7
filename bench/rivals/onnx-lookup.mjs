/**
 * The lookup in onnxruntime: MatMul with the transposed codes, then ArgMax or TopK, which is how it is written in models.
 * It finds the largest inner product.
 */
import { createRequire } from 'node:module';
import { attribute, FLOAT, INT64, modelBytes, tensor, valueInfo } from '../onnx.mjs';
import { message, string } from '../protobuf.mjs';

const node = (type, inputs, outputs, attributes = {}) =>
  message(1, [
    ...inputs.map((input) => string(1, input)),
    ...outputs.map((output) => string(2, output)),
    string(4, type),
    ...Object.entries(attributes).map(attribute),
  ]);

function model(codes, dim, n, k) {
  const size = codes.length / dim;
  const transposed = new Float32Array(codes.length);
  for (let j = 0; j < size; j++) for (let e = 0; e < dim; e++) transposed[e * size + j] = codes[j * dim + e];
  const found =
    k === 1
      ? [node('ArgMax', ['scores'], ['indices'], { axis: 1n, keepdims: 0n })]
      : [node('TopK', ['scores', 'k'], ['values', 'indices'], { axis: 1n })];
  return modelBytes([
    node('MatMul', ['queries', 'codes'], ['scores']),
    ...found,
    string(2, 'lookup'),
    message(5, tensor('codes', [dim, size], FLOAT, transposed)),
    ...(k === 1 ? [] : [message(5, tensor('k', [1], INT64, BigInt64Array.of(BigInt(k))))]),
    message(11, valueInfo('queries', [n, dim])),
    message(12, valueInfo('indices', k === 1 ? [n] : [n, k], INT64)),
  ]);
}

/** A lookup of queries `[n, dim]`, or the reason why there is none. */
export async function openOnnxLookup({ codes, queries, dim, k, threads }) {
  let ort;
  try {
    ort = createRequire(import.meta.url)('onnxruntime-node');
  } catch (error) {
    return { reason: `onnxruntime-node: ${error.message.split('\n')[0]}` };
  }
  const n = queries.length / dim;
  const session = await ort.InferenceSession.create(model(codes, dim, n, k), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const feeds = { queries: new ort.Tensor('float32', queries, [n, dim]) };
  return {
    name: `onnxruntime-node ${k === 1 ? 'ArgMax' : 'TopK'}`,
    search: async () => Int32Array.from((await session.run(feeds)).indices.data, Number),
    release: () => session.release(),
  };
}

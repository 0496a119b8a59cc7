import { compareKeys } from '../checkpoint/state-dict.js';
import type { TensorInfo } from '../checkpoint/stored-tensor.js';
import type { WeightShapes } from '../graph/ops.js';
import { decodeGraph, encodeGraph, semanticGraph } from './graphs.js';
import type { Model } from './model.js';

/** Every tensor a checkpoint of this model must hold, with its shape: what its graphs name. */
export function manifest(model: Model): WeightShapes {
  const expected = new Map<string, readonly number[]>();
  const graphs = [
    encodeGraph(model, 1, { image: 'u8' }),
    decodeGraph(model, 1, model.scales.length, 'u8'),
    semanticGraph(model, 1, model.scales.length),
  ];
  for (const { weights } of graphs) {
    for (const [name, shape] of weights) {
      const derived = model.derived.get(name);
      if (derived) expected.set(derived.from, derived.fromShape);
      else expected.set(name, shape);
    }
  }
  return expected;
}

/** Tensors that official files hold and no graph needs. */
function isUnused(model: Model, name: string): boolean {
  if (name === 'quantize.codebook_used') return true; // a training statistic
  const vision = model.semanticEncoder;
  if (vision.kind === 'clip') return name === `${vision.prefix}.proj`;
  return [
    `${vision.prefix}.encoder.layers.${vision.layers}.`,
    `${vision.prefix}.post_layernorm.`,
    `${vision.prefix}.head.`,
    `${vision.prefix}.embeddings.position_ids`,
  ].some((prefix) => name.startsWith(prefix));
}

/**
 * Compares the tensors of a checkpoint with what the model needs.
 * @throws TokenFlowError ERR_TOKENFLOW_CHECKPOINT naming the first missing, misshapen and extra tensors
 */
export function checkManifest(
  model: Model,
  source: { readonly path: string; readonly tensors: ReadonlyMap<string, Pick<TensorInfo, 'shape'>> },
): void {
  compareKeys(source.path, manifest(model), source.tensors, (name) => isUnused(model, name));
}

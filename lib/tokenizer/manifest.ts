import { TokenFlowError } from '../errors.js';
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

const NAMED = 4;

function list(title: string, items: readonly string[]): string {
  const rest = items.length > NAMED ? ` and ${items.length - NAMED} more` : '';
  return `${items.length} ${title}: ${items.slice(0, NAMED).join(', ')}${rest}`;
}

const show = (shape: readonly number[]): string => `[${shape.join(', ')}]`;

/**
 * Compares the tensors of a checkpoint with what the model needs.
 * @throws TokenFlowError ERR_TOKENFLOW_CHECKPOINT naming the first missing, misshapen and extra tensors
 */
export function checkManifest(model: Model, shapes: WeightShapes, path: string): void {
  const expected = manifest(model);
  const missing: string[] = [];
  const misshapen: string[] = [];
  for (const [name, shape] of expected) {
    const found = shapes.get(name);
    if (!found) missing.push(`${name} ${show(shape)}`);
    else if (show(found) !== show(shape))
      misshapen.push(`${name} is ${show(found)}, expected ${show(shape)}`);
  }
  const extra = [...shapes.keys()].filter((name) => !expected.has(name) && !isUnused(model, name));
  const faults = [
    ...(missing.length ? [list('missing', missing)] : []),
    ...(misshapen.length ? [list('of another shape', misshapen)] : []),
    ...(extra.length ? [list('that no part of the model uses', extra)] : []),
  ];
  if (faults.length > 0) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_CHECKPOINT',
      `The tensors of ${path} are not those of a TokenFlow model of ${expected.size} tensors. ${faults.join('; ')}`,
    );
  }
}

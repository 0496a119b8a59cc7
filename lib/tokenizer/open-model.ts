import { TokenFlowError } from '../errors.js';
import type { WeightShapes } from '../graph/ops.js';
import { findConfig } from './find-config.js';
import { checkManifest } from './manifest.js';
import { type Model, readModel } from './model.js';
import type { LoadOptions, WeightSource } from './types.js';

/**
 * Reads the model that a checkpoint holds, and checks that it holds every tensor of it and no other.
 * @param path where the checkpoint was asked for; its `config.json` is looked for there
 */
export function openModel(source: WeightSource, config?: LoadOptions['config'], path?: string): Model {
  const shapes: WeightShapes = new Map([...source.tensors].map(([name, { shape }]) => [name, shape]));
  const model = fitted(shapes, config, path);
  checkManifest(model, source);
  return model;
}

function fitted(shapes: WeightShapes, config: LoadOptions['config'], path: string | undefined): Model {
  const found = findConfig(config, path);
  try {
    return readModel(shapes, found);
  } catch (error) {
    // Without a configuration asked for, the checkpoint itself is what does not hold together.
    if (!(error instanceof TokenFlowError) || typeof config !== 'string') throw error;
    const { code, message } = error;
    throw new TokenFlowError(code, `The config '${config}' does not fit this checkpoint: ${message}`, {
      cause: error,
    });
  }
}

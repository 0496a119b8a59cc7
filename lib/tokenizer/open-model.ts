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
  const model = readModel(shapes, findConfig(config, path));
  checkManifest(model, source);
  return model;
}

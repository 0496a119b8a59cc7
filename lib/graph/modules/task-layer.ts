import type { GraphBuilder, Value } from '../builder.js';
import { affine } from './transformer-block.js';

/** Linear, tanh, linear: [B,L,C] -> [B,L,out]. */
export function taskLayer(graph: GraphBuilder, prefix: string, x: Value, out: number): Value {
  const hidden = graph.linear(x, { ...affine(`${prefix}.0`), out: x.shape[2], activation: 'tanh' });
  return graph.linear(hidden, { ...affine(`${prefix}.2`), out });
}

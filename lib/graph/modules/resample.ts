import type { GraphBuilder, Value } from '../builder.js';

/** Halves the map: zeros to the right and below only, then a 3x3 convolution of stride 2. */
export function downsample(graph: GraphBuilder, prefix: string, x: Value): Value {
  return graph.conv2d(x, `${prefix}.conv`, {
    out: x.shape[3],
    kernel: 3,
    stride: 2,
    padding: [0, 0, 1, 1],
  });
}

/** Doubles the map: nearest neighbour, then a 3x3 convolution. */
export function upsample(graph: GraphBuilder, prefix: string, x: Value): Value {
  return graph.conv2d(x, `${prefix}.conv`, { out: x.shape[3], kernel: 3, padding: 1, upsample: 2 });
}

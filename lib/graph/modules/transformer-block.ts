import type { GraphBuilder, LinearOptions, Value } from '../builder.js';
import type { Activation } from '../ops.js';

type Weights = Pick<LinearOptions, 'weight' | 'bias'>;

/** Where the parts of a pre-norm transformer block are in the checkpoint, and what shapes cannot tell about it. */
export interface TransformerBlock {
  readonly heads: number;
  readonly epsilon: number;
  readonly activation: Activation;
  /** Width of the hidden layer of the MLP. */
  readonly hidden: number;
  readonly norm1: string;
  readonly qkv: Weights;
  readonly projection: Weights;
  readonly norm2: string;
  readonly expand: Weights;
  readonly contract: Weights;
}

/** `{ weight: 'prefix.weight', bias: 'prefix.bias' }`. */
export function affine(prefix: string): { weight: string; bias: string } {
  return { weight: `${prefix}.weight`, bias: `${prefix}.bias` };
}

/** x += attention(norm1 x); x += MLP(norm2 x). Keeps [B,L,C]. */
export function transformerBlock(graph: GraphBuilder, block: TransformerBlock, x: Value): Value {
  const width = x.shape[2];
  const qkv = graph.linear(graph.layerNorm(x, block.norm1, block.epsilon), {
    ...block.qkv,
    out: 3 * width,
  });
  const attended = graph.linear(graph.attention(qkv, block.heads), {
    ...block.projection,
    out: width,
    residual: x,
  });
  const hidden = graph.linear(graph.layerNorm(attended, block.norm2, block.epsilon), {
    ...block.expand,
    out: block.hidden,
    activation: block.activation,
  });
  return graph.linear(hidden, { ...block.contract, out: width, residual: attended });
}

import type { GraphBuilder, Value } from '../builder.js';
import { GROUP_NORM_EPSILON, type GroupRule } from './group-rule.js';

/** GroupNorm, single-head attention over all positions, 1x1 projection; added to x. Keeps [B,H,W,C]. */
export function attentionBlock(graph: GraphBuilder, prefix: string, x: Value, groups: GroupRule): Value {
  const [, height, width, channels] = x.shape;
  const tokens = graph.reshape(x, [height * width, channels]);
  const h = graph.groupNorm(tokens, `${prefix}.norm`, {
    groups: groups(channels),
    epsilon: GROUP_NORM_EPSILON,
    swish: false,
  });
  const qkv = graph.linear(h, {
    weight: ['q', 'k', 'v'].map((part) => `${prefix}.${part}.weight`),
    bias: ['q', 'k', 'v'].map((part) => `${prefix}.${part}.bias`),
    out: 3 * channels,
    pointwise: true,
  });
  const y = graph.linear(graph.attention(qkv, 1), {
    weight: `${prefix}.proj_out.weight`,
    bias: `${prefix}.proj_out.bias`,
    out: channels,
    pointwise: true,
    residual: tokens,
  });
  return graph.reshape(y, [height, width, channels]);
}

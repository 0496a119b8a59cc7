import type { GraphBuilder, Value } from '../builder.js';
import { GROUP_NORM_EPSILON, type GroupRule } from './group-rule.js';

/** GroupNorm, swish, 3x3, twice; added to x, through a 1x1 convolution where the width changes. [B,H,W,C] -> [B,H,W,out]. */
export function resnetBlock(
  graph: GraphBuilder,
  prefix: string,
  x: Value,
  out: number,
  groups: GroupRule,
): Value {
  const norm = { epsilon: GROUP_NORM_EPSILON, swish: true };
  const channels = x.shape[3];
  let h = graph.groupNorm(x, `${prefix}.norm1`, { ...norm, groups: groups(channels) });
  h = graph.conv2d(h, `${prefix}.conv1`, { out, kernel: 3, padding: 1 });
  h = graph.groupNorm(h, `${prefix}.norm2`, { ...norm, groups: groups(out) });
  const residual =
    channels === out
      ? x
      : graph.linear(x, {
          weight: `${prefix}.nin_shortcut.weight`,
          bias: `${prefix}.nin_shortcut.bias`,
          out,
          pointwise: true,
        });
  return graph.conv2d(h, `${prefix}.conv2`, { out, kernel: 3, padding: 1, residual });
}

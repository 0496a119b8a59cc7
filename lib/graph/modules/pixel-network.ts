import type { GraphBuilder, Value } from '../builder.js';
import { attentionBlock } from './attention-block.js';
import type { GroupRule } from './group-rule.js';
import { GROUP_NORM_EPSILON } from './group-rule.js';
import { downsample, upsample } from './resample.js';
import { resnetBlock } from './resnet-block.js';

/** One level of the pixel encoder or decoder: `blocks` residual blocks of `channels`, at one resolution. */
export interface PixelLevel {
  readonly channels: number;
  readonly blocks: number;
  /** An attention block follows each residual block. */
  readonly attention: boolean;
  /** The level ends in a halving (encoder) or doubling (decoder). */
  readonly resample: boolean;
}

/** The VQGAN-style convolution network of one direction; levels in the order they run. */
export interface PixelNetwork {
  readonly prefix: string;
  /** Channels after the first convolution. */
  readonly stem: number;
  readonly levels: readonly PixelLevel[];
  /** Channels after the last convolution. */
  readonly out: number;
  readonly groups: GroupRule;
}

/** By how much the network shrinks or enlarges each side. */
export function resampling(network: PixelNetwork): number {
  return network.levels.reduce((factor, level) => (level.resample ? factor * 2 : factor), 1);
}

function levels(graph: GraphBuilder, network: PixelNetwork, x: Value, direction: 'down' | 'up'): Value {
  let h = x;
  network.levels.forEach((level, i) => {
    const prefix = `${network.prefix}.conv_blocks.${i}`;
    for (let j = 0; j < level.blocks; j++) {
      h = resnetBlock(graph, `${prefix}.res.${j}`, h, level.channels, network.groups);
      if (level.attention) h = attentionBlock(graph, `${prefix}.attn.${j}`, h, network.groups);
    }
    if (level.resample) {
      h =
        direction === 'down'
          ? downsample(graph, `${prefix}.downsample`, h)
          : upsample(graph, `${prefix}.upsample`, h);
    }
  });
  return h;
}

function middle(graph: GraphBuilder, network: PixelNetwork, x: Value): Value {
  const prefix = `${network.prefix}.mid`;
  const channels = x.shape[3];
  let h = resnetBlock(graph, `${prefix}.0`, x, channels, network.groups);
  h = attentionBlock(graph, `${prefix}.1`, h, network.groups);
  return resnetBlock(graph, `${prefix}.2`, h, channels, network.groups);
}

function stem(graph: GraphBuilder, network: PixelNetwork, x: Value): Value {
  return graph.conv2d(x, `${network.prefix}.conv_in`, { out: network.stem, kernel: 3, padding: 1 });
}

function head(graph: GraphBuilder, network: PixelNetwork, x: Value): Value {
  const h = graph.groupNorm(x, `${network.prefix}.norm_out`, {
    groups: network.groups(x.shape[3]),
    epsilon: GROUP_NORM_EPSILON,
    swish: true,
  });
  return graph.conv2d(h, `${network.prefix}.conv_out`, { out: network.out, kernel: 3, padding: 1 });
}

/** Image [B,H,W,3] in [-1, 1] -> latent [B,g,g,z]: levels from fine to coarse, then the middle. */
export function pixelEncoder(graph: GraphBuilder, network: PixelNetwork, x: Value): Value {
  const h = levels(graph, network, stem(graph, network, x), 'down');
  return head(graph, network, middle(graph, network, h));
}

/** Latent [B,g,g,z] -> image [B,H,W,3], about [-1, 1]: the middle, then levels from coarse to fine. */
export function pixelDecoder(graph: GraphBuilder, network: PixelNetwork, x: Value): Value {
  const h = middle(graph, network, stem(graph, network, x));
  return head(graph, network, levels(graph, network, h, 'up'));
}

import type { GraphBuilder, Value } from '../builder.js';
import type { PositionTable } from './position-table.js';
import { affine, transformerBlock } from './transformer-block.js';

/** The visual tower of OpenAI's CLIP (a ViT with a class token), without its projection. */
export interface ClipVision {
  readonly kind: 'clip';
  readonly prefix: string;
  readonly width: number;
  readonly patch: number;
  readonly layers: number;
  readonly heads: number;
  readonly hidden: number;
  readonly positions: PositionTable;
}

const EPSILON = 1e-5;

/** Image [B,H,W,3] -> patch tokens [B,L,width] after the last norm; the class token is dropped. */
export function clipVision(graph: GraphBuilder, vision: ClipVision, image: Value): Value {
  const { prefix, width, patch } = vision;
  const map = graph.conv2d(image, `${prefix}.conv1`, {
    out: width,
    kernel: patch,
    stride: patch,
    bias: false,
  });
  let x = graph.reshape(map, [map.shape[1] * map.shape[2], width]);
  x = graph.prependToken(x, `${prefix}.class_embedding`, [width]);
  x = graph.addTable(x, vision.positions.name, vision.positions.shape);
  x = graph.layerNorm(x, `${prefix}.ln_pre`, EPSILON);
  for (let i = 0; i < vision.layers; i++) {
    const block = `${prefix}.transformer.resblocks.${i}`;
    x = transformerBlock(
      graph,
      {
        heads: vision.heads,
        epsilon: EPSILON,
        activation: 'quick_gelu',
        hidden: vision.hidden,
        norm1: `${block}.ln_1`,
        qkv: { weight: `${block}.attn.in_proj_weight`, bias: `${block}.attn.in_proj_bias` },
        projection: affine(`${block}.attn.out_proj`),
        norm2: `${block}.ln_2`,
        expand: affine(`${block}.mlp.c_fc`),
        contract: affine(`${block}.mlp.c_proj`),
      },
      x,
    );
  }
  // The norm is per token, so the class token can go first.
  return graph.layerNorm(graph.sliceTokens(x, 1), `${prefix}.ln_post`, EPSILON);
}

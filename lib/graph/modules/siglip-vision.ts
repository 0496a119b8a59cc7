import type { GraphBuilder, Value } from '../builder.js';
import type { PositionTable } from './position-table.js';
import { affine, transformerBlock } from './transformer-block.js';

/** The vision model of SigLIP as far as it is used: `layers` blocks, no norm after them, no pooling head. */
export interface SiglipVision {
  readonly kind: 'siglip';
  readonly prefix: string;
  readonly width: number;
  readonly patch: number;
  /** Blocks that run: all but the checkpoint's last. */
  readonly layers: number;
  readonly heads: number;
  readonly hidden: number;
  readonly positions: PositionTable;
}

const EPSILON = 1e-6;

/** Image [B,H,W,3] as the tower wants it scaled -> patch tokens [B,L,width], the tower's `hidden_states[-2]`. */
export function siglipVision(graph: GraphBuilder, vision: SiglipVision, image: Value): Value {
  const { prefix, width, patch } = vision;
  const map = graph.conv2d(image, `${prefix}.embeddings.patch_embedding`, {
    out: width,
    kernel: patch,
    stride: patch,
  });
  let x = graph.reshape(map, [map.shape[1] * map.shape[2], width]);
  x = graph.addTable(x, vision.positions.name, vision.positions.shape);
  for (let i = 0; i < vision.layers; i++) {
    const block = `${prefix}.encoder.layers.${i}`;
    const qkv = ['q', 'k', 'v'].map((part) => `${block}.self_attn.${part}_proj`);
    x = transformerBlock(
      graph,
      {
        heads: vision.heads,
        epsilon: EPSILON,
        activation: 'gelu_tanh',
        hidden: vision.hidden,
        norm1: `${block}.layer_norm1`,
        qkv: { weight: qkv.map((part) => `${part}.weight`), bias: qkv.map((part) => `${part}.bias`) },
        projection: affine(`${block}.self_attn.out_proj`),
        norm2: `${block}.layer_norm2`,
        expand: affine(`${block}.mlp.fc1`),
        contract: affine(`${block}.mlp.fc2`),
      },
      x,
    );
  }
  return x;
}

import type { GraphBuilder, Value } from '../builder.js';
import type { PositionTable } from './position-table.js';
import { affine, transformerBlock } from './transformer-block.js';

/** The BEiT-style transformer that turns the semantic half of the codes into the teacher's features. */
export interface SemanticDecoder {
  readonly prefix: string;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly hidden: number;
  readonly positions: PositionTable;
}

const EPSILON = 1e-6;

/** Semantic map [B,g,g,d] -> tokens [B,g*g,width]; the class token is dropped. */
export function semanticDecoder(graph: GraphBuilder, decoder: SemanticDecoder, map: Value): Value {
  const { prefix, width } = decoder;
  let x = graph.reshape(map, [map.shape[1] * map.shape[2], map.shape[3]]);
  x = graph.linear(x, { ...affine(`${prefix}.patch_embed.proj`), out: width, pointwise: true });
  x = graph.prependToken(x, `${prefix}.cls_token`, [1, 1, width]);
  x = graph.addTable(x, decoder.positions.name, decoder.positions.shape);
  for (let i = 0; i < decoder.layers; i++) {
    const block = `${prefix}.blocks.${i}`;
    x = transformerBlock(
      graph,
      {
        heads: decoder.heads,
        epsilon: EPSILON,
        activation: 'gelu',
        hidden: decoder.hidden,
        norm1: `${block}.norm1`,
        // Keys have no bias.
        qkv: {
          weight: `${block}.attn.qkv.weight`,
          bias: [`${block}.attn.q_bias`, null, `${block}.attn.v_bias`],
        },
        projection: affine(`${block}.attn.proj`),
        norm2: `${block}.norm2`,
        expand: affine(`${block}.mlp.fc1`),
        contract: affine(`${block}.mlp.fc2`),
      },
      x,
    );
  }
  // The norm is per token, so the class token can go first.
  return graph.layerNorm(graph.sliceTokens(x, 1), `${prefix}.fc_norm`, EPSILON);
}

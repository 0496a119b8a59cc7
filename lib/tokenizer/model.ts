import { TokenFlowError } from '../errors.js';
import type { ClipVision } from '../graph/modules/clip-vision.js';
import type { GroupRule } from '../graph/modules/group-rule.js';
import { type PixelLevel, type PixelNetwork, resampling } from '../graph/modules/pixel-network.js';
import type { PositionTable } from '../graph/modules/position-table.js';
import type { SemanticDecoder } from '../graph/modules/semantic-decoder.js';
import type { SiglipVision } from '../graph/modules/siglip-vision.js';
import type { WeightShapes } from '../graph/ops.js';
import { type TokenFlowConfig, VARIANTS, type Variant } from './config.js';
import { resizePositionTable } from './position-resize.js';

/** A weight the graphs use that is computed from one of the checkpoint. */
export interface DerivedWeight {
  readonly from: string;
  readonly fromShape: readonly number[];
  compute(source: Float32Array): Float32Array;
}

/** Everything about a model that its graphs are built from. */
export interface Model {
  /** The configuration it was read with, complete: as good as the one beside the checkpoint. */
  readonly config: TokenFlowConfig;
  readonly imageSize: number;
  readonly outputSize: number;
  readonly scales: readonly number[];
  /** Side of the last scale. */
  readonly grid: number;
  /** Side the image is resized to for the pixel encoder; `imageSize` where no resize is needed. */
  readonly pixelSize: number;
  /** The two codebooks by name, `[K, d]` each: semantic, then pixel. */
  readonly codebooks: WeightShapes;
  readonly codebookSize: number;
  readonly semanticCodeDim: number;
  readonly pixelCodeDim: number;
  readonly semanticEncoder: ClipVision | SiglipVision;
  readonly pixelEncoder: PixelNetwork;
  readonly semanticDecoder: SemanticDecoder;
  readonly pixelDecoder: PixelNetwork;
  /** Channels between the pixel half of the codes and the pixel decoder. */
  readonly latentChannels: number;
  /** Width of what the semantic decoder gives: the teacher's feature space. */
  readonly semanticWidth: number;
  readonly derived: ReadonlyMap<string, DerivedWeight>;
}

const SEMANTIC_CODEBOOK = 'quantize.embedding_vqkd.weight';
const PIXEL_CODEBOOK = 'quantize.embedding_vqgan.weight';
const CLIP_POSITIONS = 'encoder_vqkd.positional_embedding';
const SIGLIP = 'encoder_vqkd.vision_model';
const SIGLIP_POSITIONS = `${SIGLIP}.embeddings.position_embedding.weight`;

function broken(message: string): TokenFlowError {
  return new TokenFlowError('ERR_TOKENFLOW_CHECKPOINT', message);
}

/** Reads sizes off the names and shapes of a state dict. */
class Sizes {
  constructor(private readonly shapes: WeightShapes) {}

  has(prefix: string): boolean {
    for (const name of this.shapes.keys()) if (name === prefix || name.startsWith(`${prefix}.`)) return true;
    return false;
  }

  /** One more than the largest N in names of the form prefix.N.… */
  count(prefix: string): number {
    let count = 0;
    for (const name of this.shapes.keys()) {
      if (!name.startsWith(`${prefix}.`)) continue;
      const index = Number.parseInt(name.slice(prefix.length + 1), 10);
      if (index >= count) count = index + 1;
    }
    return count;
  }

  /** The extent of one axis of the first tensor that is there; several names that tell the same may be offered. */
  extent(...places: [name: string, axis: number][]): number {
    for (const [name, axis] of places) {
      const shape = this.shapes.get(name);
      if (!shape) continue;
      if (axis < shape.length) return shape[axis];
      throw broken(
        `Expected a tensor of more than ${axis} axes for '${name}' but received one of shape [${shape.join(', ')}]`,
      );
    }
    throw broken(`The checkpoint lacks ${places.map(([name]) => `'${name}'`).join(' and ')}`);
  }
}

function readNetwork(sizes: Sizes, prefix: string, groups: GroupRule): PixelNetwork {
  const blocks = `${prefix}.conv_blocks`;
  const levels = Array.from({ length: sizes.count(blocks) }, (_, i): PixelLevel => {
    const level = `${blocks}.${i}`;
    return {
      channels: sizes.extent(
        [`${level}.res.0.conv2.weight`, 0],
        [`${level}.res.0.conv2.bias`, 0],
        [`${level}.res.0.norm2.weight`, 0],
      ),
      blocks: sizes.count(`${level}.res`),
      attention: sizes.has(`${level}.attn`),
      resample: sizes.has(`${level}.downsample`) || sizes.has(`${level}.upsample`),
    };
  });
  if (levels.length === 0)
    throw broken(`The checkpoint lacks '${blocks}.0', the first level of its pixel network`);
  return {
    prefix,
    stem: sizes.extent([`${prefix}.conv_in.weight`, 0], [`${prefix}.conv_in.bias`, 0]),
    levels,
    out: sizes.extent([`${prefix}.conv_out.weight`, 0], [`${prefix}.conv_out.bias`, 0]),
    groups,
  };
}

/** The side of a square position table of so many rows. */
function gridOf(name: string, rows: number): number {
  const side = Math.sqrt(rows);
  if (Number.isInteger(side) && side > 0) return side;
  throw broken(`Expected a square number of positions for '${name}' but received ${rows}`);
}

function readClip(sizes: Sizes, heads: number): ClipVision {
  const prefix = 'encoder_vqkd';
  const block = `${prefix}.transformer.resblocks`;
  const width = sizes.extent([`${prefix}.class_embedding`, 0], [`${prefix}.conv1.weight`, 0]);
  return {
    kind: 'clip',
    prefix,
    width,
    patch: sizes.extent([`${prefix}.conv1.weight`, 2]),
    layers: sizes.count(block),
    heads,
    hidden: sizes.extent([`${block}.0.mlp.c_fc.weight`, 0], [`${block}.0.mlp.c_fc.bias`, 0]),
    positions: { name: CLIP_POSITIONS, shape: [sizes.extent([CLIP_POSITIONS, 0]), width] },
  };
}

function readSiglip(sizes: Sizes, heads: number): SiglipVision {
  const block = `${SIGLIP}.encoder.layers`;
  const patches = `${SIGLIP}.embeddings.patch_embedding`;
  const width = sizes.extent([`${patches}.bias`, 0], [`${patches}.weight`, 0]);
  const layers = sizes.count(block);
  if (layers < 2)
    throw broken(
      `Expected at least 2 layers under '${block}', of which the last is not used, but received ${layers}`,
    );
  return {
    kind: 'siglip',
    prefix: SIGLIP,
    width,
    patch: sizes.extent([`${patches}.weight`, 2]),
    layers: layers - 1,
    heads,
    hidden: sizes.extent([`${block}.0.mlp.fc1.weight`, 0], [`${block}.0.mlp.fc1.bias`, 0]),
    positions: { name: SIGLIP_POSITIONS, shape: [sizes.extent([SIGLIP_POSITIONS, 0]), width] },
  };
}

function readSemanticDecoder(sizes: Sizes, heads: number): SemanticDecoder {
  const prefix = 'decoder_vqkd';
  const width = sizes.extent([`${prefix}.cls_token`, 2], [`${prefix}.fc_norm.weight`, 0]);
  return {
    prefix,
    width,
    layers: sizes.count(`${prefix}.blocks`),
    heads,
    hidden: sizes.extent([`${prefix}.blocks.0.mlp.fc1.weight`, 0], [`${prefix}.blocks.0.mlp.fc1.bias`, 0]),
    positions: { name: `${prefix}.pos_embed`, shape: [1, sizes.extent([`${prefix}.pos_embed`, 1]), width] },
  };
}

/** A table (with one leading row, a class token's) for another grid, noted in `derived`; itself when the grid is its own. */
function onGrid(table: PositionTable, grid: number, derived: Map<string, DerivedWeight>): PositionTable {
  const [rows, channels] = table.shape.slice(-2);
  const own = gridOf(table.name, rows - 1);
  if (own === grid) return table;
  const name = `${table.name}@${grid}x${grid}`;
  derived.set(name, {
    from: table.name,
    fromShape: table.shape,
    compute: (source) => resizePositionTable(source, { leading: 1, from: own, to: grid, channels }),
  });
  return { name, shape: [...table.shape.slice(0, -2), 1 + grid * grid, channels] };
}

/** The released variant that a state dict of these shapes is, run as the official inference scripts run it. */
function recogniseVariant(shapes: WeightShapes): Variant | undefined {
  if (shapes.get(CLIP_POSITIONS)?.join() === '197,768') return 'clipb-256';
  if (shapes.get(SIGLIP_POSITIONS)?.join() === '729,1152') return 'siglip';
  return undefined;
}

/**
 * Reads a model off the names and shapes of its state dict: widths, depths, block counts, levels, patch and code sizes.
 * @param config what shapes cannot tell; the released models are recognised without it
 * @throws TokenFlowError ERR_TOKENFLOW_CHECKPOINT
 */
export function readModel(shapes: WeightShapes, config?: TokenFlowConfig): Model {
  const sizes = new Sizes(shapes);
  if (!shapes.has(SEMANTIC_CODEBOOK) && !shapes.has(PIXEL_CODEBOOK)) {
    const some =
      [...shapes.keys()]
        .slice(0, 3)
        .map((name) => `'${name}'`)
        .join(', ') || 'no tensor at all';
    const wrapped = [...shapes.keys()].find((name) => name.endsWith(`.${SEMANTIC_CODEBOOK}`));
    const prefix = wrapped?.slice(0, -SEMANTIC_CODEBOOK.length);
    throw broken(
      `Not a TokenFlow checkpoint: expected tensors such as '${SEMANTIC_CODEBOOK}' but received ${some}` +
        (prefix ? `; save them without '${prefix}' (model.module.state_dict(), for instance)` : ''),
    );
  }
  const recognised = recogniseVariant(shapes);
  const settings = config ?? (recognised && VARIANTS[recognised]);
  if (!settings) {
    throw broken(
      'This is none of the released models, so its scales and heads must be told: put a config.json beside the checkpoint or pass `config`',
    );
  }

  const rule = settings.groupNorm ?? { groups: 32 };
  const groups: GroupRule = (channels) =>
    Math.min(rule.groups, Math.floor(channels / (rule.minChannelsPerGroup ?? 1)));
  const pixelEncoder = readNetwork(sizes, 'encoder', groups);
  const pixelDecoder = readNetwork(sizes, 'decoder', groups);
  const siglip = sizes.has(SIGLIP);
  if (siglip !== (settings.teacher === 'siglip_384')) {
    throw broken(
      `The configuration says teacher '${settings.teacher}' but the checkpoint holds a ${siglip ? 'SigLIP' : 'CLIP'} encoder; use a configuration of the '${siglip ? 'siglip_384' : 'clipb_224'}' teacher`,
    );
  }
  const semanticEncoder = siglip
    ? readSiglip(sizes, settings.semanticEncoderHeads)
    : readClip(sizes, settings.semanticEncoderHeads);
  const semanticDecoder = readSemanticDecoder(sizes, settings.semanticDecoderHeads);
  const semanticCodeDim = sizes.extent([SEMANTIC_CODEBOOK, 1]);
  const pixelCodeDim = sizes.extent([PIXEL_CODEBOOK, 1]);
  const codebookSize = sizes.extent([SEMANTIC_CODEBOOK, 0]);
  for (const [field, told] of Object.entries({ semanticCodeDim, pixelCodeDim, codebookSize })) {
    const said = settings[field as 'codebookSize'];
    if (said !== undefined && said !== told) {
      throw broken(`The configuration says ${field} ${said} but the checkpoint's codebooks have ${told}`);
    }
  }

  const { imageSize, scales } = settings;
  const grid = scales[scales.length - 1];
  const patches = Math.floor(imageSize / semanticEncoder.patch);
  if (patches !== grid) {
    throw broken(
      `An image of ${imageSize} px has ${patches}x${patches} patches of ${semanticEncoder.patch} px, but the last scale is ${grid}; imageSize and scales must agree`,
    );
  }
  const pixelSize = grid * resampling(pixelEncoder);
  const derived = new Map<string, DerivedWeight>();
  let encoder = semanticEncoder;
  let trainedImageSize = imageSize;
  if (semanticEncoder.kind === 'clip') {
    if (pixelSize !== imageSize) {
      throw broken(
        `The pixel encoder turns ${imageSize} px into ${imageSize / resampling(pixelEncoder)} positions a side, but the last scale is ${grid}; imageSize and scales must agree`,
      );
    }
    trainedImageSize = gridOf(CLIP_POSITIONS, semanticEncoder.positions.shape[0] - 1) * semanticEncoder.patch;
    if (settings.trainedImageSize !== undefined && settings.trainedImageSize !== trainedImageSize) {
      throw broken(
        `The configuration says trainedImageSize ${settings.trainedImageSize} but the position table is for ${trainedImageSize} px`,
      );
    }
    encoder = { ...semanticEncoder, positions: onGrid(semanticEncoder.positions, grid, derived) };
  } else if (semanticEncoder.positions.shape[0] !== grid * grid) {
    const own = gridOf(SIGLIP_POSITIONS, semanticEncoder.positions.shape[0]);
    throw broken(
      `The SigLIP position table is for a ${own}x${own} grid and is never resized, but the last scale is ${grid}`,
    );
  }

  const outputSize = settings.outputSize ?? imageSize;
  return {
    config: { ...settings, trainedImageSize, codebookSize, semanticCodeDim, pixelCodeDim, outputSize },
    imageSize,
    outputSize,
    scales,
    grid,
    pixelSize,
    codebooks: new Map([
      [SEMANTIC_CODEBOOK, [codebookSize, semanticCodeDim]],
      [PIXEL_CODEBOOK, [codebookSize, pixelCodeDim]],
    ]),
    codebookSize,
    semanticCodeDim,
    pixelCodeDim,
    semanticEncoder: encoder,
    pixelEncoder,
    semanticDecoder: { ...semanticDecoder, positions: onGrid(semanticDecoder.positions, grid, derived) },
    pixelDecoder,
    latentChannels: sizes.extent(['post_quant_conv.weight', 0], ['post_quant_conv.bias', 0]),
    semanticWidth: sizes.extent(['decode_task_layer.2.weight', 0], ['decode_task_layer.2.bias', 0]),
    derived,
  };
}

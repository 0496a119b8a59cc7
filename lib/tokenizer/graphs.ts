import { type BuiltGraph, GraphBuilder, type Value } from '../graph/builder.js';
import { clipVision } from '../graph/modules/clip-vision.js';
import { pixelDecoder, pixelEncoder } from '../graph/modules/pixel-network.js';
import { semanticDecoder } from '../graph/modules/semantic-decoder.js';
import { siglipVision } from '../graph/modules/siglip-vision.js';
import { taskLayer } from '../graph/modules/task-layer.js';
import { affine } from '../graph/modules/transformer-block.js';
import { tokenCount } from './config.js';
import type { Model } from './model.js';

/** How images cross the border: bytes 0..255, or float32 about [-1, 1]; both NHWC. */
export type ImageType = 'u8' | 'f32';

/**
 * `image` [B,S,S,3] -> `tokens` [B,T] and `features` [B,g,g,D], the sum over scales.
 * With `latents` also what the quantiser is given: `semanticLatent` and `pixelLatent`, for comparing implementations.
 */
export function encodeGraph(
  model: Model,
  batch: number,
  { image, latents = false }: { image: ImageType; latents?: boolean },
): BuiltGraph {
  const graph = new GraphBuilder(batch);
  const { imageSize, pixelSize, grid } = model;
  const given = graph.input('image', [imageSize, imageSize, 3], image);
  const x = image === 'u8' ? graph.pixelsToFloat(given) : given;

  const vision = model.semanticEncoder;
  const patches =
    vision.kind === 'clip'
      ? clipVision(graph, vision, x) // takes [-1, 1] as it is, without CLIP's mean and deviation
      : siglipVision(graph, vision, graph.scaleInput(x, 'scaling_layer'));
  const semantic = graph.reshape(taskLayer(graph, 'encode_task_layer', patches, model.semanticCodeDim), [
    grid,
    grid,
    model.semanticCodeDim,
  ]);

  const resized = pixelSize === imageSize ? x : graph.resizeBicubic(x, pixelSize);
  const pixel = graph.linear(pixelEncoder(graph, model.pixelEncoder, resized), {
    ...affine('quant_conv'),
    out: model.pixelCodeDim,
    pointwise: true,
  });

  const { tokens, sum } = graph.multiscaleEncode(
    graph.concatChannels([semantic, pixel]),
    model.codebooks,
    model.scales,
  );
  graph.output('tokens', tokens);
  graph.output('features', sum);
  if (latents) {
    graph.output('semanticLatent', semantic);
    graph.output('pixelLatent', pixel);
  }
  return graph.build();
}

/** `tokens` of the first `scaleCount` scales -> the sum of their codes [B,g,g,D]. */
function gatherCodes(graph: GraphBuilder, model: Model, scaleCount: number): Value {
  const scales = model.scales.slice(0, scaleCount);
  const tokens = graph.input('tokens', [tokenCount(scales)], 'i32');
  return graph.multiscaleDecode(tokens, model.codebooks, scales, model.grid);
}

/** `tokens` [B,T] -> `image` [B,S,S,3]. */
export function decodeGraph(model: Model, batch: number, scaleCount: number, image: ImageType): BuiltGraph {
  const graph = new GraphBuilder(batch);
  const codes = gatherCodes(graph, model, scaleCount);
  const latent = graph.linear(graph.sliceChannels(codes, model.semanticCodeDim, model.pixelCodeDim), {
    ...affine('post_quant_conv'),
    out: model.latentChannels,
    pointwise: true,
  });
  const decoded = pixelDecoder(graph, model.pixelDecoder, latent);
  const sized =
    decoded.shape[1] === model.outputSize ? decoded : graph.resizeBicubic(decoded, model.outputSize);
  graph.output('image', image === 'u8' ? graph.floatToPixels(sized) : sized);
  return graph.build();
}

/** `tokens` [B,T] -> `semantic` [B,g*g,C], in the teacher's feature space. */
export function semanticGraph(model: Model, batch: number, scaleCount: number): BuiltGraph {
  const graph = new GraphBuilder(batch);
  const codes = gatherCodes(graph, model, scaleCount);
  const map = graph.sliceChannels(codes, 0, model.semanticCodeDim);
  const tokens = semanticDecoder(graph, model.semanticDecoder, map);
  graph.output('semantic', taskLayer(graph, 'decode_task_layer', tokens, model.semanticWidth));
  return graph.build();
}

/** `tokens` [B,T] -> `features` [B,g,g,D]: what both decoders, and a multimodal language model, read. */
export function featuresGraph(model: Model, batch: number, scaleCount: number): BuiltGraph {
  const graph = new GraphBuilder(batch);
  graph.output('features', gatherCodes(graph, model, scaleCount));
  return graph.build();
}

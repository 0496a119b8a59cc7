import { readFileSync } from 'node:fs';
import { describe, nearestName, TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';

/**
 * What the shapes of a checkpoint cannot tell: the form of `config.json` beside the weights.
 *
 * `codebookSize`, `semanticCodeDim`, `pixelCodeDim` and `trainedImageSize` are told by shapes as well; where they are
 * given they must agree.
 */
export interface TokenFlowConfig {
  /** Whose features the semantic branch was trained on; names the layout of the semantic encoder. */
  teacher: 'clipb_224' | 'siglip_384';
  /** Side of the square input, in pixels. */
  imageSize: number;
  /** Side at which the position tables were trained (`clipb_224` only); another `imageSize` has them resized. */
  trainedImageSize?: number;
  /** Sides of the grids, coarse to fine; the last is the grid both branches work on. */
  scales: readonly number[];
  codebookSize?: number;
  semanticCodeDim?: number;
  pixelCodeDim?: number;
  semanticEncoderHeads: number;
  semanticDecoderHeads: number;
  /** Side of the decoded image, in pixels; `imageSize` when absent. */
  outputSize?: number;
  /** Groups of every GroupNorm: min(groups, channels / minChannelsPerGroup). 32 when absent. */
  groupNorm?: { groups: number; minChannelsPerGroup?: number };
}

/** A released model and the size it is run at. */
export type Variant = 'clipb' | 'clipb-256' | 'siglip';

const clipbScales = [1, 2, 4, 6, 8, 10, 12, 14];

/** The released models' configurations, as the official inference scripts set them. */
export const VARIANTS: Readonly<Record<Variant, TokenFlowConfig>> = {
  clipb: {
    teacher: 'clipb_224',
    imageSize: 224,
    trainedImageSize: 224,
    scales: clipbScales,
    semanticEncoderHeads: 12,
    semanticDecoderHeads: 12,
    outputSize: 224,
  },
  'clipb-256': {
    teacher: 'clipb_224',
    imageSize: 256,
    trainedImageSize: 224,
    scales: [...clipbScales, 16],
    semanticEncoderHeads: 12,
    semanticDecoderHeads: 12,
    outputSize: 256,
  },
  siglip: {
    teacher: 'siglip_384',
    imageSize: 384,
    trainedImageSize: 384,
    scales: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 22, 27],
    semanticEncoderHeads: 16,
    semanticDecoderHeads: 12,
    outputSize: 384,
  },
};

/** Tokens of the first `count` scales (all when absent). */
export function tokenCount(scales: readonly number[], count = scales.length): number {
  return scales.slice(0, count).reduce((sum, side) => sum + side * side, 0);
}

/** How many of the first scales have so many tokens; 0 when no number of them has. */
export function scaleCountOf(scales: readonly number[], tokens: number): number {
  return scales.findIndex((_, i) => tokenCount(scales, i + 1) === tokens) + 1;
}

const FIELDS = [
  'teacher',
  'imageSize',
  'trainedImageSize',
  'scales',
  'codebookSize',
  'semanticCodeDim',
  'pixelCodeDim',
  'semanticEncoderHeads',
  'semanticDecoderHeads',
  'outputSize',
  'groupNorm',
] as const;

const isCount = (value: unknown): value is number => Number.isInteger(value) && (value as number) > 0;

/**
 * Checks a configuration. Fields it does not know are passed over, unless they look like a misspelling of a known one.
 * @param where what the configuration is called in an error message
 * @throws TokenFlowError ERR_TOKENFLOW_FORMAT
 */
export function checkConfig(value: unknown, where: string): TokenFlowConfig {
  const fail = (field: string, expected: string, received: unknown) =>
    new TokenFlowError(
      'ERR_TOKENFLOW_FORMAT',
      `${where}: expected ${expected} for '${field}' but received ${describe(received)}`,
    );
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_FORMAT',
      `${where}: expected an object but received ${describe(value)}`,
    );
  }
  const config = value as Record<string, unknown>;
  for (const field of Object.keys(config)) {
    if ((FIELDS as readonly string[]).includes(field)) continue;
    const meant = nearestName(field, FIELDS);
    if (meant && !(meant in config)) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_FORMAT',
        `${where}: unknown field '${field}'; did you mean '${meant}'?`,
      );
    }
  }
  if (config.teacher !== 'clipb_224' && config.teacher !== 'siglip_384') {
    throw fail('teacher', "'clipb_224' or 'siglip_384'", config.teacher);
  }
  const { scales, groupNorm } = config;
  const rising =
    Array.isArray(scales) &&
    scales.length > 0 &&
    scales.every((s, i) => isCount(s) && (i === 0 || s > scales[i - 1]));
  if (!rising) throw fail('scales', 'a list of rising whole numbers', scales);
  for (const field of ['imageSize', 'semanticEncoderHeads', 'semanticDecoderHeads'] as const) {
    if (!isCount(config[field])) throw fail(field, 'a whole number over 0', config[field]);
  }
  for (const field of [
    'trainedImageSize',
    'codebookSize',
    'semanticCodeDim',
    'pixelCodeDim',
    'outputSize',
  ] as const) {
    if (config[field] !== undefined && !isCount(config[field])) {
      throw fail(field, 'a whole number over 0', config[field]);
    }
  }
  if (groupNorm !== undefined) {
    const rule = groupNorm as { groups?: unknown; minChannelsPerGroup?: unknown } | null;
    const minimum = rule?.minChannelsPerGroup;
    if (!isCount(rule?.groups) || (minimum !== undefined && !isCount(minimum))) {
      throw fail('groupNorm', '{ groups, minChannelsPerGroup? } of whole numbers over 0', groupNorm);
    }
  }
  return config as unknown as TokenFlowConfig;
}

/**
 * Reads a `config.json`.
 * @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT
 */
export function readConfig(path: string): TokenFlowConfig {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw systemError('read', path, cause);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new TokenFlowError('ERR_TOKENFLOW_FORMAT', `${path} is not JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  return checkConfig(value, path);
}

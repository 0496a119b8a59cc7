import type Sharp from 'sharp';
import { TokenFlowError } from '../errors.js';

let loaded: typeof Sharp | undefined;

/**
 * The optional package sharp (libvips), loaded when an image is first decoded or encoded.
 *
 * @throws TokenFlowError `ERR_TOKENFLOW_IMAGE` when it is not installed, with what to type.
 */
export function loadSharp(): typeof Sharp {
  try {
    loaded ??= require('sharp') as typeof Sharp;
    return loaded;
  } catch (cause) {
    const reason = (cause as Error).message.trim().split('\n')[0];
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IMAGE',
      `Reading and writing image files needs the optional package sharp, which could not be loaded (${reason}). ` +
        'Install it: npm install sharp. Raw pixels { data, width, height }, tensors and tokens work without it',
      { cause },
    );
  }
}

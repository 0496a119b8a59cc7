import { existsSync, readFileSync, statSync } from 'node:fs';
import * as path from 'node:path';
import { nearestName, TokenFlowError } from '../errors.js';
import { checkConfig, readConfig, type TokenFlowConfig, VARIANTS, type Variant } from './config.js';
import type { LoadOptions } from './types.js';

function unknownVariant(asked: string): TokenFlowError {
  const known = Object.keys(VARIANTS);
  const hint = nearestName(asked, known);
  return new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Unknown variant '${asked}'${hint ? `; did you mean '${hint}'?` : '.'} Known variants: ${known.join(', ')}; or name a config.json`,
  );
}

/** The configuration asked for, or the one beside the checkpoint. */
export function findConfig(asked?: LoadOptions['config'], checkpoint?: string): TokenFlowConfig | undefined {
  if (typeof asked === 'string') {
    if (Object.hasOwn(VARIANTS, asked)) return VARIANTS[asked as Variant];
    if (!existsSync(asked) && !/[./\\]/.test(asked)) throw unknownVariant(asked);
    return readConfig(asked);
  }
  if (asked !== undefined) return checkConfig(asked, 'config');
  if (checkpoint === undefined) return undefined;
  const folder = statSync(checkpoint).isDirectory() ? checkpoint : path.dirname(checkpoint);
  const beside = path.join(folder, 'config.json');
  // Weights are often kept beside another library's config.json; one without a teacher is not about this model.
  if (!existsSync(beside) || !readFileSync(beside, 'utf8').includes('"teacher"')) return undefined;
  return readConfig(beside);
}

import { existsSync, readFileSync, statSync } from 'node:fs';
import * as path from 'node:path';
import { checkConfig, readConfig, type TokenFlowConfig, VARIANTS, type Variant } from './config.js';
import type { LoadOptions } from './types.js';

/** The configuration asked for, or the one beside the checkpoint. */
export function findConfig(asked?: LoadOptions['config'], checkpoint?: string): TokenFlowConfig | undefined {
  if (typeof asked === 'string') {
    return Object.hasOwn(VARIANTS, asked) ? VARIANTS[asked as Variant] : readConfig(asked);
  }
  if (asked !== undefined) return checkConfig(asked, 'config');
  if (checkpoint === undefined) return undefined;
  const folder = statSync(checkpoint).isDirectory() ? checkpoint : path.dirname(checkpoint);
  const beside = path.join(folder, 'config.json');
  // Weights are often kept beside another library's config.json; one without a teacher is not about this model.
  if (!existsSync(beside) || !readFileSync(beside, 'utf8').includes('"teacher"')) return undefined;
  return readConfig(beside);
}

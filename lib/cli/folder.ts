import { mkdirSync } from 'node:fs';
import { TokenFlowError } from '../errors.js';

/** Makes a folder for results. */
export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IO',
      `Cannot make the folder ${folder}: ${(cause as Error).message}`,
      {
        cause,
      },
    );
  }
}

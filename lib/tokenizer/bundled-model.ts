import * as path from 'node:path';
import { packageRoot } from '../native.js';

/**
 * Folder of the model that comes with the package: small, 128 px, for trying things out (its README has what it can do).
 * For `TokenFlow.load`.
 */
export const BUNDLED_MODEL: string = path.join(packageRoot(), 'models', 'tokenflow-tiny');

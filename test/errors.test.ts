import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { ERROR_CODES } from '../lib/errors.js';
import { packageRoot } from '../lib/native.js';

describe('error codes', () => {
  it('are all explained in docs/errors.md, and no others', () => {
    const text = readFileSync(path.join(packageRoot(), 'docs', 'errors.md'), 'utf8');
    const rows = [...text.matchAll(/^\| `(ERR_TOKENFLOW_\w+)` \| (.+) \| (.+) \|$/gm)];
    assert.deepEqual(rows.map(([, code]) => code).sort(), [...ERROR_CODES].sort());
    for (const [, code, when, what] of rows) assert.ok(when.length > 20 && what.length > 20, code);
  });
});

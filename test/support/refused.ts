import assert from 'node:assert/strict';
import { TokenFlowError } from '../../lib/codebook/index.js';

/** For assert.throws and assert.rejects: a TokenFlowError of that code whose message matches. */
export const refused =
  (message: RegExp, code = 'ERR_TOKENFLOW_INVALID_ARGUMENT') =>
  (error: unknown): true => {
    assert.ok(error instanceof TokenFlowError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };

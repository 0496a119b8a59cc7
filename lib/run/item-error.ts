import type { TokenFlowError } from '../errors.js';

/** An image that has no tokens, as in `errors.jsonl`. */
export interface ItemError {
  id: string;
  code: string;
  message: string;
}

/**
 * What is recorded of an image that has no tokens: the same text in every run. The words of others that a message quotes in
 * brackets, those of its cause, are left out: the image library has one buffer of errors for all images that are decoded at a
 * time, and other versions of Node.js say other things of JSON.
 */
export function itemError(id: string, { code, message, cause }: TokenFlowError): ItemError {
  if (!(cause instanceof Error)) return { id, code, message };
  const lines = cause.message.split('\n').map((line) => line.trim().replace(/:$/, ''));
  const quoted = [...lines, cause.message].filter((line) => line !== '').map((line) => ` (${line})`);
  return { id, code, message: quoted.reduce((text, words) => text.replace(words, () => ''), message) };
}

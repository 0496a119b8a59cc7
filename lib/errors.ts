/** Stable codes of every error this package throws; docs/errors.md says when and what to do. */
export const ERROR_CODES = [
  'ERR_TOKENFLOW_NATIVE_LOAD',
  'ERR_TOKENFLOW_INVALID_ARGUMENT',
  'ERR_TOKENFLOW_DISPOSED',
  'ERR_TOKENFLOW_CHECKPOINT',
  'ERR_TOKENFLOW_IMAGE',
  'ERR_TOKENFLOW_FORMAT',
  'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
  'ERR_TOKENFLOW_OUT_OF_MEMORY',
  'ERR_TOKENFLOW_IO',
  'ERR_TOKENFLOW_INTERNAL',
] as const;

/** One of `ERROR_CODES`. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** The error of this package: `code` is stable, `message` says what was expected, what came and what to do. */
export class TokenFlowError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'TokenFlowError';
    this.code = code;
  }
}

/** How a received value reads in an error message: short, with its type. */
export function describe(value: unknown): string {
  if (typeof value === 'string')
    return `'${value.length > 60 ? `${value.slice(0, 57)}...` : value}' (a string)`;
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') {
    return `${value} (a ${typeof value})`;
  }
  if (value === null || value === undefined) return String(value);
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name} of ${value.byteLength} bytes`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'function') return 'a function';
  return `an object (${(value as object).constructor?.name ?? 'no prototype'})`;
}

/** Expected X for Y but received Z. */
export function invalidArgument(name: string, expected: string, received: unknown): TokenFlowError {
  return new TokenFlowError(
    'ERR_TOKENFLOW_INVALID_ARGUMENT',
    `Expected ${expected} for ${name} but received ${describe(received)}`,
  );
}

/** Levenshtein distance, for nearest-name hints. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}

/** The known name closest to `name`, when it is close enough to be a misspelling. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((k) => ({ k, distance: editDistance(name.toLowerCase(), k.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  return ranked.length > 0 && ranked[0].distance <= Math.max(2, name.length / 3) ? ranked[0].k : undefined;
}

/** Rejects unknown option names, with the nearest known one as a hint. */
export function checkOptions(where: string, options: object | undefined, known: readonly string[]): void {
  if (options === undefined) return;
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`the options of ${where}`, 'an object', options);
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const hint = nearestName(key, known);
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Unknown option '${key}' for ${where}${hint ? `; did you mean '${hint}'?` : '.'} Known options: ${known.join(', ')}`,
    );
  }
}

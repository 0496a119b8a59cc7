/** Which part of a checkpoint is the weights, and whether they are the ones that were expected. */
import { TokenFlowError } from '../errors.js';
import { Inert } from './pickle.js';
import type { ByteSource } from './source.js';
import type { TensorInfo } from './stored-tensor.js';

/** Where the state dict was: under a key of the outermost dict, or bare. */
export type Wrapper = 'ema' | 'model' | 'state_dict' | 'bare';

const WRAPPERS = ['ema', 'model', 'state_dict'] as const;

/**
 * The state dict in an unpickled checkpoint: the first of `ema`, `model` and `state_dict` that is a dict with a tensor in
 * it, else the outermost dict itself.
 */
export function selectStateDict(
  source: ByteSource,
  root: unknown,
  isTensor: (value: unknown) => boolean,
): { wrapper: Wrapper; entries: Map<unknown, unknown> } {
  const isStateDict = (value: unknown): value is Map<unknown, unknown> =>
    value instanceof Map && [...value.values()].some(isTensor);
  if (root instanceof Map) {
    for (const wrapper of WRAPPERS) {
      const entries = root.get(wrapper);
      if (isStateDict(entries)) return { wrapper, entries };
    }
    if (isStateDict(root)) return { wrapper: 'bare', entries: root };
    const keys = [...root.keys()]
      .slice(0, 5)
      .map((key) => (typeof key === 'string' ? `'${key.slice(0, 60)}'` : `a ${typeof key}`));
    throw source.broken(
      `expected a state dict under 'ema', 'model' or 'state_dict', or at the top; found a dict with ` +
        (keys.length > 0
          ? `the keys ${keys.join(', ')}${root.size > 5 ? ', …' : ''} and no tensors there`
          : 'no keys'),
    );
  }
  let found = 'something else';
  if (root instanceof Inert) found = `an object of class ${root.className.slice(0, 120)}`;
  else if (isTensor(root)) found = 'a single tensor';
  else if (Array.isArray(root)) found = 'a list';
  throw source.broken(
    `expected a dict of tensors, found ${found}. Save the weights alone: torch.save(model.state_dict(), path)`,
  );
}

/** Most names listed of each kind of mismatch. */
const NAMES_SHOWN = 3;

/**
 * Throws `ERR_TOKENFLOW_CHECKPOINT` unless `found` holds exactly the `expected` tensors with their shapes. The message
 * counts what is missing, extra and misshapen and shows the first few of each.
 *
 * @param path how the message calls the checkpoint
 * @param ignore names that may be extra without harm
 */
export function compareKeys(
  path: string,
  expected: ReadonlyMap<string, readonly number[]>,
  found: ReadonlyMap<string, Pick<TensorInfo, 'shape'>>,
  ignore: (name: string) => boolean = () => false,
): void {
  const missing: string[] = [];
  const misshapen: string[] = [];
  for (const [name, shape] of expected) {
    const tensor = found.get(name);
    if (!tensor) missing.push(`'${name}' [${shape.join(', ')}]`);
    else if (
      tensor.shape.length !== shape.length ||
      shape.some((size, axis) => size !== tensor.shape[axis])
    ) {
      misshapen.push(`'${name}' expected [${shape.join(', ')}], found [${tensor.shape.join(', ')}]`);
    }
  }
  const extra = [...found]
    .filter(([name]) => !expected.has(name) && !ignore(name))
    .map(([name, { shape }]) => `'${name}' [${shape.join(', ')}]`);
  if (missing.length + extra.length + misshapen.length === 0) return;

  const lines = [
    `${path} does not hold the expected ${expected.size} tensors: ` +
      `${missing.length} missing, ${extra.length} extra, ${misshapen.length} misshapen.`,
  ];
  for (const [kind, names] of Object.entries({ missing, extra, misshapen })) {
    if (names.length === 0) continue;
    const rest = names.length > NAMES_SHOWN ? `; and ${names.length - NAMES_SHOWN} more` : '';
    lines.push(`  ${kind}: ${names.slice(0, NAMES_SHOWN).join('; ')}${rest}`);
  }
  const prefix = commonPrefix(expected, found);
  if (prefix)
    lines.push(
      `  Every name begins with '${prefix}': save it without (model.module.state_dict(), for instance).`,
    );
  throw new TokenFlowError('ERR_TOKENFLOW_CHECKPOINT', lines.join('\n'));
}

/** A first name part that every found tensor has and without which one of them is expected: a wrapper's, most often. */
function commonPrefix(
  expected: ReadonlyMap<string, unknown>,
  found: ReadonlyMap<string, unknown>,
): string | undefined {
  const [first] = found.keys();
  const prefix = first?.slice(0, first.indexOf('.') + 1);
  if (!prefix || ![...found.keys()].every((name) => name.startsWith(prefix))) return undefined;
  return expected.has(first.slice(prefix.length)) ? prefix : undefined;
}

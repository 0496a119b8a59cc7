/**
 * What a name in a PyTorch pickle may become.
 *
 * Three answers, and no fourth: a short list of constructors that make tensors, storages, ordered dicts and plain values;
 * an error for names whose only use in a pickle is an attack; `Inert` for every other class. Nothing is ever imported or
 * executed in any case: the list of dangerous names exists to tell the user what kind of file this is.
 */
import type { Dtype } from './dtype.js';
import { Constructor, Inert } from './pickle.js';

/** `torch.float32` and its like. */
export class TorchDtype {
  constructor(readonly dtype: Dtype) {}
}

/** A storage class: `torch.FloatStorage`; without a type for `torch.storage.UntypedStorage`, which counts bytes. */
export class StorageType {
  constructor(readonly dtype?: Dtype) {}
}

/** A tensor as the pickle describes it: nothing in it has been checked. */
export class TensorRecord {
  constructor(
    readonly storage: unknown,
    readonly offset: unknown,
    readonly shape: unknown,
    readonly strides: unknown,
    /** Given by `_rebuild_tensor_v3`, whose storages have no type. */
    readonly dtype?: unknown,
  ) {}
}

const DTYPES: Readonly<Record<string, Dtype>> = {
  float64: 'F64',
  double: 'F64',
  float32: 'F32',
  float: 'F32',
  float16: 'F16',
  half: 'F16',
  bfloat16: 'BF16',
  int64: 'I64',
  long: 'I64',
  int32: 'I32',
  int: 'I32',
  int16: 'I16',
  short: 'I16',
  int8: 'I8',
  uint64: 'U64',
  uint32: 'U32',
  uint16: 'U16',
  uint8: 'U8',
  bool: 'BOOL',
};

const STORAGES: Readonly<Record<string, Dtype>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
};

const parameter = new Constructor('torch._utils._rebuild_parameter', ([data]) => data);

/** The only globals that make something. */
const KNOWN = new Map<string, unknown>([
  ['collections.OrderedDict', new Constructor('collections.OrderedDict', toMap)],
  ['collections.defaultdict', new Constructor('collections.defaultdict', () => new Map())],
  ['builtins.dict', new Constructor('builtins.dict', toMap)],
  ['__builtin__.dict', new Constructor('builtins.dict', toMap)],
  [
    'torch._utils._rebuild_tensor',
    new Constructor(
      'torch._utils._rebuild_tensor',
      (args) => new TensorRecord(args[0], args[1], args[2], args[3]),
    ),
  ],
  [
    'torch._utils._rebuild_tensor_v2',
    new Constructor(
      'torch._utils._rebuild_tensor_v2',
      (args) => new TensorRecord(args[0], args[1], args[2], args[3]),
    ),
  ],
  [
    'torch._utils._rebuild_tensor_v3',
    new Constructor(
      'torch._utils._rebuild_tensor_v3',
      (args) => new TensorRecord(args[0], args[1], args[2], args[3], args[6]),
    ),
  ],
  ['torch._utils._rebuild_parameter', parameter],
  ['torch._utils._rebuild_parameter_with_state', parameter],
  [
    'torch._tensor._rebuild_from_type_v2', // (function, class, its arguments, attributes)
    new Constructor('torch._tensor._rebuild_from_type_v2', ([rebuild, , args]) =>
      rebuild instanceof Constructor && Array.isArray(args) ? rebuild.make(args) : new Inert('torch.Tensor'),
    ),
  ],
  ['torch.Size', new Constructor('torch.Size', ([sizes]) => sizes)],
  ['torch.storage.UntypedStorage', new StorageType()],
  ['torch.UntypedStorage', new StorageType()],
  ...Object.entries(DTYPES).map(([name, dtype]): [string, unknown] => [
    `torch.${name}`,
    new TorchDtype(dtype),
  ]),
  ...Object.entries(STORAGES).flatMap(([name, dtype]): [string, unknown][] => [
    [`torch.${name}`, new StorageType(dtype)],
    [`torch.storage.${name}`, new StorageType(dtype)],
    [`torch.cuda.${name}`, new StorageType(dtype)],
  ]),
]);

/** `OrderedDict(...)` and `dict(...)`: of nothing, or of a list of pairs. */
function toMap([pairs]: unknown[]): Map<unknown, unknown> {
  const isPair = (pair: unknown): pair is [unknown, unknown] => Array.isArray(pair) && pair.length === 2;
  return new Map(Array.isArray(pairs) ? pairs.filter(isPair) : []);
}

/** Modules that run programs, code or other pickles, or reach the network: no checkpoint needs any of them. */
const DANGEROUS_MODULES: ReadonlySet<string> = new Set([
  ...[
    'os',
    'posix',
    'nt',
    'subprocess',
    '_posixsubprocess',
    'pty',
    'commands',
    'popen2',
    'shutil',
    'sys',
    'ctypes',
  ],
  ...[
    'importlib',
    'imp',
    'runpy',
    'pkgutil',
    'code',
    'codeop',
    'pdb',
    'bdb',
    'timeit',
    'cProfile',
    'profile',
    'trace',
  ],
  ...[
    'pickle',
    '_pickle',
    'cPickle',
    'dill',
    'cloudpickle',
    'joblib',
    'marshal',
    'shelve',
    'types',
    'operator',
  ],
  ...[
    '_operator',
    'multiprocessing',
    'asyncio',
    'webbrowser',
    'socket',
    '_socket',
    'http',
    'httplib',
    'urllib',
  ],
  ...[
    'urllib2',
    'requests',
    'ftplib',
    'smtplib',
    'telnetlib',
    'pip',
    'setuptools',
    'distutils',
    'ensurepip',
    'venv',
  ],
  ...['doctest', 'pydoc', 'idlelib', 'lib2to3', 'builtins', '__builtin__'],
]);

/** What those modules hold that only makes values: arguments and settings are made of them. */
const HARMLESS: ReadonlySet<string> = new Set([
  ...['builtins', '__builtin__'].flatMap((module) =>
    [
      'object',
      'type',
      'bool',
      'int',
      'long',
      'float',
      'complex',
      'str',
      'unicode',
      'bytes',
      'bytearray',
      'list',
    ]
      .concat('tuple', 'dict', 'set', 'frozenset', 'slice', 'range', 'xrange')
      .map((name) => `${module}.${name}`),
  ),
  'types.SimpleNamespace',
  'types.MappingProxyType',
]);

/** Attributes through which a dotted name reaches any other module. */
const DANGEROUS_ATTRIBUTES: ReadonlySet<string> = new Set(['__globals__', '__builtins__', '__subclasses__']);

/** Whether `module.name` is a name that no honest checkpoint holds. Attributes of a dotted name count as modules. */
export function isDangerous(module: string, name: string): boolean {
  if (HARMLESS.has(`${module}.${name}`)) return false;
  const attributes = name.split('.');
  return (
    DANGEROUS_MODULES.has(module.split('.')[0]) ||
    attributes.slice(0, -1).some((part) => DANGEROUS_MODULES.has(part)) ||
    attributes.some((part) => DANGEROUS_ATTRIBUTES.has(part))
  );
}

/** The value of `module.name`, or undefined when it is dangerous. */
export function torchGlobal(module: string, name: string): unknown {
  const fullName = `${module}.${name}`;
  if (KNOWN.has(fullName)) return KNOWN.get(fullName);
  if (isDangerous(module, name)) return undefined;
  return new Inert(fullName);
}

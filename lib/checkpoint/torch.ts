/**
 * PyTorch checkpoints: the zip archives of `torch.save` since 1.6, and the older stream of pickles and raw storages.
 *
 * In both a pickle describes tensors as views (offset, sizes, strides) of numbered storages; they differ only in where a
 * storage's bytes lie. The chosen state dict's views become `StoredTensor`s, checked against their storages; everything
 * else in the pickle (optimizer, arguments, counters) has been passed over by then.
 */
import { describe } from '../errors.js';
import { DTYPE_BYTES, type Dtype, elementCount } from './dtype.js';
import { ByteReader, Inert, type PickleHooks, unpickle } from './pickle.js';
import { type ByteSource, checkRange, readRange } from './source.js';
import { selectStateDict, type Wrapper } from './state-dict.js';
import { CheckedRange, StoredTensor } from './stored-tensor.js';
import { StorageType, TensorRecord, TorchDtype, torchGlobal } from './torch-globals.js';
import { readZipDirectory, type ZipEntry } from './zip.js';

/** A state dict found in a PyTorch file. */
export interface TorchStateDict {
  wrapper: Wrapper;
  tensors: Map<string, StoredTensor>;
  /** Keys of the state dict that hold no dense tensor. */
  passedOver: string[];
}

/** A storage the pickle names; `size` in bytes as the pickle claims, `place` once it is known. */
class Storage {
  place?: { offset: number; checked?: CheckedRange };

  constructor(
    readonly key: string,
    readonly type: StorageType,
    readonly size: number,
  ) {}
}

/** An expanded view (stride 0) has more elements than its storage: up to this many bytes whatever the file's size. */
const LARGEST_EXPANSION = 1024 * 1024;

/** PyTorch's own limit is lower. */
const MOST_AXES = 64;

/** The storages of one file, made as its pickle names them. */
class Storages {
  readonly byKey = new Map<string, Storage>();

  constructor(readonly source: ByteSource) {}

  /** Resolves `('storage', class, key, location, size)`; a sixth value, from before PyTorch 0.4, is a view of it. */
  readonly persistent = (id: unknown): unknown => {
    if (!Array.isArray(id)) throw this.source.broken('the pickle refers to an object without a proper name');
    if (id[0] === 'module') return new Inert('module');
    const [kind, type, key, , count, view] = id;
    if (kind === 'storage' && type instanceof Inert) return type; // quantised or complex: of no harm unless it is wanted
    if (kind !== 'storage' || !(type instanceof StorageType) || typeof key !== 'string') {
      throw this.source.broken('the pickle refers to an object that is no storage');
    }
    if (view !== undefined && view !== null) {
      throw this.source.broken(
        'it holds views of storages, as PyTorch wrote before 0.4; save it again with a newer one',
      );
    }
    const size = typeof count === 'number' ? count * (type.dtype ? DTYPE_BYTES[type.dtype] : 1) : -1;
    if (!Number.isSafeInteger(size) || size < 0 || size > this.source.size) {
      throw this.source.broken(
        `storage '${key.slice(0, 60)}' claims ${describe(count)} elements, more than a file of ${this.source.size} bytes can hold`,
      );
    }
    const known = this.byKey.get(key);
    if (known) {
      if (known.size !== size) {
        throw this.source.broken(
          `storage '${key}' has ${known.size} bytes in one place and ${size} in another`,
        );
      }
      return known;
    }
    const storage = new Storage(key, type, size);
    this.byKey.set(key, storage);
    return storage;
  };
}

function hooks(source: ByteSource, persistent: PickleHooks['persistent']): PickleHooks {
  return {
    global(module, name) {
      const value = torchGlobal(module, name);
      if (value !== undefined) return value;
      throw source.broken(
        `it asks for '${`${module}.${name}`.slice(0, 120)}', which no checkpoint needs and which can run other programs. ` +
          'Nothing was executed. Do not load this file with anything else; get it from a source you trust.',
      );
    },
    persistent,
  };
}

/** Reads the structure of a zip checkpoint. */
export function openTorchZip(source: ByteSource, checksums: boolean): TorchStateDict {
  const entries = readZipDirectory(source);
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    const hint = [...entries.keys()].some((name) => name.endsWith('.npy'))
      ? ' It looks like a NumPy .npz archive.'
      : '';
    throw source.broken(
      `it is a zip archive but no PyTorch checkpoint: expected one 'data.pkl', found ${pickles.length}.${hint}`,
    );
  }
  const pickle = entries.get(pickles[0])!;
  const folder = pickle.name.slice(0, -'data.pkl'.length);
  const range = (entry: ZipEntry) =>
    checksums
      ? new CheckedRange(source, `'${entry.name}'`, entry.offset, entry.size, entry.crc32)
      : undefined;

  const byteOrder = entries.get(`${folder}byteorder`);
  if (byteOrder) {
    const text = Buffer.from(readRange(source, byteOrder.offset, Math.min(byteOrder.size, 16))).toString(
      'latin1',
    );
    if (text.trim() !== 'little') {
      throw source.broken(`its byte order is '${text.trim()}'; only little-endian checkpoints are read`);
    }
  }

  range(pickle)?.verify();
  const storages = new Storages(source);
  const reader = new ByteReader(source, pickle.offset, pickle.offset + pickle.size);
  const root = unpickle(reader, hooks(source, storages.persistent));
  return resolve(source, root, (storage) => {
    const entry = entries.get(`${folder}data/${storage.key}`);
    if (!entry) throw source.broken(`storage '${storage.key}' is missing from the archive`);
    if (entry.size !== storage.size) {
      throw source.broken(
        `storage '${storage.key}' has ${entry.size} bytes, but its tensors expect ${storage.size}; the file is damaged`,
      );
    }
    return { offset: entry.offset, checked: range(entry) };
  });
}

/** The first pickle of the older format is this number. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_PROTOCOL = 1001;

/** Whether the file begins with the older format's magic number, in any pickle protocol from 2 on. */
export function isTorchLegacy(head: Uint8Array): boolean {
  const magic = Buffer.from(LEGACY_MAGIC.toString(16), 'hex').reverse();
  return head[0] === 0x80 && Buffer.from(head).subarray(0, 32).includes(magic);
}

/** Reads the structure of a checkpoint from before PyTorch 1.6. */
export function openTorchLegacy(source: ByteSource): TorchStateDict {
  const reader = new ByteReader(source, 0, source.size);
  const storages = new Storages(source);
  const plain = hooks(source, () => {
    throw source.broken('its header refers to storages; it is damaged');
  });
  if (unpickle(reader, plain) !== LEGACY_MAGIC || unpickle(reader, plain) !== LEGACY_PROTOCOL) {
    throw source.broken('it does not begin with the magic number and protocol of torch.save; it is damaged');
  }
  const system = unpickle(reader, plain);
  if (!(system instanceof Map) || system.get('little_endian') !== true) {
    throw source.broken(
      'it was not written on a little-endian machine; only little-endian checkpoints are read',
    );
  }
  const root = unpickle(reader, hooks(source, storages.persistent));
  const keys = unpickle(reader, plain);
  if (!Array.isArray(keys)) throw source.broken('the list of its storages is damaged');

  let at = reader.position;
  for (const key of keys) {
    const storage = typeof key === 'string' ? storages.byKey.get(key) : undefined;
    if (!storage || storage.place)
      throw source.broken(
        'the list of its storages does not match its tensors, or names one of an unknown type',
      );
    const count = Number(Buffer.from(readRange(source, at, 8).buffer).readBigInt64LE(0));
    const size = count * (storage.type.dtype ? DTYPE_BYTES[storage.type.dtype] : 1);
    if (size !== storage.size) {
      throw source.broken(
        `storage '${key}' has ${size} bytes, but its tensors expect ${storage.size}; the file is damaged`,
      );
    }
    storage.place = { offset: at + 8 };
    checkRange(source, at + 8, size);
    at += 8 + size;
  }
  if (at !== source.size) {
    throw source.broken(`${source.size - at} bytes follow its last storage; the file is damaged`);
  }
  return resolve(source, root, (storage) => {
    if (!storage.place) throw source.broken(`storage '${storage.key}' is missing from the file`);
    return storage.place;
  });
}

function resolve(
  source: ByteSource,
  root: unknown,
  locate: (storage: Storage) => NonNullable<Storage['place']>,
): TorchStateDict {
  const { wrapper, entries } = selectStateDict(source, root, (value) => value instanceof TensorRecord);
  const tensors = new Map<string, StoredTensor>();
  const passedOver: string[] = [];
  for (const [key, value] of entries) {
    if (typeof key !== 'string') continue;
    if (value instanceof TensorRecord) tensors.set(key, toStoredTensor(source, key, value, locate));
    else passedOver.push(key);
  }
  return { wrapper, tensors, passedOver };
}

function toStoredTensor(
  source: ByteSource,
  key: string,
  record: TensorRecord,
  locate: (storage: Storage) => NonNullable<Storage['place']>,
): StoredTensor {
  const broken = (what: string) => source.broken(`tensor '${key.slice(0, 200)}' ${what}`);
  const { storage, offset, shape, strides } = record;
  if (storage instanceof Inert)
    throw broken(`has a ${storage.className.slice(0, 60)}, a type that is not supported`);
  if (!(storage instanceof Storage)) throw broken('has no storage');
  const dtype: Dtype | undefined =
    record.dtype instanceof TorchDtype ? record.dtype.dtype : storage.type.dtype;
  if (!dtype) throw broken('has an element type that is not supported');
  const count = Array.isArray(shape) ? elementCount(shape) : undefined;
  if (
    !Array.isArray(shape) ||
    !Array.isArray(strides) ||
    count === undefined ||
    shape.length !== strides.length ||
    shape.length > MOST_AXES
  ) {
    throw broken('has no proper shape; the file is damaged');
  }
  if (![offset, ...strides].every((step) => Number.isSafeInteger(step) && step >= 0)) {
    throw broken('has no proper offset or strides; the file is damaged');
  }
  const item = DTYPE_BYTES[dtype];
  const last = shape.reduce(
    (at: number, size: number, axis: number) => at + (size - 1) * strides[axis],
    offset,
  );
  if (count > 0 && !((last + 1) * item <= storage.size)) {
    throw broken(`reaches past its storage of ${storage.size} bytes; the file is damaged`);
  }
  if (count * item > Math.max(storage.size, LARGEST_EXPANSION)) {
    throw broken(
      `has shape [${shape}] but a storage of only ${storage.size} bytes: an expanded view that large is not read`,
    );
  }
  storage.place ??= locate(storage);
  const start = count > 0 ? storage.place.offset + (offset as number) * item : storage.place.offset;
  return new StoredTensor(source, dtype, shape, start, strides, storage.place.checked);
}

/**
 * Weights on disk, whatever their format: listed without being read, then read tensor by tensor. Knows no model.
 *
 * How the folder is built: `source` reads ranges; `zip`, `pickle`, `torch-globals`, `torch` and `safetensors` find where
 * tensors lie; `stored-tensor` and `dtype` get them out; this file chooses the format. `state-dict` compares with what a
 * model expects, `safetensors-writer` writes, `npy` is for tokens and arrays.
 *
 * Everything is synchronous: a tensor takes milliseconds, and a caller that must stay responsive yields between tensors.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { DTYPE_BYTES, type Dtype, fromFloat32, isFloating, toFloat32 } from './dtype.js';
import { isSafetensors, openSafetensors, openSafetensorsIndex } from './safetensors.js';
import { type TensorToWrite, writeSafetensors } from './safetensors-writer.js';
import { type ByteSource, openFile, readRange } from './source.js';
import type { Wrapper } from './state-dict.js';
import type { StoredTensor, TensorInfo } from './stored-tensor.js';
import { isTorchLegacy, openTorchLegacy, openTorchZip } from './torch.js';

export type CheckpointFormat = 'safetensors' | 'safetensors-sharded' | 'pytorch' | 'pytorch-legacy';

export interface CheckpointOptions {
  /**
   * Whether the CRC-32 of each PyTorch storage is checked when it is first read. On by default; off for files that were
   * saved with checksums switched off, and faster. safetensors and legacy files have none.
   */
  checksums?: boolean;
}

interface Content {
  format: CheckpointFormat;
  tensors: ReadonlyMap<string, StoredTensor>;
  sources: readonly ByteSource[];
  wrapper?: Wrapper;
  passedOver?: readonly string[];
  metadata?: Readonly<Record<string, string>>;
}

/** An open checkpoint. The file stays open until `close`; what was read stays valid after it. */
export class Checkpoint {
  readonly format: CheckpointFormat;
  /** Type, shape and size of each tensor, in the file's order. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Where in a PyTorch file the state dict was; `bare` for safetensors. */
  readonly wrapper: Wrapper;
  /** Keys of the state dict that hold no dense tensor (numbers, sparse or quantised tensors). */
  readonly passedOver: readonly string[];
  /** The `__metadata__` of safetensors. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly #tensors: ReadonlyMap<string, StoredTensor>;
  readonly #sources: readonly ByteSource[];

  /** @internal `path` is the file that was opened: the index, if sharded. */
  constructor(
    readonly path: string,
    { format, tensors, sources, wrapper = 'bare', passedOver = [], metadata = {} }: Content,
  ) {
    this.format = format;
    this.tensors = this.#tensors = tensors;
    this.#sources = sources;
    this.wrapper = wrapper;
    this.passedOver = passedOver;
    this.metadata = metadata;
  }

  /**
   * A tensor in float32, contiguous and row-major, whatever its type and strides in the file.
   *
   * @throws `ERR_TOKENFLOW_CHECKPOINT` for an unknown name, a file that became shorter, or a wrong checksum;
   *   `ERR_TOKENFLOW_DISPOSED` after `close`; `ERR_TOKENFLOW_IO`; `ERR_TOKENFLOW_OUT_OF_MEMORY`
   */
  read(name: string): Float32Array {
    return this.#tensor(name).read();
  }

  /**
   * As `read`, into `target`, whose length must be the tensor's element count. Whoever copies the weights on (packs them,
   * say) reads them all through one buffer this way: touching fresh memory takes longer than reading the file.
   */
  readInto(name: string, target: Float32Array): void {
    const tensor = this.#tensor(name);
    const count = tensor.shape.reduce((product, size) => product * size, 1);
    if (!(target instanceof Float32Array) || target.length !== count) {
      throw invalidArgument('target', `a Float32Array of ${count} elements`, target);
    }
    tensor.readInto(target);
  }

  /** A tensor's little-endian bytes, contiguous and row-major, in its own type. */
  readRaw(name: string): Uint8Array {
    return this.#tensor(name).readRaw();
  }

  /**
   * As `readRaw`, piece by piece: hands `take` the bytes in order, of whole elements each, valid until it returns.
   */
  stream(name: string, take: (bytes: Uint8Array) => void): void {
    this.#tensor(name).stream(take);
  }

  close(): void {
    for (const source of this.#sources) source.close();
  }

  #tensor(name: string): StoredTensor {
    const tensor = this.#tensors.get(name);
    if (tensor) return tensor;
    throw new TokenFlowError('ERR_TOKENFLOW_CHECKPOINT', `${this.path} holds no tensor '${name}'`);
  }
}

/**
 * Opens a checkpoint and lists its tensors, reading none.
 *
 * The format is told by content: PyTorch `.pt` (zip), PyTorch before 1.6 (`.pth`), safetensors, or a safetensors index
 * with its shards beside it. A folder stands for the one checkpoint in it.
 *
 * @throws `ERR_TOKENFLOW_IO` when the file cannot be opened, `ERR_TOKENFLOW_CHECKPOINT` when it is none or is broken
 */
export function openCheckpoint(fileOrFolder: string, options?: CheckpointOptions): Checkpoint {
  if (typeof fileOrFolder !== 'string' || fileOrFolder === '') {
    throw invalidArgument('the checkpoint', 'a path', fileOrFolder);
  }
  checkOptions('openCheckpoint', options, ['checksums']);
  const file = findFile(fileOrFolder);
  const source = openFile(file);
  try {
    return new Checkpoint(file, openContent(source, options?.checksums ?? true));
  } catch (error) {
    source.close();
    throw error;
  }
}

function openContent(source: ByteSource, checksums: boolean): Content {
  const head = readRange(source, 0, Math.min(source.size, 64));
  if (head[0] === 0x50 && head[1] === 0x4b) {
    return { format: 'pytorch', sources: [source], ...openTorchZip(source, checksums) };
  }
  if (isTorchLegacy(head)) return { format: 'pytorch-legacy', sources: [source], ...openTorchLegacy(source) };
  if (isSafetensors(head)) return { format: 'safetensors', sources: [source], ...openSafetensors(source) };
  if (head[0] === 0x7b) {
    const { shards, ...content } = openSafetensorsIndex(source);
    source.close();
    return { format: 'safetensors-sharded', sources: shards, ...content };
  }
  throw source.broken(
    `expected a PyTorch checkpoint or safetensors, found ${whatItLooksLike(source, Buffer.from(head))}`,
  );
}

/** What people put in a checkpoint's place by mistake. */
function whatItLooksLike(source: ByteSource, head: Buffer): string {
  const text = head.toString('latin1');
  if (source.size === 0) return 'an empty file';
  if (text.startsWith('version https://git-lfs'))
    return 'a Git LFS pointer: the weights were not fetched; run git lfs pull';
  if (/^\s*<(!doctype|html)/i.test(text)) return 'a web page: the download went wrong';
  if (text.startsWith('\x93NUMPY')) return 'a NumPy array';
  if (text.startsWith('\x89HDF')) return 'an HDF5 file; convert it to safetensors';
  if (text.startsWith('GGUF')) return 'a GGUF file; convert it to safetensors';
  if (head[0] === 0x80) return 'a Python pickle that torch.save did not write';
  return 'something else; the file may be damaged';
}

/** The checkpoint a path means: itself, or the only one in a folder. */
function findFile(fileOrFolder: string): string {
  let names: string[];
  try {
    if (!fs.statSync(fileOrFolder).isDirectory()) return fileOrFolder;
    names = fs.readdirSync(fileOrFolder).sort();
  } catch (cause) {
    throw systemError('open', fileOrFolder, cause);
  }
  const kinds = [
    /^model\.safetensors$/,
    /\.safetensors\.index\.json$/,
    /\.safetensors$/,
    /\.(pt|pth|bin|ckpt)$/,
  ];
  for (const kind of kinds) {
    const found = names.filter((name) => kind.test(name) && !name.startsWith('.'));
    if (found.length === 1) return path.join(fileOrFolder, found[0]);
    if (found.length > 1) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_CHECKPOINT',
        `${fileOrFolder} holds ${found.length} checkpoints (${found.slice(0, 3).join(', ')}${found.length > 3 ? ', …' : ''}); name one of them`,
      );
    }
  }
  throw new TokenFlowError(
    'ERR_TOKENFLOW_CHECKPOINT',
    `${fileOrFolder} holds no checkpoint: expected model.safetensors, a .safetensors.index.json, or one .pt file`,
  );
}

/**
 * Writes every tensor of a checkpoint to one safetensors file, in little memory.
 *
 * @param dtype the type floating tensors are stored in, rounded to nearest even by way of float32; left out, each keeps
 *   its own type. Integers and booleans always do.
 */
export function saveAsSafetensors(
  checkpoint: Checkpoint,
  file: string,
  { dtype, metadata }: { dtype?: 'F32' | 'F16' | 'BF16'; metadata?: Record<string, string> } = {},
): void {
  const tensors = [...checkpoint.tensors].map(([name, { dtype: own, shape }]): TensorToWrite => {
    if (dtype === undefined || !isFloating(own) || own === dtype) {
      return { name, dtype: own, shape, write: (sink) => checkpoint.stream(name, sink) };
    }
    return { name, dtype, shape, write: (sink) => checkpoint.stream(name, converter(own, dtype, sink)) };
  });
  writeSafetensors(file, tensors, metadata);
}

/** A sink for pieces of one type that hands them on in another, through buffers as large as the first piece. */
function converter(from: Dtype, to: 'F32' | 'F16' | 'BF16', sink: (bytes: Uint8Array) => void) {
  let floats = new Float32Array(0);
  let converted = new Uint8Array(0);
  return (bytes: Uint8Array) => {
    const count = bytes.length / DTYPE_BYTES[from];
    if (floats.length < count) {
      floats = new Float32Array(count);
      converted = new Uint8Array(count * DTYPE_BYTES[to]);
    }
    const part = converted.subarray(0, count * DTYPE_BYTES[to]);
    toFloat32(from, bytes, floats, 0);
    fromFloat32(to, floats.subarray(0, count), part);
    sink(part);
  };
}

/** Codebooks in files: safetensors, which also keeps how codes are compared, and npy, which keeps the codes alone. */
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { readNpy, writeNpy } from '../checkpoint/npy.js';
import { writeSafetensors } from '../checkpoint/safetensors-writer.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { checkChoice } from './arguments.js';
import { Codebook, type CodebookOptions } from './codebook.js';
import { PartedCodebook } from './dual-codebook.js';
import { METRICS, type Metric } from './handle.js';

export interface LoadCodebookOptions extends Omit<CodebookOptions, 'dim'> {
  /**
   * Name of the tensor `[size, dim]` in a checkpoint that `saveCodebook` did not write, `quantize.embedding.weight` say.
   * Not needed where the file holds only one.
   */
  tensor?: string;
}

const KIND = 'tokenflow-codebook';

/** The part that a tensor of `saveCodebook` is: 2 for `codebook.2`. */
function partOf(tensor: string): number {
  return Number(/^codebook\.(\d+)$/.exec(tensor)?.[1] ?? 0);
}

/** Tensor of a part: `codebook`, or `codebook.0`, `codebook.1`, … where there are several. */
function tensorName(part: number, parts: number): string {
  return parts === 1 ? 'codebook' : `codebook.${part}`;
}

/**
 * Writes a codebook to a file, by its extension: `.safetensors` (one float32 tensor `[size, dim]` per part, metric and
 * normalisation in the metadata) or `.npy` (one part; the codes alone).
 *
 * Codes are written as they are compared, unit vectors where the codebook normalises, and `.safetensors` come back so: the
 * loaded codebook gives the same indices and distances, bit for bit. A `.npy` file does not say how codes are compared:
 * load that of a codebook that normalises with `unit: true`.
 *
 * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT for another extension, ERR_TOKENFLOW_IO,
 *   ERR_TOKENFLOW_DISPOSED
 */
export function saveCodebook(codebook: Codebook | PartedCodebook, file: string): void {
  if (!(codebook instanceof Codebook || codebook instanceof PartedCodebook))
    throw invalidArgument('codebook', 'a Codebook or a DualCodebook', codebook);
  const extension = extensionOf(file);
  const { size, dim } = codebook;
  const dims = codebook.handle.parts.map((part) => part.dim);
  const rows = codebook.lookup(Int32Array.from({ length: size }, (_, j) => j));
  if (extension === 'npy') {
    if (dims.length > 1) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected a codebook of one part for .npy but it has ${dims.length}; write .safetensors`,
      );
    }
    writeNpy(file, { shape: [size, dim], data: rows });
    return;
  }
  let begin = 0;
  const tensors = dims.map((partDim, part) => {
    const first = begin;
    begin += partDim;
    const own =
      dims.length === 1 ? rows : rows.filter((_, i) => i % dim >= first && i % dim < first + partDim);
    return {
      name: tensorName(part, dims.length),
      dtype: 'F32' as const,
      shape: [size, partDim],
      write: (sink: (bytes: Uint8Array) => void) =>
        sink(new Uint8Array(own.buffer, own.byteOffset, own.byteLength)),
    };
  });
  writeSafetensors(file, tensors, {
    kind: KIND,
    metric: codebook.metric,
    normalize: JSON.stringify(codebook.handle.parts.map((part) => part.normalize)),
  });
}

/**
 * Reads a codebook of one part: what `saveCodebook` wrote, a `.npy` array `[size, dim]`, or a tensor of any checkpoint
 * this package reads (safetensors, PyTorch).
 *
 * @param options those of Codebook but for `dim`; metric and normalisation default to those the file names
 * @throws TokenFlowError ERR_TOKENFLOW_CHECKPOINT or ERR_TOKENFLOW_FORMAT for a file that holds no codebook,
 *   ERR_TOKENFLOW_IO, ERR_TOKENFLOW_INVALID_ARGUMENT
 */
export function loadCodebook(file: string, options: LoadCodebookOptions = {}): Codebook {
  checkOptions('loadCodebook', options, [
    'tensor',
    'metric',
    'normalize',
    'unit',
    'onNonFinite',
    'device',
    'screen',
  ]);
  if (typeof file !== 'string' || file === '') throw invalidArgument('file', 'a path', file);
  const { tensor, ...own } = options;
  if (file.toLowerCase().endsWith('.npy')) {
    const { shape, data } = readNpy(file);
    if (shape.length !== 2 || !(data instanceof Float32Array || data instanceof Float64Array)) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_FORMAT',
        `${file}: expected floating codes of shape [size, dim], found ${data.constructor.name} [${shape.join(', ')}]`,
      );
    }
    return new Codebook(Float32Array.from(data), { ...own, dim: shape[1] });
  }
  const checkpoint = openCheckpoint(file);
  try {
    const names = [...checkpoint.tensors.keys()];
    const name = tensor ?? (names.length === 1 ? names[0] : 'codebook');
    const info = checkpoint.tensors.get(name);
    if (info === undefined || info.shape.length !== 2) {
      const found = info ? `'${name}' of shape [${info.shape.join(', ')}]` : names.slice(0, 8).join(', ');
      throw new TokenFlowError(
        'ERR_TOKENFLOW_CHECKPOINT',
        `${file}: expected a tensor '${name}' of shape [size, dim], found ${found}; name another with tensor` +
          (names.includes('codebook.0') ? ', or use loadPartedCodebook' : ''),
      );
    }
    const { metric, normalize } = comparison(checkpoint.metadata);
    const unit = own.normalize !== false && normalize?.[partOf(name)]; // the caller's word goes before the file's
    const stored = { metric, unit };
    return new Codebook(checkpoint.read(name), { ...stored, ...own, dim: info.shape[1] });
  } finally {
    checkpoint.close();
  }
}

/** Reads a codebook of any number of parts that `saveCodebook` wrote as safetensors. Throws as `loadCodebook`. */
export function loadPartedCodebook(file: string): PartedCodebook {
  const checkpoint = openCheckpoint(file);
  try {
    const { metric, normalize } = comparison(checkpoint.metadata);
    if (normalize === undefined) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_CHECKPOINT',
        `${file}: expected a codebook that saveCodebook wrote, found other tensors`,
      );
    }
    const parts = normalize.map((unit, part) => {
      const name = tensorName(part, normalize.length);
      const vectors = checkpoint.read(name); // throws when it is not there
      return { vectors, dim: checkpoint.tensors.get(name)?.shape[1] ?? 0, unit };
    });
    return new PartedCodebook(parts, { metric });
  } finally {
    checkpoint.close();
  }
}

/** How codes are compared, where the metadata say so. */
function comparison(metadata: Readonly<Record<string, string>>): { metric?: Metric; normalize?: boolean[] } {
  if (metadata.kind !== KIND) return {};
  const normalize: unknown = JSON.parse(
    /^\[(true|false)(,(true|false))*\]$/.exec(metadata.normalize)?.[0] ?? 'null',
  );
  if (!Array.isArray(normalize))
    throw new TokenFlowError('ERR_TOKENFLOW_CHECKPOINT', 'The metadata of the codebook are damaged');
  return { metric: checkChoice('metric in the metadata', metadata.metric, METRICS), normalize };
}

function extensionOf(file: unknown): 'safetensors' | 'npy' {
  const found = typeof file === 'string' ? /\.(safetensors|npy)$/i.exec(file)?.[1].toLowerCase() : undefined;
  if (found === 'safetensors' || found === 'npy') return found;
  throw invalidArgument('file', 'a path that ends in .safetensors or .npy', file);
}

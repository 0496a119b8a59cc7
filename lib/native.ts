/**
 * The one typed description of the native addon, and how it is found. No other file loads it.
 *
 * Order: `TOKENFLOW_NATIVE_PATH`, then the local build (`build/Release`), then a prebuilt binary in `prebuilds/`.
 */
import { existsSync } from 'node:fs';
import * as path from 'node:path';
import { type ErrorCode, TokenFlowError } from './errors.js';
import type { Graph, Precision } from './graph/ops.js';

/** A queued native call: `cancel()` asks it to stop; the promise then rejects with code 'ABORTED'. */
export interface NativeJob<T> {
  promise: Promise<T>;
  cancel(): void;
}

export interface NativeCpuFeatures {
  avx2: boolean;
  avx512: boolean;
  avx512Vnni: boolean;
  avx512Bf16: boolean;
}

/** Opaque; owned by the garbage collector. */
export interface NativeCodebook {
  readonly codebook: unique symbol;
}

export interface NativeCodebookInfo {
  nonFinite: number;
  bytes: number;
  /** The screen of the level in force, if it has one. */
  screen?: string;
  queries: number;
  screened: number;
  exactScores: number;
}

/** Opaque; memory of a device, had when it is first written to. */
export interface NativeDeviceBuffer {
  readonly deviceBuffer: unique symbol;
}

/** Arrays of the host, or buffers on the codebook's device. */
export interface NativeNearestRequest {
  queries: Float32Array | Uint16Array | NativeDeviceBuffer; // [n][dim]
  format: 'f32' | 'f16' | 'bf16';
  n: number;
  k: number;
  weights?: Float32Array; // [part]
  indices: Int32Array | NativeDeviceBuffer; // [n][k]
  distances?: Float32Array | NativeDeviceBuffer; // [n][k]
  partDistances?: (Float32Array | NativeDeviceBuffer)[]; // by part: [n][k]
  margins?: Float32Array | NativeDeviceBuffer; // [n]
  codes?: Float32Array | NativeDeviceBuffer; // [n][dim]
  errors?: Float32Array | NativeDeviceBuffer; // [n]
  counts?: Int32Array | NativeDeviceBuffer; // [codes]
  missing: Float64Array; // [1]: the first query without a nearest code, or -1
  sync: boolean;
}

/** native/addon/device_buffer.cc */
export interface NativeDeviceBuffers {
  deviceBufferCreate(device: string, bytes: number): NativeDeviceBuffer;
  /** `data` has the buffer's bytes. */
  deviceBufferWrite(
    buffer: NativeDeviceBuffer,
    request: { data: Float32Array | Int32Array | Uint16Array; sync: boolean },
  ): NativeJob<void>;
  deviceBufferRead(
    buffer: NativeDeviceBuffer,
    request: { data: Float32Array | Int32Array | Uint16Array; sync: boolean },
  ): NativeJob<void>;
  /** Gives up the handle's share of the memory; the handle is unusable afterwards. */
  deviceBufferRelease(buffer: NativeDeviceBuffer): void;
}

/** native/addon/codebook.cc */
export interface NativeCodebooks {
  codebookCreate(
    parts: { vectors: Float32Array; dim: number; normalize: boolean; unit: boolean }[],
    size: number,
    metric: 'l2' | 'cosine' | 'ip',
    screen: 'auto' | 'off' | 'always',
    device: string,
  ): NativeCodebook;
  codebookInfo(codebook: NativeCodebook): NativeCodebookInfo;
  /** Gives up the handle's share of the memory; the handle is unusable afterwards. */
  codebookRelease(codebook: NativeCodebook): void;
  /** Fills the given arrays: at once when `sync`, else by the time the job is done. */
  codebookNearest(codebook: NativeCodebook, request: NativeNearestRequest): NativeJob<void>;
  /** From the host's copy of the codes, at once. */
  codebookGather(codebook: NativeCodebook, indices: Int32Array, rows: Float32Array): void;
  /** On the codebook's device. */
  codebookGatherPlaced(
    codebook: NativeCodebook,
    request: {
      indices: Int32Array | NativeDeviceBuffer; // [n]
      n: number;
      rows: Float32Array | NativeDeviceBuffer; // [n][dim]
      sync: boolean;
    },
  ): NativeJob<void>;
  /** The definition itself, naive: fills `indices` and returns their scores in double. For tests. */
  codebookReference(
    parts: { vectors: Float32Array; dim: number; normalize: boolean; weight: number }[],
    size: number,
    metric: 'l2' | 'cosine' | 'ip',
    queries: Float32Array,
    k: number,
    indices: Int32Array,
  ): Float64Array;
  /** fp32 operations per second of that many threads, measured now (a fraction of a second). */
  fmaPeak(threads: number): number;
  /** Seconds that so many threads take to read that many bytes once from cache, measured now. */
  readSeconds(bytes: number, threads: number): number;
}

/** Opaque; hold on to their codebooks. */
export interface NativeMultiScale {
  readonly multiScale: unique symbol;
}
export interface NativeResidual {
  readonly residual: unique symbol;
}
export interface NativeProduct {
  readonly product: unique symbol;
}
export interface NativeScalar {
  readonly scalar: unique symbol;
}

/** Opaque; holds the rows and the codes so far. One job at a time. */
export interface NativeKMeans {
  readonly kMeans: unique symbol;
}

/** native/addon/quantizers.cc: the given arrays are filled at once when `sync`, else by the time the job is done. */
export interface NativeQuantizers {
  multiScaleCreate(
    codebook: NativeCodebook,
    scales: Int32Array,
    weights?: Float32Array,
    phi?: { kernels: { weight: Float32Array; bias?: Float32Array }[]; ratio: number },
  ): NativeMultiScale;
  multiScaleEncode(
    quantizer: NativeMultiScale,
    request: {
      features: Float32Array; // [batch][g][g][dim]
      batch: number;
      indices: Int32Array; // [batch][tokens]
      sum?: Float32Array; // [batch][g][g][dim]
      sync: boolean;
    },
  ): NativeJob<void>;
  multiScaleDecode(
    quantizer: NativeMultiScale,
    request: { indices: Int32Array; batch: number; scales: number; sum: Float32Array; sync: boolean },
  ): NativeJob<void>;
  /** The pooling of the multi-scale quantiser by itself. For tests. */
  areaDown(
    grid: Float32Array, // [batch][from][from][channels]
    shape: { batch: number; from: number; to: number; channels: number },
  ): Float32Array; // [batch][to][to][channels]
  residualCreate(stages: NativeCodebook[]): NativeResidual;
  residualEncode(
    quantizer: NativeResidual,
    request: {
      vectors: Float32Array | NativeDeviceBuffer; // [n][dim]
      n: number;
      beam: number;
      indices: Int32Array | NativeDeviceBuffer; // [n][stages]
      quantized: Float32Array | NativeDeviceBuffer; // [n][dim]
      errors: Float32Array | NativeDeviceBuffer; // [n]
      sync: boolean;
    },
  ): NativeJob<void>;
  residualDecode(
    quantizer: NativeResidual,
    request: {
      indices: Int32Array | NativeDeviceBuffer; // [n][stages]
      n: number;
      stages: number;
      quantized: Float32Array | NativeDeviceBuffer; // [n][dim]
      sync: boolean;
    },
  ): NativeJob<void>;
  productCreate(groups: NativeCodebook[]): NativeProduct;
  productEncode(
    quantizer: NativeProduct,
    request: {
      vectors: Float32Array | NativeDeviceBuffer; // [n][dim]
      n: number;
      indices: Int32Array | NativeDeviceBuffer; // [n][groups]
      quantized: Float32Array | NativeDeviceBuffer; // [n][dim]
      sync: boolean;
    },
  ): NativeJob<void>;
  productDecode(
    quantizer: NativeProduct,
    request: {
      indices: Int32Array | NativeDeviceBuffer; // [n][groups]
      n: number;
      quantized: Float32Array | NativeDeviceBuffer; // [n][dim]
      sync: boolean;
    },
  ): NativeJob<void>;
  productTables(
    quantizer: NativeProduct,
    request: { queries: Float32Array; tables: Float32Array; sync: boolean }, // tables: [n][codes of all groups]
  ): NativeJob<void>;
  productSearch(
    quantizer: NativeProduct,
    request: {
      queries: Float32Array; // [n][dim]
      rows: Int32Array; // [rows][groups]
      k: number;
      indices: Int32Array; // [n][k]
      distances: Float32Array; // [n][k]
      sync: boolean;
    },
  ): NativeJob<void>;
  scalarCreate(
    rule: 'tanh' | 'clamp' | 'symmetric' | 'sign',
    levels: Int32Array,
    scale: number,
  ): NativeScalar;
  scalarEncode(
    quantizer: NativeScalar,
    request: {
      vectors: Float32Array; // [n][dim]
      indices: Int32Array | Float64Array; // [n]
      quantized: Float32Array; // [n][dim]
      sync: boolean;
    },
  ): NativeJob<void>;
  scalarDecode(
    quantizer: NativeScalar,
    request: { indices: Int32Array | Float64Array; quantized: Float32Array; sync: boolean },
  ): NativeJob<void>;
}

/** native/addon/learning.cc: as above. */
export interface NativeLearning {
  /** Copies the vectors; `kMeansPrepare` comes next. */
  kMeansCreate(vectors: Float32Array, dim: number, metric: 'l2' | 'cosine', device: string): NativeKMeans;
  kMeansPrepare(state: NativeKMeans, request: { sync: boolean }): NativeJob<void>;
  kMeansSetCodes(
    state: NativeKMeans,
    request: { codes: Float32Array; count: number; sync: boolean },
  ): NativeJob<void>;
  /** Adds these rows as codes. */
  kMeansAddRows(state: NativeKMeans, request: { rows: Float64Array; sync: boolean }): NativeJob<void>;
  /** Adds a code far from the others for each number from [0, 1). */
  kMeansAddFar(state: NativeKMeans, request: { uniforms: Float64Array; sync: boolean }): NativeJob<void>;
  /** One iteration. `report`: objective before it, rows that moved, codes without rows, of these those that split another. */
  kMeansIterate(state: NativeKMeans, request: { report: Float64Array; sync: boolean }): NativeJob<void>;
  kMeansRead(state: NativeKMeans, codes: Float32Array): void;
  kMeansRelease(state: NativeKMeans): void;
  sumByCode(request: {
    device: string;
    vectors: Float32Array | NativeDeviceBuffer; // [n][dim]
    indices: Int32Array | NativeDeviceBuffer; // [n]
    n: number;
    dim: number;
    normalize: boolean;
    counts: Float64Array; // [codes]
    sums: Float64Array; // [codes][dim]
    sync: boolean;
  }): NativeJob<void>;
  /** Averages a batch in: changes codes, counts and sums in place. */
  codesApply(request: NativeApplyRequest): NativeJob<void>;
  /** codes[i] = vectors[rows[i]], checked to be finite, as unit vectors where `normalize`. */
  takeRows(request: {
    vectors: Float32Array; // [n][dim]
    rows: Float64Array; // [count]
    dim: number;
    normalize: boolean;
    codes: Float32Array; // [count][dim]
    sync: boolean;
  }): NativeJob<void>;
}

/** How a batch moves the codes (native/codebook/code_averages.h). */
export type AverageRule =
  | { rule: 'moving average'; decay: number; epsilon: number }
  | { rule: 'running mean' };

export type NativeApplyRequest = AverageRule & {
  dim: number;
  normalize: boolean;
  batchCounts: Float64Array; // [codes]
  batchSums: Float64Array; // [codes][dim]
  codes: Float32Array; // [codes][dim]
  counts: Float64Array; // [codes]
  sums: Float64Array; // [codes][dim]
  sync: boolean;
};

export interface NativeCudaStatus {
  /** `available`, or why not (CudaReason in native/runtime/cuda_library.h). */
  reason: 'available' | CudaReason;
  /** In the words of the linker or the driver; may be empty. */
  detail: string;
  devices: {
    name: string;
    /** 90 for compute capability 9.0. */
    arch: number;
    multiprocessors: number;
    memoryBytes: number;
    reason: 'available' | CudaReason;
    /** Only while available: whether it computes in bf16. */
    bf16?: boolean;
    /** Only when lost: what happened. */
    detail?: string;
  }[];
}

export type CudaReason =
  | 'not-built'
  | 'library-missing'
  | 'load-failed'
  | 'abi-mismatch'
  | 'no-driver'
  | 'driver-too-old'
  | 'no-device'
  | 'unsupported-arch'
  | 'smoke-test-failed'
  | 'disabled-by-env'
  | 'out-of-memory'
  | 'device-lost';

/** Everything native/addon exports. */
export interface NativeAddon extends NativeCodebooks, NativeQuantizers, NativeLearning, NativeDeviceBuffers {
  // native/addon/addon.cc
  initialize(errorClass: new (code: ErrorCode, message: string) => Error): void;
  simdLevel(): 'scalar' | 'avx2' | 'avx512';
  cpuFeatures(): NativeCpuFeatures;
  /** What the addon was built with. */
  buildInfo(): { compiler: string; nodeApi: number };
  // native/addon/cuda.cc
  /** What the CUDA library says of this machine: loaded and tried at the first call, remembered afterwards. */
  cudaStatus(): NativeCudaStatus;
  threads(): number;
  setThreads(threads: number): void;
  pending(): number;

  // native/addon/image.cc
  /** Frees the memory of an array that nobody will look at again, now; the array is empty afterwards. */
  release(array: Uint8Array): void;
  /** [height][width][channels] to RGB [size][size][3]. The pixels are released: their array is empty afterwards. */
  prepareImage(...request: PrepareImageRequest): Promise<Uint8Array>;
  prepareImageSync(...request: PrepareImageRequest): Uint8Array;

  // native/addon/program.cc
  /** An empty store of packed weights, shared by every program of a model on a device. */
  createWeightStore(device: string): NativeWeightStore;
  /**
   * Checks a graph, plans its memory and says which weights it still needs (see NativeProgram). With `lanes`, on the CPU, the
   * program takes so many times the graph's images, and each lane of one thread does its own.
   */
  createProgram(graph: Graph, store: NativeWeightStore, precision: Precision, lanes?: number): NativeProgram;
}

/** Opaque; freed by the garbage collector or by `dispose`. */
export interface NativeWeightStore {
  /** Bytes of packed weights held. */
  bytes(): number;
  dispose(): void;
}

/** A compiled graph for one batch size. */
export interface NativeProgram {
  /**
   * Weights (checkpoint names) that are not in the store in the packing this program wants. Each is handed over
   * once, in any order, and packed at once, so that no two unpacked weights need be in memory together.
   */
  missingWeights(): { name: string; shape: number[] }[];
  /** Packs one weight; the array may be reused by the caller afterwards. */
  setWeight(name: string, data: Float32Array): void;
  /** Bytes of the activation arena (planned, buffers reused) and of scratch. */
  memory(): { activations: number; scratch: number };
  /** Runs the graph on the compute thread. Inputs by name; outputs by name, V8-owned. */
  run(
    inputs: Record<string, ArrayBufferView>,
  ): NativeJob<Record<string, Float32Array | Uint8Array | Int32Array>>;
  runSync(inputs: Record<string, ArrayBufferView>): Record<string, Float32Array | Uint8Array | Int32Array>;
  /** Milliseconds spent in each op over the runs so far, in graph order; for benchmarks. */
  profile(): { op: string; milliseconds: number }[];
  dispose(): void;
}

export type PrepareImageRequest = [
  pixels: Uint8Array,
  width: number,
  height: number,
  layout: 'grey' | 'grey-alpha' | 'rgb' | 'rgba' | 'cmyk',
  fit: 'crop' | 'squash' | 'pad',
  size: number,
];

export interface LoadAttempt {
  path: string;
  error: string;
}

/** Thrown when no addon binary could be loaded; `attempts` lists what was tried. */
export class NativeLoadError extends TokenFlowError {
  readonly attempts: LoadAttempt[];

  constructor(attempts: LoadAttempt[]) {
    super('ERR_TOKENFLOW_NATIVE_LOAD', NativeLoadError.explain(attempts));
    this.attempts = attempts;
  }

  private static explain(attempts: LoadAttempt[]): string {
    const lines = [
      `Could not load the native addon of tokenflow for ${process.platform}-${process.arch}. Tried:`,
    ];
    for (const { path: tried, error } of attempts) lines.push(`  ${tried}: ${error}`);
    lines.push('Possible solutions:');
    const all = attempts.map((a) => a.error).join(' ');
    if (/GLIBC|GLIBCXX/.test(all)) {
      lines.push('  - the binary was built on a newer system: rebuild it here with npm run build:native');
    }
    lines.push('  - build it: npm run setup in a clone of the repository (needs g++ and CMake)');
    lines.push('  - or point TOKENFLOW_NATIVE_PATH at a tokenflow.node built elsewhere');
    return lines.join('\n');
  }
}

/** The package's root, from lib/ compiled to dist/ or to dist-test/lib/. */
export function packageRoot(): string {
  let dir = __dirname;
  while (!existsSync(path.join(dir, 'package.json'))) {
    const parent = path.dirname(dir);
    if (parent === dir)
      throw new TokenFlowError('ERR_TOKENFLOW_INTERNAL', `No package.json above ${__dirname}`);
    dir = parent;
  }
  return dir;
}

/** Why a binary was not loaded, in one line. */
function loadFailure(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  // `bindings` itself may be what is missing, which must not read as a missing addon.
  const notFound = code === 'MODULE_NOT_FOUND' && !message.startsWith("Cannot find module 'bindings'");
  return notFound || message.startsWith('Could not locate the bindings file')
    ? 'there is no such file'
    : message.split('\n')[0];
}

function load(): { addon: NativeAddon; path: string } {
  const attempts: LoadAttempt[] = [];
  const attempt = (label: string, open: () => unknown): { addon: NativeAddon; path: string } | undefined => {
    try {
      const addon = open() as NativeAddon;
      addon.initialize(TokenFlowError);
      return { addon, path: label };
    } catch (error) {
      attempts.push({ path: label, error: loadFailure(error) });
      return undefined;
    }
  };

  const named = process.env.TOKENFLOW_NATIVE_PATH;
  if (named) {
    const found = attempt(named, () => require(path.resolve(named)));
    if (found) return found;
    throw new NativeLoadError(attempts); // a path that was asked for is never replaced silently
  }
  const root = packageRoot();
  const local = attempt(path.join(root, 'build', 'Release', 'tokenflow.node'), () =>
    (require('bindings') as typeof import('bindings'))({ bindings: 'tokenflow', module_root: root }),
  );
  if (local) return local;
  const prebuilt = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'tokenflow.node');
  const found = attempt(prebuilt, () => require(prebuilt));
  if (found) return found;
  throw new NativeLoadError(attempts);
}

let loaded: ReturnType<typeof load> | undefined;

/** The addon, loaded on first use. */
export function native(): NativeAddon {
  loaded ??= load();
  return loaded.addon;
}

/** Where the addon was found. */
export function nativePath(): string {
  loaded ??= load();
  return loaded.path;
}

/** Awaits a native job under an optional AbortSignal; settles exactly once, with the signal's reason when aborted. */
export async function settle<T>(start: () => NativeJob<T>, signal?: AbortSignal): Promise<T> {
  signal?.throwIfAborted();
  const job = start();
  if (!signal) return job.promise;
  const onAbort = () => job.cancel();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await job.promise;
  } catch (error) {
    if ((error as { code?: string }).code === 'ABORTED') throw signal.reason;
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

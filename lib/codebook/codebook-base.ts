import type { CallOptions } from './arguments.js';
import { DeviceBuffer } from './device-buffer.js';
import type { CodebookHandle, LookupStats, Metric } from './handle.js';

/** What a codebook is, for logs and inspection: no codes. */
export interface CodebookSummary {
  /** Name of the class. */
  type: string;
  size: number;
  /** Elements of a whole code. */
  dim: number;
  metric: Metric;
  /** Where its lookups run. */
  device: string;
  /** Elements of each part, and whether it is compared as unit vectors. */
  parts: { dim: number; normalize: boolean }[];
  /** Codes with NaN or infinity. */
  nonFinite: number;
  /** Native memory in bytes, where the lookups run; 0 once disposed. */
  bytes: number;
}

/** What Codebook and PartedCodebook share: everything that does not depend on how queries are given. */
export abstract class CodebookBase {
  /** Elements of a whole code. */
  readonly dim: number;
  /** Number of codes. */
  readonly size: number;
  readonly metric: Metric;
  /** Where lookups run: what `device` came to, `'cpu'` or `'cuda:0'`, … */
  readonly device: string;
  /** Codes with NaN or infinity in any part, which are never chosen. */
  readonly nonFinite: number;
  /** @internal */
  readonly handle: CodebookHandle;

  /** @internal */
  protected constructor(handle: CodebookHandle) {
    this.handle = handle;
    this.dim = handle.dim;
    this.size = handle.size;
    this.metric = handle.metric;
    this.device = handle.device;
    this.nonFinite = handle.nonFinite;
  }

  /**
   * The codes behind indices, `[n, dim]` with the parts concatenated, as they are compared: unit vectors where the
   * codebook normalises. A code too large to be normalised is NaN.
   *
   * Indices on the device give rows there, by its own compute thread; others are answered from the host's copy of the
   * codes, at once.
   *
   * @param out an array to write into instead of a new one
   * @throws TokenFlowError for an index out of range, `-1` included
   */
  lookup(indices: Int32Array | readonly number[], out?: Float32Array): Float32Array;
  lookup(indices: DeviceBuffer<'i32'>, options?: CallOptions): Promise<DeviceBuffer<'f32'>>;
  lookup(
    indices: Int32Array | readonly number[] | DeviceBuffer<'i32'>,
    more?: Float32Array | CallOptions,
  ): Float32Array | Promise<DeviceBuffer<'f32'>> {
    if (indices instanceof DeviceBuffer)
      return this.handle.gatherPlaced(indices, (more ?? {}) as CallOptions);
    return this.handle.gather(indices, more as Float32Array | undefined);
  }

  /** What lookups did so far, and how. */
  get stats(): LookupStats {
    return this.handle.stats;
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.handle.disposed;
  }

  toJSON(): CodebookSummary {
    const { handle, size, dim, metric, device, nonFinite } = this;
    const parts = handle.parts.map((part) => ({ ...part }));
    return { type: handle.name, size, dim, metric, device, parts, nonFinite, bytes: handle.bytes };
  }

  /** Frees the native memory now rather than when collected. A lookup that is under way completes. */
  dispose(): void {
    this.handle.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeProduct, native, settle } from '../native.js';
import { type CallOptions, checkIndices, checkInteger, checkRows } from './arguments.js';
import { CodeQuantizer, type QuantizerCall } from './code-quantizer.js';
import { Codebook } from './codebook.js';
import { checkBuffer, DeviceBuffer, nativeOf, type ResultPlace, resultPlaces } from './device-buffer.js';
import type { Metric } from './handle.js';

export interface ProductEncoded {
  /** `[n, groups]`: one index per group. */
  indices: Int32Array;
  /** `[n, dim]`: the codes side by side, as `decode` gives them. */
  quantized: Float32Array;
}

/** As ProductEncoded, in the memory of the codebooks' device. */
export interface DeviceProductEncoded {
  /** `[n, groups]` */
  indices: DeviceBuffer<'i32'>;
  /** `[n, dim]` */
  quantized: DeviceBuffer<'f32'>;
}

export interface ProductEncodeOptions extends CallOptions {
  /** Where the results go. Default `'host'`. */
  result?: ResultPlace;
}

export interface ProductSearchResult {
  /** `[n, k]`: positions among the quantised vectors, nearest first, equal ones by position; `-1` where there is none. */
  indices: Int32Array;
  /** `[n, k]`: asymmetric distances, NaN where the index is `-1`. */
  distances: Float32Array;
}

/**
 * The product quantiser (PQ), or grouped quantiser: a vector is cut into groups of elements, each quantised by a
 * codebook of its own (Jégou, Douze, Schmid, TPAMI 2011).
 *
 * `decode` gives the codes side by side as they are compared: unit vectors where a codebook normalises.
 *
 * Distances are asymmetric: the query stays as it is, and the distance from a quantised vector is the sum of one table
 * entry per group. For `ip` they are inner products, larger being nearer.
 *
 * ```ts
 * const quantizer = new ProductQuantizer([first, second]);
 * const { indices } = await quantizer.encode(vectors);
 * const nearest = await quantizer.search(queries, indices, { k: 10 });
 * ```
 *
 * It encodes and decodes where its codebooks are; distance tables and searches are computed by the CPU. Holds on to the
 * codebooks, which must not be disposed of before it is.
 */
export class ProductQuantizer extends CodeQuantizer<
  NativeProduct,
  ProductEncoded,
  DeviceProductEncoded,
  ProductEncodeOptions,
  ProductEncodeOptions
> {
  /** Elements of a whole vector: the sum of the codebooks'. */
  readonly dim: number;
  /** Number of codebooks. */
  readonly groups: number;
  readonly metric: Metric;
  /** Entries of one query's distance table: the codes of all groups. */
  readonly tableSize: number;

  /**
   * @param codebooks one per group, in the order of the elements, of one metric and on one device; the same one may serve several groups
   * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT
   */
  constructor(codebooks: readonly Codebook[]) {
    if (!Array.isArray(codebooks) || codebooks.length === 0)
      throw invalidArgument('codebooks', 'an array of Codebook, one per group,', codebooks);
    codebooks.forEach((codebook, group) => {
      if (!(codebook instanceof Codebook))
        throw invalidArgument(`codebooks[${group}]`, 'a Codebook', codebook);
    });
    super(codebooks, (handles) => native().productCreate(handles));
    this.groups = codebooks.length;
    this.metric = codebooks[0].metric;
    this.dim = codebooks.reduce((sum, codebook) => sum + codebook.dim, 0);
    this.tableSize = codebooks.reduce((sum, codebook) => sum + codebook.size, 0);
  }

  /**
   * The distance of every query's groups from every code, `[n, tableSize]`: in each row the codes of the first group,
   * then those of the second, and so on. NaN where either is not finite.
   *
   * @param queries `[n, dim]`; copied at the call
   */
  async distanceTables(queries: Float32Array, options: CallOptions = {}): Promise<Float32Array> {
    checkOptions('distanceTables', options, ['signal']);
    const { start, tables } = this.#tablesCall(queries, false);
    await settle(start, options.signal);
    return tables;
  }

  /** As `distanceTables`, blocking: for workers and scripts. */
  distanceTablesSync(queries: Float32Array): Float32Array {
    const { start, tables } = this.#tablesCall(queries, true);
    start();
    return tables;
  }

  /**
   * The quantised vectors nearest to every query by asymmetric distance: a scan over all of them.
   *
   * @param queries `[n, dim]`; copied at the call
   * @param indices `[rows, groups]`: the quantised vectors, as `encode` gives them; copied at the call
   * @throws TokenFlowError for an index out of range, and for a `k` beyond 64 or the number of rows
   */
  async search(
    queries: Float32Array,
    indices: Int32Array,
    options: { k?: number; signal?: AbortSignal } = {},
  ): Promise<ProductSearchResult> {
    checkOptions('search', options, ['k', 'signal']);
    const { start, result } = this.#searchCall(queries, indices, options.k, false);
    await settle(start, options.signal);
    return result;
  }

  /** As `search`, blocking: for workers and scripts. */
  searchSync(queries: Float32Array, indices: Int32Array, options: { k?: number } = {}): ProductSearchResult {
    checkOptions('search', options, ['k']);
    const { start, result } = this.#searchCall(queries, indices, options.k, true);
    start();
    return result;
  }

  toJSON(): { type: 'ProductQuantizer'; metric: Metric; groups: { dim: number; size: number }[] } {
    const groups = this.codebooks.map(({ dim, size }) => ({ dim, size }));
    return { type: 'ProductQuantizer', metric: this.metric, groups };
  }

  /** @internal */
  protected encodeCall(vectors: unknown, options: ProductEncodeOptions, sync: boolean): QuantizerCall {
    const handle = this.native;
    checkOptions('encode', options, ['result', 'signal']);
    const checked =
      vectors instanceof DeviceBuffer
        ? checkBuffer('vectors', vectors, this.device, ['f32'] as const, this.dim)
        : checkRows('vectors', vectors, this.dim);
    const n = checked.length / this.dim;
    const places = resultPlaces(this.device, options.result);
    const result = { indices: places.i32(n * this.groups), quantized: places.f32(checked.length) };
    const request = {
      ...{ vectors: nativeOf(checked), n, sync },
      indices: nativeOf(result.indices),
      quantized: nativeOf(result.quantized),
    };
    const start = () => native().productEncode(handle, request);
    return { start, places, finish: () => result };
  }

  /** @internal */
  protected decodeCall(indices: unknown, options: ProductEncodeOptions, sync: boolean): QuantizerCall {
    const handle = this.native;
    checkOptions('decode', options, ['result', 'signal']);
    const checked =
      indices instanceof DeviceBuffer
        ? checkBuffer('indices', indices, this.device, ['i32'] as const, this.groups)
        : this.#checkIndexRows(indices);
    const n = checked.length / this.groups;
    const places = resultPlaces(this.device, options.result);
    const quantized = places.f32(n * this.dim);
    const request = { indices: nativeOf(checked), n, quantized: nativeOf(quantized), sync };
    const start = () => native().productDecode(handle, request);
    return { start, places, finish: () => quantized };
  }

  #tablesCall(queries: unknown, sync: boolean) {
    const handle = this.native;
    const checked = checkRows('queries', queries, this.dim);
    const tables = new Float32Array((checked.length / this.dim) * this.tableSize);
    return { start: () => native().productTables(handle, { queries: checked, tables, sync }), tables };
  }

  #searchCall(queries: unknown, indices: unknown, wanted: number | undefined, sync: boolean) {
    const handle = this.native;
    const checked = checkRows('queries', queries, this.dim);
    const rows = this.#checkIndexRows(indices);
    const k =
      wanted === undefined ? 1 : checkInteger('k', wanted, 1, Math.min(64, rows.length / this.groups));
    const length = (checked.length / this.dim) * k;
    const result = { indices: new Int32Array(length), distances: new Float32Array(length) };
    const request = { queries: checked, rows, k, ...result, sync };
    return { start: () => native().productSearch(handle, request), result };
  }

  #checkIndexRows(indices: unknown): Int32Array {
    const checked = checkIndices('indices', indices);
    if (checked.length % this.groups === 0) return checked;
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `Expected a multiple of ${this.groups} elements (one index per group) for indices but received ${checked.length}`,
    );
  }
}

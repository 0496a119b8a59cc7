import { type Device, resolveDevice } from '../backends.js';
import { checkOptions, invalidArgument, TokenFlowError } from '../errors.js';
import { type NativeJob, type NativeKMeans, native, settle } from '../native.js';
import { checkChoice, checkInteger, checkRows } from './arguments.js';
import { Random } from './random.js';

/** What k-means reports after each of its steps. */
export interface KMeansProgress {
  /** `'seed'`: choosing the first codes, `done` of `total` codes. `'iterate'`: `done` of at most `total` iterations. */
  phase: 'seed' | 'iterate';
  done: number;
  total: number;
  /** When iterating: the sum of the distances of the vectors from the codes before the iteration. */
  objective?: number;
  /** When iterating: codes that no vector chose, which then split others. */
  empty?: number;
}

export interface KMeansOptions {
  /** Elements of a vector: 1 to 4096. */
  dim: number;
  /** Number of codes: 1 to 2^24, and at most the number of vectors. */
  size: number;
  /** `'l2'` (the default), or `'cosine'`: spherical k-means. Vectors are made unit vectors first, and codes after every update. */
  metric?: 'l2' | 'cosine';
  /**
   * The first codes.
   * - `'k-means++'` (the default): each is drawn in proportion to the squared distance from those before. It takes one
   *   pass over the vectors per code, which for thousands of codes and millions of vectors is longer than the iterations.
   * - `'random'`: different vectors, drawn evenly.
   * - a Float32Array `[size, dim]`: these.
   */
  init?: 'k-means++' | 'random' | Float32Array;
  /** Default 25. 0 returns the first codes. */
  maxIterations?: number;
  /** Ends when an iteration lowers the objective by no more than this share of it. Default 1e-4. */
  tolerance?: number;
  /** A whole number; the same one gives the same codes. Default 0. */
  seed?: number;
  /**
   * Where the passes over the vectors run; all of them are in its memory. Default: `TOKENFLOW_DEVICE`, else `'cpu'`. The
   * codes are the same on every device, bit for bit.
   */
  device?: Device;
  /** Called on the event loop between the steps. What it throws ends the work. */
  onProgress?: (progress: KMeansProgress) => void;
  /** Stops the work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface KMeansResult {
  /** `[size, dim]`: for `new Codebook(codes, { dim, metric })`. */
  codes: Float32Array;
  /** Iterations done. */
  iterations: number;
  /**
   * Before each iteration, the sum of the distances of the vectors from their nearest codes: squared distances for `l2`,
   * `1 - cos` for `cosine`. It never rises but by rounding; the returned codes are one update past the last entry.
   */
  objectives: number[];
  /** Whether it ended by `tolerance`, or because no vector changed its code, rather than by `maxIterations`. */
  converged: boolean;
}

const OPTIONS = [
  'dim',
  'size',
  'metric',
  'init',
  'maxIterations',
  'tolerance',
  'seed',
  'device',
  'onProgress',
  'signal',
];
const SEED_STEP = 64; // codes seeded by one job: often enough to stop, seldom enough to cost nothing

/**
 * k-means: codes that lie at the means of the vectors nearest to them (Lloyd's iterations).
 *
 * Assignments are exact lookups, means are sums in double in a fixed order: the same vectors, options and seed give the
 * same codes, bit for bit, on any device and any number of threads. A code that no vector chose splits the code with the largest
 * error: it moves onto that code's farthest vector.
 *
 * ```ts
 * const { codes } = await kMeans(vectors, { dim: 32, size: 1024, seed: 7 });
 * const codebook = new Codebook(codes, { dim: 32 });
 * ```
 *
 * @param vectors `[n, dim]`; copied once, so that memory is twice theirs and 16 bytes a vector
 * @throws TokenFlowError when a vector is not finite, or there are fewer vectors than codes
 */
export async function kMeans(vectors: Float32Array, options: KMeansOptions): Promise<KMeansResult> {
  const run = new Run(vectors, options, false);
  try {
    for (const step of run.steps()) await settle(step, options.signal);
    options.signal?.throwIfAborted();
    return run.result();
  } finally {
    run.release();
  }
}

/** As `kMeans`, blocking: for workers and scripts. */
export function kMeansSync(vectors: Float32Array, options: Omit<KMeansOptions, 'signal'>): KMeansResult {
  const run = new Run(vectors, options, true);
  try {
    for (const step of run.steps()) step();
    return run.result();
  } finally {
    run.release();
  }
}

/** The course of one k-means as a series of native jobs; the caller does each before it asks for the next. */
class Run {
  readonly #options: KMeansOptions;
  readonly #metric: 'l2' | 'cosine';
  readonly #init: 'k-means++' | 'random' | Float32Array;
  readonly #maxIterations: number;
  readonly #tolerance: number;
  readonly #random: Random;
  readonly #rows: number;
  readonly #sync: boolean;
  readonly #state: NativeKMeans;
  readonly #objectives: number[] = [];
  #converged = false;

  constructor(vectors: unknown, options: KMeansOptions, sync: boolean) {
    checkOptions('kMeans', options, OPTIONS);
    if (options === undefined)
      throw invalidArgument('the options of kMeans', 'an object with dim and size', options);
    const dim = checkInteger('dim', options.dim, 1, 4096);
    const checked = checkRows('vectors', vectors, dim);
    this.#rows = checked.length / dim;
    const size = checkInteger('size', options.size, 1, 2 ** 24);
    if (size > this.#rows) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `Expected at least as many vectors as codes (${size}) but received ${this.#rows}; ask for a smaller size`,
      );
    }
    this.#options = options;
    this.#metric = checkChoice('metric', options.metric ?? 'l2', ['l2', 'cosine'] as const);
    this.#init = checkInit(options.init ?? 'k-means++', size, dim);
    this.#maxIterations = checkInteger('maxIterations', options.maxIterations ?? 25, 0);
    this.#tolerance = options.tolerance ?? 1e-4;
    if (typeof this.#tolerance !== 'number' || !(this.#tolerance >= 0))
      throw invalidArgument('tolerance', 'a number of at least 0', options.tolerance);
    if (options.onProgress !== undefined && typeof options.onProgress !== 'function')
      throw invalidArgument('onProgress', 'a function', options.onProgress);
    this.#random = new Random(checkInteger('seed', options.seed ?? 0, 0));
    this.#sync = sync;
    const device = resolveDevice(options.device, 'cpu');
    this.#state = native().kMeansCreate(checked, dim, this.#metric, device);
  }

  *steps(): Generator<() => NativeJob<void>> {
    const sync = this.#sync;
    yield () => native().kMeansPrepare(this.#state, { sync });
    yield* this.#seed();
    const report = new Float64Array(4);
    for (let done = 1; done <= this.#maxIterations && !this.#converged; done++) {
      yield () => native().kMeansIterate(this.#state, { report, sync });
      const [objective, moved, empty, split] = report;
      const before = this.#objectives.at(-1);
      this.#objectives.push(objective);
      const settled = before !== undefined && before - objective <= this.#tolerance * before;
      this.#converged = split === 0 && (moved === 0 || settled);
      this.#options.onProgress?.({ phase: 'iterate', done, total: this.#maxIterations, objective, empty });
    }
  }

  *#seed(): Generator<() => NativeJob<void>> {
    const { size } = this.#options;
    const init = this.#init;
    const sync = this.#sync;
    if (typeof init !== 'string') {
      yield () => native().kMeansSetCodes(this.#state, { codes: init, count: size, sync });
    } else if (init === 'random') {
      const rows = Float64Array.from(this.#random.sample(size, this.#rows));
      yield () => native().kMeansAddRows(this.#state, { rows, sync });
    } else {
      for (let done = 0; done < size; ) {
        const count = Math.min(SEED_STEP, size - done);
        const uniforms = Float64Array.from({ length: count }, () => this.#random.uniform());
        yield () => native().kMeansAddFar(this.#state, { uniforms, sync });
        done += count;
        this.#options.onProgress?.({ phase: 'seed', done, total: size });
      }
      return;
    }
    this.#options.onProgress?.({ phase: 'seed', done: size, total: size });
  }

  result(): KMeansResult {
    const codes = new Float32Array(this.#options.size * this.#options.dim);
    native().kMeansRead(this.#state, codes);
    const objectives = this.#objectives;
    return { codes, iterations: objectives.length, objectives, converged: this.#converged };
  }

  release(): void {
    native().kMeansRelease(this.#state);
  }
}

function checkInit(init: unknown, size: number, dim: number): 'k-means++' | 'random' | Float32Array {
  if (!ArrayBuffer.isView(init)) return checkChoice('init', init, ['k-means++', 'random'] as const);
  const codes = checkRows('init', init, dim);
  if (codes.length !== size * dim)
    throw invalidArgument('init', `a Float32Array of ${size * dim} elements`, init);
  if (!codes.every((value) => Number.isFinite(value)))
    throw invalidArgument('init', 'finite codes', 'NaN or infinity');
  return codes;
}

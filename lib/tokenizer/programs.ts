import { setImmediate as turn } from 'node:timers/promises';
import { TokenFlowError } from '../errors.js';
import type { BuiltGraph } from '../graph/builder.js';
import type { Precision, WeightShapes } from '../graph/ops.js';
import { type NativeProgram, type NativeWeightStore, native, settle } from '../native.js';
import type { WeightReader } from './weight-reader.js';

/** Values by name, as they go into a program or come out of it. */
export type Inputs = Record<string, ArrayBufferView>;
export type Outputs = Record<string, Float32Array | Uint8Array | Int32Array>;

/** What a program is made of. */
export interface ProgramSource {
  /** The same key for the same programs. */
  readonly key: string;
  readonly build: () => BuiltGraph;
  /** As for `createProgram`. */
  readonly lanes: number;
}

interface Entry {
  readonly program: NativeProgram;
  readonly weights: WeightShapes;
  /** Every weight is in the store. */
  ready: boolean;
}

export interface ProgramOptions {
  device: string;
  precision: Precision;
  reader: WeightReader;
  /** Called while weights are read, in bytes of float32. */
  onWeights: (loaded: number, total: number) => void;
}

/** The compiled programs of one model on one device, over one store of packed weights that is filled as they need it. */
export class Programs {
  readonly #options: ProgramOptions;
  readonly #store: NativeWeightStore;
  readonly #entries = new Map<string, Entry>();
  #loading: Promise<unknown> = Promise.resolve();
  #running = new Set<Promise<unknown>>();
  #disposed = false;

  constructor(options: ProgramOptions) {
    this.#options = options;
    this.#store = native().createWeightStore(options.device);
  }

  /** Compiles a program and reads its weights, without running it. */
  async prepare(source: ProgramSource, signal?: AbortSignal): Promise<void> {
    await this.#load(this.#compiled(source), signal);
  }

  async run(source: ProgramSource, inputs: Inputs, signal?: AbortSignal): Promise<Outputs> {
    signal?.throwIfAborted();
    const entry = this.#compiled(source);
    await this.#load(entry, signal);
    this.#checkOpen();
    const run = settle(() => entry.program.run(inputs), signal);
    this.#running.add(run);
    try {
      return await run;
    } finally {
      this.#running.delete(run);
    }
  }

  runSync(source: ProgramSource, inputs: Inputs): Outputs {
    const entry = this.#compiled(source);
    if (!entry.ready) {
      for (const { name } of entry.program.missingWeights()) {
        entry.program.setWeight(name, this.#options.reader.read(name));
      }
      this.#options.reader.release();
      entry.ready = true;
    }
    return entry.program.runSync(inputs);
  }

  /** Bytes held: weights packed so far, and the memory that the largest program so far takes while it runs. */
  memory(): { weights: number; activations: number; scratch: number } {
    if (this.#disposed) return { weights: 0, activations: 0, scratch: 0 };
    const programs = [...this.#entries.values()].map(({ program }) => program.memory());
    return {
      weights: this.#store.bytes(),
      activations: Math.max(0, ...programs.map(({ activations }) => activations)),
      scratch: Math.max(0, ...programs.map(({ scratch }) => scratch)),
    };
  }

  /** Lets go of everything once the runs under way have ended; resolves then. Later calls are refused at once. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await Promise.allSettled([...this.#running, this.#loading]);
    for (const { program } of this.#entries.values()) program.dispose();
    this.#entries.clear();
    this.#store.dispose();
  }

  #compiled({ key, build, lanes }: ProgramSource): Entry {
    this.#checkOpen();
    let entry = this.#entries.get(key);
    if (!entry) {
      const { graph, weights } = build();
      const program = native().createProgram(graph, this.#store, this.#options.precision, lanes);
      entry = { program, weights, ready: false };
      this.#entries.set(key, entry);
    }
    return entry;
  }

  /** Reads what the program lacks, one program at a time, so that a weight two programs share is read once. */
  #load(entry: Entry, signal?: AbortSignal): Promise<void> {
    if (entry.ready) return Promise.resolve();
    const load = this.#loading.then(() => this.#fill(entry, signal));
    this.#loading = load.catch(() => {}); // the caller has the error; the next in line only waits
    return load;
  }

  async #fill(entry: Entry, signal?: AbortSignal): Promise<void> {
    if (entry.ready) return;
    const missing = entry.program.missingWeights();
    const bytes = (name: string) => entry.weights.get(name)!.reduce((a, b) => a * b, 4);
    const total = missing.reduce((sum, { name }) => sum + bytes(name), 0);
    let loaded = 0;
    for (const { name } of missing) {
      signal?.throwIfAborted();
      this.#checkOpen();
      if (entry.ready) return; // a synchronous run went first
      entry.program.setWeight(name, this.#options.reader.read(name));
      loaded += bytes(name);
      this.#options.onWeights(loaded, total);
      await turn();
    }
    this.#options.reader.release();
    entry.ready = true;
  }

  #checkOpen(): void {
    if (this.#disposed) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_DISPOSED',
        'This tokenizer was disposed; load it again to use it',
      );
    }
  }
}

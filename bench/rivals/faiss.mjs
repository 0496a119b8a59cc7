/** FAISS (Debian's python3-faiss) as a rival, in a child process that stays for the whole run. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const PYTHON = '/usr/bin/python3';

const bytesOf = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

export class Faiss {
  /** The running rival, or the reason why there is none. */
  static async start() {
    const probe = spawnSync(PYTHON, ['-c', 'import faiss, numpy'], { encoding: 'utf8' });
    if (probe.status !== 0) return { reason: 'FAISS is not installed (apt-get install python3-faiss)' };
    const faiss = new Faiss();
    const { version } = await faiss.#answer();
    faiss.name = `faiss ${version}`;
    return { faiss };
  }

  #folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-faiss-'));
  #child;
  #lines;

  constructor() {
    // These two would pin OpenBLAS to another processor's kernels.
    const { OPENBLAS_CORETYPE: _core, OPENBLAS_L2_SIZE: _cache, ...env } = process.env;
    const script = fileURLToPath(new URL('faiss_rival.py', import.meta.url));
    this.#child = spawn(PYTHON, [script], { stdio: ['pipe', 'pipe', 'inherit'], env });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async #answer() {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('the FAISS process ended');
    return JSON.parse(value);
  }

  /** Writes arrays for the child to read, by name; the names of the files. */
  #write(arrays) {
    return Object.fromEntries(
      Object.entries(arrays).map(([name, array]) => {
        const file = path.join(this.#folder, name);
        writeFileSync(file, bytesOf(array));
        return [name, file];
      }),
    );
  }

  async #ask(request) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    const { error, ...answer } = await this.#answer();
    if (error !== undefined) throw new Error(`${this.name}: ${error}`);
    return answer;
  }

  /** Median seconds of a search, and the indices it found. */
  async search({ codes, queries, dim, k = 1, threads, metric = 'l2', runs = 7 }) {
    const indices = path.join(this.#folder, 'indices');
    const files = this.#write({ codes, queries });
    const { seconds } = await this.#ask({ task: 'search', ...files, indices, dim, k, threads, metric, runs });
    return { seconds, indices: new Int32Array(new Uint8Array(readFileSync(indices)).buffer) };
  }

  /** Seconds of one iteration of k-means from the codes `init`, and the objective before each. */
  async kMeans({ vectors, init, dim, threads, iterations }) {
    return this.#ask({ task: 'kmeans', ...this.#write({ vectors, init }), dim, threads, iterations });
  }

  stop() {
    this.#child.stdin.end();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

import { spawn, spawnSync } from 'node:child_process';
import path from 'node:path';
import readline from 'node:readline';

/** PyTorch beside the report, if there is one that sees a card: answers one request at a time (torch_rival.py). */
export class Rival {
  #process;
  #lines;

  /** Null where python3 has no PyTorch. */
  static find() {
    const python = process.env.PYTHON ?? 'python3';
    return spawnSync(python, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0
      ? new Rival(python)
      : null;
  }

  constructor(python) {
    this.#process = spawn(python, [path.join(import.meta.dirname, 'torch_rival.py')], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    this.#lines = readline.createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /** What it measured, or `{ error }`. */
  async ask(request, seconds = 60) {
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(() => resolve({ late: true }), seconds * 1000);
    });
    const line = await Promise.race([this.#lines.next(), late]);
    clearTimeout(timer);
    if (line.late) {
      this.end(); // its answer would be taken for the next one's
      return { error: `no answer in ${seconds} s` };
    }
    return line.done ? { error: 'PyTorch has ended' } : JSON.parse(line.value);
  }

  end() {
    this.#process.kill();
  }
}

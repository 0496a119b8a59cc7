import { spawn, spawnSync } from 'node:child_process';
import path from 'node:path';
import readline from 'node:readline';

/** PyTorch beside the report: answers one request at a time (torch_rival.py). */
export class Rival {
  #command;
  #process;
  #lines;

  /**
   * Null where python3 has no PyTorch.
   * @param onCpu for a rehearsal: computes on the CPU, where nothing is compiled to machine code
   */
  static find(device, onCpu) {
    const python = process.env.PYTHON ?? 'python3';
    return spawnSync(python, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0
      ? new Rival(python, onCpu ? 'cpu' : device)
      : null;
  }

  constructor(python, device) {
    this.#command = [python, [path.join(import.meta.dirname, 'torch_rival.py'), '--device', device]];
    this.#start();
  }

  #start() {
    this.#process = spawn(...this.#command, { stdio: ['pipe', 'pipe', 'ignore'] });
    this.#process.stdin.on('error', () => {}); // it has ended: that no answer comes says so
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
    if (!line.late && !line.done) return JSON.parse(line.value);
    this.end(); // a late answer would be taken for the next one's
    this.#start();
    return { error: line.late ? `no answer in ${seconds} s` : 'PyTorch ended' };
  }

  end() {
    this.#process.kill('SIGKILL');
  }
}

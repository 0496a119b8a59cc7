/** The command line in a process of its own. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { packageRoot } from '../../lib/native.js';

export const program = path.join(packageRoot(), 'bin', 'tokenflow.js');

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** A command that was started. */
export class Command {
  stdout = '';
  stderr = '';
  readonly process: ChildProcess;
  readonly #ended: Promise<[number | null, NodeJS.Signals | null]>;

  constructor(
    args: readonly string[],
    options: { cwd?: string; input?: string; env?: NodeJS.ProcessEnv } = {},
  ) {
    const { cwd, input, env } = options;
    this.process = spawn(process.execPath, [program, ...args], { cwd, env: { ...process.env, ...env } });
    this.#ended = once(this.process, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
    this.process.stdout!.on('data', (data) => {
      this.stdout += data;
    });
    this.process.stderr!.on('data', (data) => {
      this.stderr += data;
    });
    this.process.stdin!.on('error', () => {}); // one that ends without reading
    this.process.stdin!.end(input);
  }

  async ended(): Promise<Ended> {
    const [code, signal] = await this.#ended;
    return { code, signal, stdout: this.stdout, stderr: this.stderr };
  }

  /** Resolves when what it said on stderr matches. */
  async says(what: RegExp): Promise<void> {
    while (!what.test(this.stderr)) {
      if (this.process.exitCode !== null || this.process.signalCode !== null) {
        throw new Error(`it ended without saying ${what}: ${this.stderr}`);
      }
      await Promise.race([once(this.process.stderr!, 'data'), this.#ended]);
    }
  }
}

export function run(
  args: readonly string[],
  options?: ConstructorParameters<typeof Command>[1],
): Promise<Ended> {
  return new Command(args, options).ended();
}

/** Runs what must succeed. */
export async function succeed(...[args, options]: Parameters<typeof run>): Promise<Ended> {
  const result = await run(args, options);
  assert.equal(result.code, 0, `tokenflow ${args.join(' ')}: ${result.stderr}`);
  return result;
}

/** Runs what must fail with this exit code and this on stderr. */
export async function fail(
  args: readonly string[],
  code: number,
  message: RegExp,
  options?: Parameters<typeof run>[1],
): Promise<Ended> {
  const result = await run(args, options);
  assert.match(result.stderr, message);
  assert.equal(result.code, code, result.stderr);
  return result;
}

import { existsSync } from 'node:fs';
import { CommanderError } from 'commander';
import type { Device } from '../backends.js';
import type { Precision } from '../graph/ops.js';
import { BUNDLED_MODEL } from '../tokenizer/bundled-model.js';
import { TokenFlow } from '../tokenizer/tokenflow.js';
import type { LoadOptions } from '../tokenizer/types.js';

/** Options that every command has. */
export interface OutputOptions {
  json?: boolean;
  quiet?: boolean;
}

/** Options of the commands that run a model. */
export interface ModelOptions extends OutputOptions {
  model?: string;
  config?: LoadOptions['config'];
  device?: Device;
  precision?: Precision;
  batch?: number;
  threads?: number;
}

/** Code of our own usage errors, which the command has not yet complained of. */
export const USAGE = 'tokenflow.usage';

/** A mistake in how the command was called: exit code 2. */
export function usageError(message: string): CommanderError {
  return new CommanderError(2, USAGE, message);
}

/** Ends what is under way when the user presses Ctrl-C. */
const interruption = new AbortController();
export const interrupted: AbortSignal = interruption.signal;

/** What Ctrl-C does, one after the other; then it ends the process. */
const stages = [interruption];

/** The first Ctrl-C ends the command cleanly, a second one at once. */
export function listenForInterrupt(): void {
  process.on('SIGINT', function onInterrupt() {
    stages.shift()!.abort(new Error('interrupted'));
    if (stages.length === 0) process.off('SIGINT', onInterrupt);
  });
}

/** From now on the first Ctrl-C aborts the signal that this returns, and only a second one `interrupted`. */
export function stopFirst(): AbortSignal {
  const stopping = new AbortController();
  stages.unshift(stopping);
  return stopping.signal;
}

/** A command that did what it could and says why that is not all. */
export class CommandFailed extends Error {
  constructor(
    message: string,
    readonly exitCode = 1,
  ) {
    super(message);
  }
}

/** Says something to the person at the terminal: on stderr, and not with `--quiet`. */
export function say({ quiet }: OutputOptions, line: string): void {
  if (!quiet) process.stderr.write(`${line}\n`);
}

/** The command's result for programs: one line on stdout. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** The model that is in the package. */
export function bundledModel(): string | undefined {
  return existsSync(BUNDLED_MODEL) ? BUNDLED_MODEL : undefined;
}

export function modelPath({ model }: { model?: string }): string {
  const found = model ?? bundledModel();
  if (found !== undefined) return found;
  throw usageError('no bundled model here; name a checkpoint: --model tokenflow_clipb_32k_enhanced.pt');
}

/** Loads the model that the options name, telling how far reading has come when stderr is a terminal. */
export async function loadModel(options: ModelOptions, more: LoadOptions = {}): Promise<TokenFlow> {
  const { config, device, precision, batch, threads } = options;
  const live = process.stderr.isTTY && !options.quiet;
  return TokenFlow.load(modelPath(options), {
    config,
    device,
    precision,
    threads,
    batchSize: batch,
    signal: interrupted,
    onProgress: ({ loaded, total }) => {
      if (!live) return;
      const end = loaded === total ? '\r\x1b[K' : '';
      process.stderr.write(`\rreading weights ${Math.floor((100 * loaded) / total)} %${end}`);
    },
    ...more,
  });
}

/** Samples the resident size of this process until it is told to stop. */
export class ResidentSize {
  /** The largest size seen, in bytes. */
  peak = process.memoryUsage.rss();
  readonly #timer = setInterval(() => this.#sample(), 10).unref();

  stop(): void {
    clearInterval(this.#timer);
    this.#sample();
  }

  #sample(): void {
    this.peak = Math.max(this.peak, process.memoryUsage.rss());
  }
}

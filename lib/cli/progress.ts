/** How far a run has come: one line that is redrawn at a terminal, a line for each shard anywhere else. */

export interface ProgressState {
  /** Images that are done, those without tokens included. */
  images: number;
  errors: number;
  /** Images in all, where that is known. */
  totalImages?: number;
  shards: number;
  totalShards: number;
  /** Since the run began. */
  seconds: number;
}

const BAR_WIDTH = 24;

export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value: number) => String(value).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Share of the work that is done: by images where their number is known, else by shards. */
function share({ images, totalImages, shards, totalShards }: ProgressState): number {
  const [done, total] = totalImages === undefined ? [shards, totalShards] : [images, totalImages];
  return total === 0 ? 1 : Math.min(1, done / total);
}

/** `1 image`, `2 images`. */
export const count = (n: number, one: string, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** Numbers that both forms show. */
function facts(state: ProgressState): string {
  const { images, errors, totalImages, seconds } = state;
  const of = totalImages === undefined ? count(images, 'image') : `${images}/${count(totalImages, 'image')}`;
  const rate = seconds > 0 ? `${(images / seconds).toFixed(1)} images/s` : '';
  const done = share(state);
  const eta = done > 0 && done < 1 ? `ETA ${formatDuration((seconds / done) * (1 - done))}` : '';
  return [of, rate, eta, errors > 0 ? count(errors, 'error') : ''].filter(Boolean).join(', ');
}

/** The line that is redrawn, no wider than the terminal. */
export function progressBar(state: ProgressState, columns: number): string {
  const done = share(state);
  const filled = Math.round(done * BAR_WIDTH);
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
  const { shards, totalShards } = state;
  const line = `${bar} ${Math.floor(done * 100)} %  ${facts(state)}, shard ${Math.min(shards + 1, totalShards)}/${totalShards}`;
  return line.slice(0, Math.max(1, columns - 1));
}

/** The line for a shard that is done. */
export function progressLine(name: string, state: ProgressState): string {
  return `${name} (${state.shards}/${state.totalShards}): ${facts(state)}`;
}

/** Redraws at most so often, in milliseconds. */
const INTERVAL = 100;

/** Shows the progress of a run on a stream. */
export class Progress {
  #state: ProgressState = { images: 0, errors: 0, shards: 0, totalShards: 0, seconds: 0 };
  readonly #started = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #drawn = false;

  /** @param quiet shows nothing */
  constructor(
    readonly stream: NodeJS.WriteStream,
    readonly quiet = false,
  ) {}

  /** What has been done so far. */
  get state(): Readonly<ProgressState> {
    return { ...this.#state, seconds: (performance.now() - this.#started) / 1000 };
  }

  begin(totalImages: number | undefined, totalShards: number): void {
    this.#state = { ...this.#state, totalImages, totalShards };
    if (this.quiet || !this.stream.isTTY || totalShards === 0) return;
    this.#draw();
    this.#timer = setInterval(() => this.#draw(), INTERVAL).unref();
  }

  images(done: number, failed: number): void {
    this.#state.images += done;
    this.#state.errors += failed;
  }

  shard(name: string): void {
    this.#state.shards++;
    if (!this.stream.isTTY) this.say(progressLine(name, this.state));
  }

  /** A line of its own, above the bar. */
  say(line: string): void {
    if (this.quiet) return;
    const live = this.#timer !== undefined;
    this.#erase();
    this.stream.write(`${line}\n`);
    if (live) this.#draw();
  }

  /** Takes the bar away. */
  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#erase();
  }

  #draw(): void {
    this.stream.write(`\r${progressBar(this.state, this.stream.columns || 80)}\x1b[K`);
    this.#drawn = true;
  }

  #erase(): void {
    if (this.#drawn) this.stream.write('\r\x1b[K');
    this.#drawn = false;
  }
}

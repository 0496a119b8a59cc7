/**
 * The folder of a run:
 *
 *     manifest.json     what the run is, and the shards that are in place
 *     errors.jsonl      the images that could not be read
 *     shard-000000.*    tokens
 *     .tokenflow/       plan.jsonl, and shards/NAME.json: what came of each shard that is in place
 *
 * A shard is done when its record is in `.tokenflow/shards`, which comes after its files, each by a rename. Everything else can
 * be made again from plan and records; so a process may end anywhere, and several may work on one folder.
 */
import type { Stats } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import * as path from 'node:path';
import type { Plan, PlannedShard } from '../dataset/plan.js';
import { isAbandoned, isPart, PendingFile } from '../dataset/sinks/pending-file.js';
import { TokenFlowError } from '../errors.js';
import { systemError } from '../system-error.js';
import { damage } from './damage.js';
import type { ItemError } from './item-error.js';
import { difference, type Manifest, parseManifest, type RunIdentity, type ShardSummary } from './manifest.js';

/** What came of a shard. */
export interface ShardRecord {
  name: string;
  images: number;
  errors: ItemError[];
  files: ShardSummary['files'];
}

export class RunFolder {
  constructor(readonly path: string) {}

  /** Where a shard goes: the path of its files without their extensions. */
  shardBase(name: string): string {
    return path.join(this.path, name);
  }

  /** A file's path from the folder. */
  nameOf(file: string): string {
    return path.relative(this.path, file);
  }

  /** The manifest, if the folder has one. @throws TokenFlowError ERR_TOKENFLOW_IO, ERR_TOKENFLOW_FORMAT */
  async manifest(): Promise<Manifest | undefined> {
    const file = this.#at('manifest.json');
    const text = await readIfThere(file);
    return text === undefined ? undefined : parseManifest(text, file);
  }

  /** As `manifest`, where one is needed. */
  async existingManifest(): Promise<Manifest> {
    const manifest = await this.manifest();
    if (manifest) return manifest;
    if (!(await statIfThere(this.path))) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_IO',
        `Expected the folder of a run but there is no folder ${this.path}`,
      );
    }
    throw new TokenFlowError(
      'ERR_TOKENFLOW_IO',
      `Expected the folder of a run but ${this.path} has no manifest.json; make one with 'tokenflow tokenize'`,
    );
  }

  /**
   * Takes the folder for a run: makes it, or goes on in it where the same run has been before.
   *
   * @param goOn whether going on is what was asked for
   * @throws TokenFlowError ERR_TOKENFLOW_IO; ERR_TOKENFLOW_INVALID_ARGUMENT when the folder is another's, or this run's and `goOn`
   * is false. What is there stays as it is.
   */
  async begin(identity: RunIdentity, plan: Plan, goOn: boolean): Promise<void> {
    const before = await this.manifest();
    if (!before) await this.#refuseStrangers();
    await this.#makeFolders();
    if (!before) {
      const fresh: Manifest = { version: 1, ...identity, complete: false, images: 0, errors: 0, shards: [] };
      await this.#write('manifest.json', pretty(fresh));
    }
    const there = before ?? (await this.existingManifest()); // of whoever was last, should two begin at once
    const differs = difference(there, identity);
    if (differs) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `${this.path} holds another run: ${differs}; name another folder with --out`,
      );
    }
    if (before && !goOn) {
      const state = before.complete ? 'is complete' : 'can be gone on with: add --resume';
      throw new TokenFlowError(
        'ERR_TOKENFLOW_INVALID_ARGUMENT',
        `${this.path} holds this run already, which ${state}; or name another folder with --out`,
      );
    }
    if ((await readIfThere(this.#at('.tokenflow', 'plan.jsonl'))) === undefined) {
      const lines = plan.shards.map((shard) => `${JSON.stringify(shard)}\n`);
      await this.#write('.tokenflow/plan.jsonl', lines.join(''));
    }
  }

  /** The shards that are to be made. @throws TokenFlowError ERR_TOKENFLOW_IO */
  async plan(): Promise<PlannedShard[]> {
    const file = this.#at('.tokenflow', 'plan.jsonl');
    const text = await readIfThere(file);
    if (text === undefined) {
      throw new TokenFlowError(
        'ERR_TOKENFLOW_IO',
        `${file} is missing; name the sources again, with --resume`,
      );
    }
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as PlannedShard);
  }

  /** What came of a shard when it was finished, whatever has become of its files. */
  async finished(name: string): Promise<ShardRecord | undefined> {
    const file = this.#record(name);
    const text = await readIfThere(file);
    if (text === undefined) return undefined;
    try {
      return JSON.parse(text) as ShardRecord;
    } catch (cause) {
      const message = `Cannot read ${file}: ${(cause as Error).message}; remove it, and make its shard again with --resume`;
      throw new TokenFlowError('ERR_TOKENFLOW_FORMAT', message, { cause });
    }
  }

  /** What came of a shard, if it is in place: recorded, and its files are there. */
  async record(name: string): Promise<ShardRecord | undefined> {
    const record = await this.finished(name);
    for (const { name: file, bytes } of record?.files ?? []) {
      if ((await statIfThere(this.#at(file)))?.size !== bytes) return undefined;
    }
    return record;
  }

  /**
   * Every shard that is finished, in the order of the plan: those that the manifest lists, and those that came after it was
   * written, as in a run that was killed.
   */
  async shards(manifest: Manifest, plan: readonly PlannedShard[]): Promise<ShardSummary[]> {
    const listed = new Map(manifest.shards.map((shard) => [shard.name, shard]));
    const found: ShardSummary[] = [];
    for (const { name } of plan) {
      const record = listed.has(name) ? undefined : await this.finished(name);
      const shard = listed.get(name) ?? (record && summaryOf(record));
      if (shard) found.push(shard);
      listed.delete(name);
    }
    return [...found, ...listed.values()];
  }

  /**
   * Forgets that shards are in place whose files are not as they were written, so that they are made again.
   *
   * @param onDamage told of each, and what is wrong with it
   */
  async forgetDamaged(
    shards: readonly PlannedShard[],
    onDamage: (name: string, problem: string) => void = () => {},
    signal?: AbortSignal,
  ): Promise<void> {
    for (const { name } of shards) {
      const record = await this.finished(name);
      const problem = record && (await damage(this.path, record.files, signal));
      if (!problem) continue;
      await rm(this.#record(name), { force: true });
      onDamage(name, problem);
    }
  }

  /** Records of the shards that are in place, by name. */
  async records(shards: readonly PlannedShard[]): Promise<Map<string, ShardRecord>> {
    const records = new Map<string, ShardRecord>();
    for (const { name } of shards) {
      const record = await this.record(name);
      if (record) records.set(name, record);
    }
    return records;
  }

  /** Says that a shard is in place. */
  async putRecord(record: ShardRecord): Promise<void> {
    await this.#write(path.relative(this.path, this.#record(record.name)), `${JSON.stringify(record)}\n`);
  }

  /** Brings manifest.json and errors.jsonl up to date. Any process may do it at any time. */
  async summarize(): Promise<Manifest> {
    const { shards: _, ...run } = await this.existingManifest();
    const plan = await this.plan();
    const records = await this.records(plan);
    const inPlace = plan.flatMap(({ name }) => records.get(name) ?? []);
    const errors = inPlace.flatMap((record) => record.errors);
    const manifest: Manifest = {
      ...run,
      complete: inPlace.length === plan.length,
      images: inPlace.reduce((sum, { images }) => sum + images, 0),
      errors: errors.length,
      shards: inPlace.map(summaryOf),
    };
    await this.#write('errors.jsonl', errors.map((error) => `${JSON.stringify(error)}\n`).join(''));
    await this.#write('manifest.json', pretty(manifest));
    if (manifest.complete) await this.#removeParts((name) => name.startsWith('.shard-')); // nobody needs them any more
    return manifest;
  }

  /** The first image of the run that has no tokens. @throws TokenFlowError ERR_TOKENFLOW_IO */
  async firstError(): Promise<ItemError | undefined> {
    const [line] = ((await readIfThere(this.#at('errors.jsonl'))) ?? '').split('\n', 1);
    return line === '' ? undefined : (JSON.parse(line) as ItemError);
  }

  /** Lines of errors.jsonl; undefined when it is not there. @throws TokenFlowError ERR_TOKENFLOW_IO */
  async errorLines(): Promise<number | undefined> {
    const text = await readIfThere(this.#at('errors.jsonl'));
    return text?.split('\n').filter((line) => line !== '').length;
  }

  /** Removes what processes of this machine left half-written when they were killed. */
  async removeAbandoned(): Promise<void> {
    await this.#removeParts(isAbandoned);
  }

  async #removeParts(which: (name: string) => boolean): Promise<void> {
    for (const folder of [this.path, this.#at('.tokenflow'), this.#at('.tokenflow', 'shards')]) {
      for (const name of await readdir(folder)) {
        if (isPart(name) && which(name)) await rm(path.join(folder, name), { force: true });
      }
    }
  }

  #at(...names: string[]): string {
    return path.join(this.path, ...names);
  }

  #record(name: string): string {
    return this.#at('.tokenflow', 'shards', `${name}.json`);
  }

  async #makeFolders(): Promise<void> {
    try {
      await mkdir(this.#at('.tokenflow', 'shards'), { recursive: true });
    } catch (cause) {
      throw systemError('make the folder', this.path, cause);
    }
  }

  async #refuseStrangers(): Promise<void> {
    if (!(await statIfThere(this.path))?.isDirectory()) return;
    const others = (await readdir(this.path)).filter((name) => !name.startsWith('.'));
    if (others.length === 0) return;
    throw new TokenFlowError(
      'ERR_TOKENFLOW_INVALID_ARGUMENT',
      `${this.path} is not empty (${others[0]}) and holds no run; name another folder with --out`,
    );
  }

  /** Writes a file that appears whole. */
  async #write(name: string, text: string): Promise<void> {
    const file = await PendingFile.create(this.#at(name));
    try {
      await file.write(Buffer.from(text));
      await file.seal();
      await file.publish();
    } finally {
      await file.discard();
    }
  }
}

const summaryOf = (record: ShardRecord): ShardSummary => ({ ...record, errors: record.errors.length });

const pretty = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

const isAbsent = (error: unknown): boolean =>
  ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (isAbsent(cause)) return undefined;
    throw systemError('read', file, cause);
  }
}

async function statIfThere(file: string): Promise<Stats | undefined> {
  try {
    return await stat(file);
  } catch (cause) {
    if (isAbsent(cause)) return undefined;
    throw systemError('read', file, cause);
  }
}

// `tokenflow queue`: several processes, one folder, one Redis, and what goes wrong between them.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect } from '../lib/queue/redis.js';
import { Command, run, succeed } from './support/command.js';
import { contentOf, writePictures } from './support/dataset.js';

/** Redis on a free port of this machine, its data in a folder of its own. */
class RedisServer {
  #process: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    readonly folder: string,
  ) {}

  static async start(folder: string): Promise<RedisServer> {
    const probe = net.createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => probe.once('listening', resolve));
    const { port } = probe.address() as net.AddressInfo;
    await new Promise((resolve) => probe.close(resolve));
    const server = new RedisServer(port, folder);
    await server.start();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const settings = ['--bind', '127.0.0.1', '--port', String(this.port), '--dir', this.folder, '--save', ''];
    this.#process = spawn('redis-server', settings, { stdio: 'ignore' });
    for (;;) {
      const socket = net.connect(this.port, '127.0.0.1');
      const answered = await new Promise((resolve) =>
        socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
      );
      socket.destroy();
      if (answered) return;
      assert.equal(this.#process.exitCode, null, 'redis-server ended');
      await delay(20);
    }
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#process!.once('exit', resolve));
    this.#process!.kill('SIGTERM');
    await ended;
  }
}

describe('a queue of shards', function () {
  this.timeout(240_000);
  const INTERNAL = /^\.tokenflow/;
  let folder: string;
  let redis: RedisServer;
  const at = (...names: string[]) => path.join(folder, ...names);
  const queue = (verb: string, out: string, ...more: string[]) => [
    ...['queue', verb, '--out', at(out), '--redis', redis.url, ...more],
  ];
  const worker = (out: string) =>
    new Command(queue('work', out, '--lock', '2', '--threads', '1', '--batch', '1'));
  const isShard = (name: string) => /^shard-.*\.npy$/.test(name);
  const shardsIn = (out: string) => readdirSync(at(out)).filter(isShard).length;
  const partsIn = (out: string) =>
    readdirSync(at(out)).filter((name) => /^\.shard-.*\.part$/.test(name)).length;

  before(async function () {
    if (spawnSync('redis-server', ['--version']).status !== 0) {
      console.log('      not run: redis-server is missing (apt-get install redis-server)');
      this.skip();
    }
    folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-queue-'));
    mkdirSync(at('redis'));
    redis = await RedisServer.start(at('redis'));
    await writePictures(at('photos'), 48);
    await succeed(['tokenize', at('photos'), '--out', at('single'), '--shard-size', '4']);
  });
  after(async () => {
    await redis?.stop();
    if (folder) rmSync(folder, { recursive: true });
  });

  it('is worked off by four processes, of which two are killed, while Redis goes and comes back', async () => {
    await succeed(queue('submit', 'many', at('photos'), '--shard-size', '4'));
    const workers = [1, 2, 3, 4].map(() => worker('many'));
    for (const victim of workers.slice(0, 2)) {
      const before = shardsIn('many');
      while (partsIn('many') === 0 || shardsIn('many') === before) await delay(10);
      victim.process.kill('SIGKILL');
    }
    await redis.stop();
    await delay(700);
    await redis.start(); // which has forgotten everything
    const [killed, others] = [workers.slice(0, 2), workers.slice(2)];
    for (const { signal } of await Promise.all(killed.map((command) => command.ended())))
      assert.equal(signal, 'SIGKILL');
    for (const { code, stderr } of await Promise.all(others.map((command) => command.ended()))) {
      assert.equal(code, 0, stderr);
      assert.match(stderr, /Redis is gone[\s\S]*Redis is back/);
      assert.match(stderr, /12 of 12 shards are in place/);
    }
    assert.deepEqual(contentOf(at('many'), INTERNAL), contentOf(at('single'), INTERNAL));
    await succeed(['verify', at('many')]);
    const { stdout } = await succeed(queue('status', 'many', '--json'));
    const { inPlace, waiting, active, failed } = JSON.parse(stdout);
    assert.deepEqual([inPlace, waiting, active, failed], [12, 0, 0, 0]);
  });

  it('waits for Redis with a connection that is made while it is gone', async () => {
    await redis.stop();
    const client = await connect(redis.url, undefined, true);
    const answer = client.ping();
    await delay(300);
    await redis.start();
    assert.equal(await answer, 'PONG');
    client.disconnect();
  });

  it('gives the shard of a worker that dies to another', async () => {
    await succeed(queue('submit', 'two', at('photos'), '--shard-size', '24'));
    const first = worker('two');
    while (partsIn('two') === 0) await delay(10);
    first.process.kill('SIGKILL');
    await first.ended();
    const { stderr } = await succeed(queue('work', 'two', '--lock', '2'));
    assert.match(stderr, /2 shards, 48 images made here; 2 of 2 shards are in place/);
    await succeed(['verify', at('two')]);
    assert.equal(partsIn('two'), 0, 'what the dead worker was writing is still there');
  });

  it('finishes the shard that was begun when it is interrupted, and leaves the others', async () => {
    await succeed(queue('submit', 'stopped', at('photos'), '--shard-size', '8'));
    const first = worker('stopped');
    while (partsIn('stopped') === 0) await delay(10);
    first.process.kill('SIGINT');
    const { code, stderr } = await first.ended();
    assert.equal(code, 130, stderr);
    assert.equal(partsIn('stopped'), 0);
    assert.ok(shardsIn('stopped') >= 1 && shardsIn('stopped') < 6);
    await succeed(queue('work', 'stopped', '--lock', '2'));
    assert.equal(shardsIn('stopped'), 6);
  });

  it('tells shards that cannot be made; they can be submitted again', async () => {
    mkdirSync(at('tars'));
    writeFileSync(at('tars', 'a.tar'), 'this is no tar');
    await succeed(queue('submit', 'broken', at('tars')));
    const failed = await run(queue('work', 'broken', '--lock', '2'));
    assert.equal(failed.code, 1, failed.stderr);
    assert.match(failed.stderr, /1 shard could not be made, the first is shard-000000: .*a\.tar/);
    const { stdout } = await succeed(queue('status', 'broken'));
    assert.match(stdout, /0 of 1 shard is in place[\s\S]*1 failed[\s\S]*shard-000000: Cannot read the tar/);
    rmSync(at('tars', 'a.tar'));
    spawnSync('tar', ['-cf', at('tars', 'a.tar'), '-C', at('photos'), '0.png', '1.png']);
    await succeed(queue('submit', 'broken'));
    await succeed(queue('work', 'broken', '--lock', '2'));
    assert.equal(JSON.parse(readFileSync(at('broken', 'manifest.json'), 'utf8')).images, 2);
  });

  it('says what is wrong: no Redis, no run, another model', async () => {
    const nowhere = await run(['queue', 'status', '--out', at('single'), '--redis', 'redis://127.0.0.1:1']);
    assert.equal(nowhere.code, 1);
    assert.match(
      nowhere.stderr,
      /^tokenflow: Cannot reach Redis at redis:\/\/127\.0\.0\.1:1: .*ECONNREFUSED.*--redis\n$/,
    );
    const empty = await run(queue('work', 'nothing'));
    assert.equal(empty.code, 1);
    assert.match(empty.stderr, /there is no folder .*nothing/);
    assert.ok(!existsSync(at('nothing')));
    const other = path.join(__dirname, '..', '..', 'test', 'golden', 'clipb');
    const wrong = await run(
      queue('work', 'single', '--model', other, '--config', path.join(other, 'config.json')),
    );
    assert.equal(wrong.code, 1);
    assert.match(wrong.stderr, /cannot go on with the run: its model is the one of sha256/);
  });
});

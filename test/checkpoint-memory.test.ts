import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, statfsSync, writeFileSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pickle, pickledTensor, scratchFolder, zip } from './checkpoint-builders.js';

const TENSORS = 25;
const ELEMENTS = 1 << 21;
const ISSUE_LIMIT = 1.4;

/** Reads every tensor and keeps it; prints how far the process's peak resident size rose, and the bytes kept. */
const CHILD = `
const { readFileSync } = require('node:fs');
const { openCheckpoint } = require(process.argv[1]);
const peak = () => 1024 * Number(/VmHWM:\\s*(\\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
const before = peak();
const checkpoint = openCheckpoint(process.argv[2]);
const kept = [...checkpoint.tensors.keys()].map((name) => checkpoint.read(name));
checkpoint.close();
const sum = kept.reduce((total, tensor) => total + tensor[0] + tensor[tensor.length - 1], 0);
console.log(JSON.stringify({ rise: peak() - before, kept: kept.reduce((n, t) => n + t.byteLength, 0), sum }));
`;

/** A safetensors file of `TENSORS` tensors, each of ones, written piece by piece. */
function writeLarge(file: string, dtype: 'F32' | 'F16' | 'BF16'): void {
  const item = dtype === 'F32' ? 4 : 2;
  const size = ELEMENTS * item;
  const header = Object.fromEntries(
    Array.from({ length: TENSORS }, (_, i) => [
      `t${i}`,
      { dtype, shape: [ELEMENTS / 1024, 1024], data_offsets: [i * size, (i + 1) * size] },
    ]),
  );
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const ones =
    dtype === 'F32'
      ? new Float32Array(ELEMENTS).fill(1)
      : new Uint16Array(ELEMENTS).fill(dtype === 'F16' ? 0x3c00 : 0x3f80);
  const fd = openSync(file, 'w');
  writeSync(fd, length);
  writeSync(fd, text);
  for (let i = 0; i < TENSORS; i++) writeSync(fd, new Uint8Array(ones.buffer));
  closeSync(fd);
}

/** The same tensors as torch.save lays them out. */
function writeLargeTorch(file: string): void {
  const storage = new Uint8Array(new Float32Array(ELEMENTS).fill(1).buffer);
  const int = pickle.int;
  const entries = Array.from({ length: TENSORS }, (_, i): [Buffer, Buffer] => [
    pickle.str(`t${i}`),
    pickledTensor({
      key: String(i),
      count: int(ELEMENTS),
      shape: [int(ELEMENTS / 1024), int(1024)],
      strides: [int(1024), int(1)],
    }),
  ]);
  const parts = [
    { name: 'archive/data.pkl', data: pickle.program(pickle.dict(entries)) },
    ...entries.map((_, i) => ({ name: `archive/data/${i}`, data: storage })),
  ];
  writeFileSync(file, zip(parts));
}

describe('memory while reading a checkpoint', function () {
  this.timeout(120_000);
  const scratch = scratchFolder();
  after(() => scratch.remove());

  before(function () {
    if (!existsSync('/proc/self/status')) {
      console.log('      skipped: peak memory is read from /proc, which this system lacks');
      this.skip();
    }
    const { bavail, bsize } = statfsSync(os.tmpdir());
    if (bavail * bsize < 1e9 || os.freemem() < 2e9) {
      console.log('      skipped: needs 1 GB of temporary space and 2 GB of memory');
      this.skip();
    }
  });

  const rise = (file: string) => {
    const module = path.join(__dirname, '..', 'lib', 'checkpoint', 'checkpoint.js');
    const child = spawnSync(process.execPath, ['-e', CHILD, module, file], { encoding: 'utf8' });
    assert.equal(child.status, 0, child.stderr);
    const result = JSON.parse(child.stdout) as { rise: number; kept: number; sum: number };
    assert.equal(result.kept, TENSORS * ELEMENTS * 4);
    assert.equal(result.sum, 2 * TENSORS);
    assert.ok(result.rise > 0.9 * result.kept, 'the peak is that of the tensors, or it was measured wrongly');
    return result.rise / result.kept;
  };

  for (const dtype of ['F32', 'F16', 'BF16'] as const) {
    it(`stays under ${ISSUE_LIMIT} times the weights: safetensors, ${dtype}`, () => {
      const file = path.join(scratch.path, `${dtype}.safetensors`);
      writeLarge(file, dtype);
      const ratio = rise(file);
      assert.ok(ratio < ISSUE_LIMIT, `${ratio.toFixed(3)} times`);
    });
  }

  it(`stays under ${ISSUE_LIMIT} times the weights: PyTorch`, () => {
    const file = path.join(scratch.path, 'large.pt');
    writeLargeTorch(file);
    const ratio = rise(file);
    assert.ok(ratio < ISSUE_LIMIT, `${ratio.toFixed(3)} times`);
  });
});

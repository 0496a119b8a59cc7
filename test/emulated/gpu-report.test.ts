import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { native, packageRoot } from '../../lib/native.js';

// There is one run on a card at a time, and none to spare for a slip: every line of the report is run here, at small sizes.
describe('the report of a GPU machine, rehearsed on the emulated card', function () {
  this.timeout(600_000);
  let out: string;
  before(function () {
    if (native().cudaStatus().devices[0]?.name !== 'Emulated card') {
      console.log('    skipped: no emulated card here; npm run test:simt runs these');
      return this.skip();
    }
    out = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-report-'));
  });
  after(() => {
    if (out) rmSync(out, { recursive: true });
  });

  const script = path.join(packageRoot(), 'tools', 'gpu', 'report.mjs');
  const report = (...options: string[]) => {
    const run = spawnSync(process.execPath, [script, '--rehearse', '--out', out, ...options], {
      encoding: 'utf8',
      cwd: packageRoot(),
    });
    const json = path.join(out, 'emulated-card.json');
    return { run, result: existsSync(json) ? JSON.parse(readFileSync(json, 'utf8')) : null };
  };

  it('runs every section to its end and writes both files', () => {
    const { run, result } = report('--minutes', '30');
    assert.equal(run.status, 0, run.stderr);
    assert.deepEqual(result.failures, []);
    assert.deepEqual(result.leftOut, []);
    const { sections } = result;
    for (const [name, section] of Object.entries<{ cutShort?: number }>(sections)) {
      assert.equal(section.cutShort, undefined, name);
    }
    assert.equal(sections['lookup-equal'].found.different, 0);
    assert.ok(sections.tests.found.passed > 0);
    assert.equal(sections['lookup-times'].rows.length, 2);
    assert.deepEqual(
      sections.models.rows.map(({ part }: { part: string }) => part),
      ['encode', 'decode'],
    );
    for (const row of [...sections.models.rows, ...sections['lookup-times'].rows]) {
      assert.equal(row.error, undefined);
      if ('part' in row) assert.ok(row.momentsGroupNorm > 0 && row.separateGroupNorm > 0);
      assert.ok(row.ours > 0);
      if (!result.torch) continue;
      // Older PyTorch has neither torch.compile nor scaled_dot_product_attention, and says so.
      for (const name of ['matmul', 'cdist', 'torch', 'torchCompiled']) {
        if (!(name in row)) continue;
        assert.ok(row[name] > 0 || /has no attribute/.test(row[name]), `${name}: ${row[name]}`);
      }
    }
    if (result.torch) assert.ok(sections.ceilings.found.bf16Tflops > 0);
    else console.log("      PyTorch's part was left out: python3 has none here");
    assert.ok(sections['bf16-tokens'].found.share < 0.9);
    const text = readFileSync(path.join(out, 'emulated-card.md'), 'utf8');
    assert.match(text, /^# Emulated card\n[\s\S]*A rehearsal[\s\S]*## Models\n/);
    assert.doesNotMatch(text, /undefined|NaN|\[object/);
  });

  it('keeps to its time, and says what that cost', () => {
    const started = performance.now();
    const { run, result } = report('--minutes', '0.2');
    assert.ok(performance.now() - started < 60_000);
    assert.ok(run.status === 0 || run.status === 1, run.stderr);
    const cut = Object.values<{ cutShort?: number }>(result.sections).filter(({ cutShort }) => cutShort);
    assert.ok(cut.length > 0 || result.leftOut.length > 0);
    assert.match(readFileSync(path.join(out, 'emulated-card.md'), 'utf8'), /Cut short after|Left out/);
  });
});

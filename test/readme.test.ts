/** The examples of the README that import something are programs: each is checked against the package's types and runs. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { packageRoot } from '../lib/native.js';

const root = packageRoot();
const readme = readFileSync(path.join(root, 'README.md'), 'utf8');
const examples = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)]
  .map(([, code]) => code)
  .filter((code) => code.includes("from 'tokenflow"));
const runnable = examples.filter((code) => !code.includes('.pt')); // the official checkpoints are not at hand

describe('examples of the README', () => {
  // Inside the package, so that 'tokenflow' is the package itself.
  let folder: string;
  before(() => {
    mkdirSync(path.join(root, 'build'), { recursive: true });
    folder = mkdtempSync(path.join(root, 'build', 'readme-'));
    // What the examples speak of.
    const photograph = path.join(root, 'samples', 'coffee-cup.jpg');
    copyFileSync(photograph, path.join(folder, 'photo.jpg'));
    mkdirSync(path.join(folder, 'photos'));
    copyFileSync(photograph, path.join(folder, 'photos', 'cup.jpg'));
    writeFileSync(path.join(folder, 'photos', 'broken.jpg'), 'not an image');
  });
  after(() => rmSync(folder, { recursive: true, force: true }));
  const fileOf = (i: number, extension: string) => path.join(folder, `example-${i}.${extension}`);

  it('show a lookup, a dual lookup, k-means and a residual quantiser', () => {
    for (const shown of [
      'new Codebook(',
      'new DualCodebook(',
      'kMeans(',
      'new ResidualQuantizer(',
      'TokenFlow.load(',
    ])
      assert.ok(
        examples.some((code) => code.includes(shown)),
        shown,
      );
  });

  it('agree with the types', () => {
    const files = examples.map((code, i) => {
      writeFileSync(fileOf(i, 'mts'), code);
      return fileOf(i, 'mts');
    });
    const program = ts.createProgram(files, {
      module: ts.ModuleKind.Node16,
      moduleResolution: ts.ModuleResolutionKind.Node16,
      target: ts.ScriptTarget.ES2022,
      lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
      types: ['node'],
      strict: true,
      noEmit: true,
      skipLibCheck: true,
    });
    const complaints = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
      return `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
    });
    assert.deepEqual(complaints, []);
  }).timeout(120_000);

  runnable.forEach((code, i) => {
    it(`run: ${code.split('\n').find((line) => line.startsWith('const')) ?? i}`, () => {
      const options = { module: ts.ModuleKind.ES2022, target: ts.ScriptTarget.ES2022 };
      const { outputText } = ts.transpileModule(code, { compilerOptions: options });
      writeFileSync(fileOf(i, 'mjs'), outputText);
      const run = spawnSync(process.execPath, [fileOf(i, 'mjs')], { encoding: 'utf8', cwd: folder });
      assert.equal(run.status, 0, run.stderr);
    }).timeout(120_000);
  });
});

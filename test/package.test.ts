import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';

describe('the package', function () {
  this.timeout(180_000);
  const root = packageRoot();
  let consumer: string;

  const run = (args: string[], cwd: string) => {
    const result = spawnSync(process.execPath, args, { cwd, encoding: 'utf8' });
    assert.equal(result.status, 0, `${args.join(' ')}\n${result.stdout}${result.stderr}`);
    return result.stdout.trim();
  };

  before(() => {
    consumer = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-consumer-'));
    mkdirSync(path.join(consumer, 'node_modules'));
    symlinkSync(root, path.join(consumer, 'node_modules', 'tokenflow'), 'dir');
  });
  after(() => rmSync(consumer, { recursive: true }));

  it('satisfies publint', () => {
    run([path.join(root, 'node_modules/publint/src/cli.js'), '--strict'], root);
  });

  it('has types that resolve for ESM and CommonJS users', () => {
    run(
      [
        path.join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js'),
        '--pack',
        '.',
        '--profile',
        'node16',
      ],
      root,
    );
  });

  for (const [name, options] of Object.entries({
    'with @types/node and no DOM library': { lib: ['ES2022'], types: ['node'], skipLibCheck: false },
    'without @types/node, by the DOM library': { lib: ['ES2022', 'DOM'], types: [], skipLibCheck: true },
  })) {
    it(`has types that serve ${name}`, () => {
      const user = `
        import { TokenFlow, ERROR_CODES, Codebook, readNpy, writeNpy, openCheckpoint, toPng } from 'tokenflow';
        import type { ErrorCode, ImageSource } from 'tokenflow';
        import { kMeans } from 'tokenflow/codebook';
        export const code: ErrorCode = ERROR_CODES[0];
        export const image: ImageSource = new URL('file:///a.jpg');
        export async function use(signal: AbortSignal): Promise<Float32Array> {
          const tokenizer = await TokenFlow.load('model.pt', { signal });
          const encoded = await tokenizer.encode([image, new Uint8Array(3)], { signal });
          const png: Uint8Array = await toPng(new Uint8Array(3), 1, 1);
          writeNpy('x.npy', { data: png, shape: [png.length] });
          // @ts-expect-error: no such option
          await tokenizer.decode(encoded, { scale: 1 });
          return tokenizer.codes(encoded).codes;
        }
        export { Codebook, kMeans, openCheckpoint, readNpy };`;
      writeFileSync(path.join(consumer, 'user.mts'), user);
      writeFileSync(path.join(consumer, 'user.cts'), user);
      const compilerOptions = {
        ...options,
        target: 'ES2022',
        module: 'Node16',
        strict: true,
        noEmit: true,
        typeRoots: [path.join(root, 'node_modules', '@types')],
      };
      const project = JSON.stringify({ compilerOptions, files: ['user.mts', 'user.cts'] });
      writeFileSync(path.join(consumer, 'tsconfig.json'), project);
      run([path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json'], consumer);
    });
  }

  it('gives require() and import the same classes', () => {
    const script = `
      import * as esm from 'tokenflow';
      import * as codebook from 'tokenflow/codebook';
      import { createRequire } from 'node:module';
      const cjs = createRequire(import.meta.url)('tokenflow');
      const names = Object.keys(cjs).sort();
      for (const name of names) if (esm[name] !== cjs[name]) throw new Error(name + ' differs');
      for (const name of Object.keys(codebook)) {
        if (name in cjs && codebook[name] !== cjs[name]) throw new Error(name + ' differs under tokenflow/codebook');
      }
      console.log(names.includes('TokenFlowError'));`;
    writeFileSync(path.join(consumer, 'user.mjs'), script);
    assert.equal(run(['user.mjs'], consumer), 'true');
  });

  it('does not load the addon, sharp or a model until they are used', () => {
    const script = `
      require('tokenflow'); require('tokenflow/codebook');
      const loaded = Object.keys(require.cache).filter((file) => /\\.node$|[\\\\/]sharp[\\\\/]/.test(file));
      if (loaded.length) throw new Error('loaded: ' + loaded.join(', '));`;
    run(['-e', script], consumer);
  });

  it('keeps registry hosts out of the lock file', () => {
    const lock = require(path.join(root, 'package-lock.json')) as {
      packages: Record<string, { resolved?: string }>;
    };
    const named = Object.entries(lock.packages).filter(([, entry]) => entry.resolved);
    assert.deepEqual(named, []);
  });
});

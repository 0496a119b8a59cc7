// tools/setup.mjs in a clone whose tools are stand-ins: what it runs, and what it makes of a stale build folder.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';

describe('the setup', function () {
  this.timeout(180_000);
  let clone: string;
  const at = (...names: string[]) => path.join(clone, ...names);

  beforeEach(() => {
    clone = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-setup-'));
    for (const folder of [
      'tools',
      'bin',
      'native',
      'lib',
      'build',
      'node_modules/cmake-js/bin',
      'node_modules/typescript/bin',
    ]) {
      mkdirSync(at(folder), { recursive: true });
    }
    copyFileSync(path.join(packageRoot(), 'tools', 'setup.mjs'), at('tools', 'setup.mjs'));
    for (const file of ['CMakeLists.txt', 'package-lock.json', 'tsconfig.json']) writeFileSync(at(file), '');
    for (const tool of ['npm', 'g++', 'cmake']) standIn(tool);
    symlinkSync(process.execPath, at('bin', 'node'));
    // Builds, and notes whether it found a configured folder.
    writeFileSync(
      at('node_modules/cmake-js/bin/cmake-js'),
      `const fs = require('node:fs');
       fs.appendFileSync('builds', fs.existsSync('build/CMakeCache.txt') ? 'again\\n' : 'anew\\n');
       fs.mkdirSync('build/Release', { recursive: true });
       fs.writeFileSync('build/Release/tokenflow.node', '');
       const generator = fs.existsSync('bin/ninja') ? 'Ninja' : 'Unix Makefiles';
       fs.writeFileSync('build/CMakeCache.txt',
         'CMAKE_GENERATOR:INTERNAL=' + generator + '\\nCMAKE_HOME_DIRECTORY:INTERNAL=' + process.cwd() + '\\n');`,
    );
    writeFileSync(
      at('node_modules/typescript/bin/tsc'),
      `const fs = require('node:fs'); fs.mkdirSync('dist', { recursive: true }); fs.writeFileSync('dist/index.js', '');`,
    );
  });
  afterEach(() => rmSync(clone, { recursive: true }));

  function standIn(tool: string) {
    writeFileSync(at('bin', tool), '#!/bin/sh\nexit 0\n');
    chmodSync(at('bin', tool), 0o755);
  }

  function setup() {
    const result = spawnSync(process.execPath, [at('tools', 'setup.mjs')], {
      env: { PATH: at('bin') },
      encoding: 'utf8',
    });
    assert.equal(result.status, 0, result.stderr);
    return result.stderr;
  }

  const builds = () => readFileSync(at('builds'), 'utf8').trim().split('\n');
  /** Makes the native build stale. */
  const touch = () => writeFileSync(at('CMakeLists.txt'), `${Math.random()}`);

  it('says what it does and for how long, and does nothing twice', () => {
    const first = setup();
    assert.match(
      first,
      /^setup: npm ci .* s\nsetup: native build \(about .*two cores\) .* s\nsetup: typescript build .* s\n$/,
    );
    assert.equal(setup(), '');
    assert.deepEqual(builds(), ['anew']);
  });

  it('builds on what was configured while nothing changed about that', () => {
    setup();
    touch();
    setup();
    assert.deepEqual(builds(), ['anew', 'again']);
  });

  it('configures anew when ninja has come or gone, or the clone has moved', () => {
    setup();
    standIn('ninja');
    assert.equal(setup(), '', 'what is built stays');
    touch();
    setup();
    touch();
    setup();
    rmSync(at('bin', 'ninja'));
    touch();
    setup();
    const cache = readFileSync(at('build', 'CMakeCache.txt'), 'utf8');
    writeFileSync(
      at('build', 'CMakeCache.txt'),
      cache.replace(/(HOME_DIRECTORY:INTERNAL)=.*/, '$1=/elsewhere'),
    );
    touch();
    setup();
    assert.deepEqual(builds(), ['anew', 'anew', 'again', 'anew', 'anew']);
    assert.ok(existsSync(at('build', 'CMakeCache.txt')));
  });

  it('says what to type when a tool is missing', () => {
    rmSync(at('bin', 'cmake'));
    const result = spawnSync(process.execPath, [at('tools', 'setup.mjs')], {
      env: { PATH: at('bin') },
      encoding: 'utf8',
    });
    assert.equal(result.status, 1);
    assert.match(result.stderr, /setup: cmake is missing\. Type: sudo apt-get install cmake\n$/);
  });
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';

// How the CUDA library is found and refused, with libraries made for the purpose; each in a process of its own, because the
// answer is remembered.
describe('the CUDA library', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'tokenflow-cuda-'));

  const status = (env: NodeJS.ProcessEnv) => {
    const script = `console.log(JSON.stringify({ ...require('./dist/native.js').native().cudaStatus(),
      backend: require('./dist/backends.js').listBackends()[1] }))`;
    const result = spawnSync(process.execPath, ['-e', script], {
      encoding: 'utf8',
      cwd: packageRoot(),
      env: { ...process.env, ...env },
    });
    assert.equal(result.status, 0, result.stderr);
    return JSON.parse(result.stdout);
  };

  /** Compiles a library from C++ with the border's own header; null without a compiler. */
  const library = (name: string, source: string): string | null => {
    const [code, file] = [path.join(folder, `${name}.cc`), path.join(folder, `${name}.so`)];
    writeFileSync(
      code,
      `#include <cstdio>\n#include "runtime/cuda_library.h"\nusing namespace tokenflow;\n${source}`,
    );
    const args = [
      '-std=c++17',
      '-shared',
      '-fPIC',
      `-I${path.join(packageRoot(), 'native')}`,
      '-o',
      file,
      code,
    ];
    const built = spawnSync('g++', args, { encoding: 'utf8' });
    if (built.error) return null;
    assert.equal(built.status, 0, built.stderr);
    return file;
  };

  const NO_CONTEXT = "Device 'cuda:0' is not available: no context";
  const entry = (abi: string, probe: string) => `
    static void Probe(CudaProbe* probe) { ${probe} }
    static Backend* Open(int32_t, char* detail, int32_t size) {
      std::snprintf(detail, size, "no context");
      return nullptr;
    }
    extern "C" const CudaLibrary* tokenflow_cuda_4() {
      static const CudaLibrary library = { ${abi}, Probe, Open };
      return &library;
    }`;

  it('is left alone when TOKENFLOW_CUDA is off', () => {
    const { reason, backend } = status({ TOKENFLOW_CUDA: 'off' });
    assert.equal(reason, 'disabled-by-env');
    assert.deepEqual(backend, { name: 'cuda', available: false, reason: 'disabled-by-env', devices: [] });
  });

  it('says where it was looked for when it is missing', () => {
    const missing = path.join(folder, 'nowhere.so');
    const { reason, detail } = status({ TOKENFLOW_CUDA_PATH: missing });
    assert.equal(reason, 'library-missing');
    assert.equal(detail, missing);
  });

  it('says what the linker says of a file that is no library', () => {
    const file = path.join(folder, 'text.so');
    writeFileSync(file, 'not a library');
    const { reason, detail } = status({ TOKENFLOW_CUDA_PATH: file });
    assert.equal(reason, 'load-failed');
    assert.match(detail, /text\.so/);
  });

  it('refuses a library of another version, by name or by number', function () {
    const nameless = library('nameless', 'int nothing;');
    const other = library('other', entry('99', ''));
    if (nameless === null || other === null) return this.skip();
    assert.equal(status({ TOKENFLOW_CUDA_PATH: nameless }).reason, 'abi-mismatch');
    const { reason, detail } = status({ TOKENFLOW_CUDA_PATH: other });
    assert.equal(reason, 'abi-mismatch');
    const header = readFileSync(path.join(packageRoot(), 'native/runtime/cuda_library.h'), 'utf8');
    const [, version] = /kCudaAbi = (\d+)/.exec(header)!;
    assert.equal(detail, `expected version ${version} but found 99`);
    assert.match(header, new RegExp(`kCudaEntryPoint\\[\\] = "tokenflow_cuda_${version}"`));
  });

  it('passes on what the library found, and why a device cannot be had', function () {
    const one = `probe->reason = CudaReason::kAvailable; probe->device_count = 1;
      std::snprintf(probe->devices[0].name, 256, "Card"); probe->devices[0].arch = 90;
      probe->devices[0].multiprocessors = 132; probe->devices[0].memory_bytes = 85899345920;
      probe->devices[0].reason = CudaReason::kAvailable;`;
    const file = library('works', entry('kCudaAbi', one));
    const none = library('none', entry('kCudaAbi', 'probe->reason = CudaReason::kNoDevice;'));
    if (file === null || none === null) return this.skip();
    const { reason, devices, backend } = status({ TOKENFLOW_CUDA_PATH: file });
    assert.equal(reason, 'available');
    const card = { name: 'Card', arch: 90, multiprocessors: 132, memoryBytes: 85899345920 };
    assert.deepEqual(devices, [{ ...card, reason: 'smoke-test-failed', detail: NO_CONTEXT }]);
    assert.equal(backend.available, false);
    assert.equal(backend.reason, 'smoke-test-failed');
    assert.equal(backend.detail, NO_CONTEXT);
    assert.equal(status({ TOKENFLOW_CUDA_PATH: none }).backend.reason, 'no-device');
  });
});

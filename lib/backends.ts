import os from 'node:os';
import { invalidArgument, TokenFlowError } from './errors.js';
import { type CudaReason, native } from './native.js';

/** Where a model runs: `auto` is the best there is; `cuda` is the first CUDA device, `cuda:n` the n-th. */
export type Device = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** Why a backend cannot be used. */
export type BackendReason = CudaReason | 'kernels-only';

export interface BackendDevice {
  /** What `device` takes to choose it. */
  id: string;
  /** The processor's own name. */
  name: string;
  /** Instruction set in use (CPU). */
  simd?: 'scalar' | 'avx2' | 'avx512';
  /** Threads in use (CPU). */
  threads?: number;
  /** Precisions a model can be loaded in. */
  precisions: ('f32' | 'bf16')[];
}

export interface Backend {
  name: 'cpu' | 'cuda';
  available: boolean;
  /** Null when available. */
  reason: BackendReason | null;
  devices: BackendDevice[];
}

/** What a reason means, and what to do about it. */
export function explainBackend(reason: BackendReason): string {
  const texts: Record<BackendReason, string> = {
    'not-built': 'this build of tokenflow has no CUDA backend',
    'library-missing': 'tokenflow_cuda.so is not beside the addon; build it again or set TOKENFLOW_CUDA_PATH',
    'load-failed': 'tokenflow_cuda.so cannot be loaded',
    'abi-mismatch': 'tokenflow_cuda.so belongs to another version of tokenflow; build both together',
    'no-driver': 'there is no NVIDIA driver on this machine',
    'driver-too-old': 'the NVIDIA driver is older than the CUDA runtime of tokenflow_cuda.so; update it',
    'no-device': 'the NVIDIA driver sees no device; in a container, pass one in',
    'unsupported-arch': 'no device has compute capability 7.5 or newer with code in tokenflow_cuda.so',
    'smoke-test-failed': 'a small kernel did not run or gave a wrong result',
    'disabled-by-env': 'TOKENFLOW_CUDA is off',
    'out-of-memory': 'the device has no memory left for even a small test',
    'kernels-only': 'the CUDA library works here, but this version of it does not run models yet',
  };
  return texts[reason];
}

/** Thrown when a device was asked for by name and cannot be had; nothing falls back silently. */
export class BackendUnavailableError extends TokenFlowError {
  readonly reason: BackendReason;

  constructor(device: string, reason: BackendReason) {
    super(
      'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
      `Device '${device}' is not available: ${explainBackend(reason)} (${reason}). Use 'cpu', or 'auto' for the best there is`,
    );
    this.reason = reason;
  }
}

function cudaReason(): BackendReason {
  const { reason } = native().cudaStatus();
  return reason === 'available' ? 'kernels-only' : reason;
}

/** Every backend this version knows, whether it can be used here, and if not, why. */
export function listBackends(): Backend[] {
  const addon = native();
  return [
    {
      name: 'cpu',
      available: true,
      reason: null,
      devices: [
        {
          id: 'cpu',
          name: os.cpus()[0]?.model ?? process.arch,
          simd: addon.simdLevel(),
          threads: addon.threads(),
          precisions: supportsBf16() ? ['f32', 'bf16'] : ['f32'],
        },
      ],
    },
    { name: 'cuda', available: false, reason: cudaReason(), devices: [] },
  ];
}

/** Whether the CPU computes bf16 products natively at the instruction set in use. */
export function supportsBf16(): boolean {
  return native().simdLevel() === 'avx512' && native().cpuFeatures().avx512Bf16;
}

const FORM = /^(auto|cpu|cuda(:\d+)?)$/;

/**
 * The device to run on: the one asked for, else that of `TOKENFLOW_DEVICE`, else `auto`; and `auto` resolved.
 * @throws BackendUnavailableError for a device that was named and is not available
 * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT for anything that is no device
 */
export function resolveDevice(asked?: Device): string {
  const device = asked ?? process.env.TOKENFLOW_DEVICE ?? 'auto';
  if (typeof device !== 'string' || !FORM.test(device)) {
    const where = asked === undefined ? 'TOKENFLOW_DEVICE' : 'device';
    throw invalidArgument(where, "'auto', 'cpu', 'cuda' or 'cuda:n'", device);
  }
  if (device.startsWith('cuda')) throw new BackendUnavailableError(device, cudaReason());
  return 'cpu';
}

import os from 'node:os';
import { invalidArgument, TokenFlowError } from './errors.js';
import type { Precision } from './graph/ops.js';
import { type CudaReason, native } from './native.js';

/** Where a model runs: `auto` is the best there is; `cuda` is the first CUDA device, `cuda:n` the n-th. */
export type Device = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** Why a backend or a device cannot be used. */
export type BackendReason = CudaReason;

export interface BackendDevice {
  /** What `device` takes to choose it. */
  id: string;
  /** The processor's own name. */
  name: string;
  /** Instruction set in use (CPU). */
  simd?: 'scalar' | 'avx2' | 'avx512';
  /** Threads in use (CPU). */
  threads?: number;
  /** Compute capability (CUDA): 9.0 for a card of the H100 class. */
  computeCapability?: string;
  /** Bytes of device memory (CUDA). */
  memoryBytes?: number;
  /** Why this one cannot be used (CUDA), when others can. */
  reason?: BackendReason;
  /** Precisions a model can be loaded in. */
  precisions: ('f32' | 'bf16')[];
}

export interface Backend {
  name: 'cpu' | 'cuda';
  available: boolean;
  /** Null when available. */
  reason: BackendReason | null;
  /** In the words of the linker or the driver, where there are any. */
  detail?: string;
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
    'device-lost': 'the device failed while it computed and cannot be used again in this process',
  };
  return texts[reason];
}

/** Thrown when a device was asked for by name and cannot be had; nothing falls back silently. */
export class BackendUnavailableError extends TokenFlowError {
  readonly reason: BackendReason;

  constructor(device: string, reason: BackendReason, detail = '') {
    super(
      'ERR_TOKENFLOW_BACKEND_UNAVAILABLE',
      `Device '${device}' is not available: ${explainBackend(reason)} (${reason}${detail ? `: ${detail}` : ''}). ` +
        "Use 'cpu', or 'auto' for the best there is",
    );
    this.reason = reason;
  }
}

function cudaBackend(): Backend {
  const { reason, detail, devices } = native().cudaStatus();
  const described = devices.map((device, i): BackendDevice => {
    const usable = device.reason === 'available';
    return {
      id: `cuda:${i}`,
      name: device.name,
      computeCapability: `${Math.floor(device.arch / 10)}.${device.arch % 10}`,
      memoryBytes: device.memoryBytes,
      precisions: !usable ? [] : device.bf16 ? ['f32', 'bf16'] : ['f32'],
      ...(usable ? {} : { reason: device.reason as BackendReason }),
    };
  });
  const usable = devices.some((device) => device.reason === 'available');
  // Available once, and all of its devices lost since: the first says why.
  const why = reason !== 'available' ? reason : usable ? null : (devices[0].reason as BackendReason);
  const words = detail || devices.find((device) => device.detail)?.detail;
  return {
    name: 'cuda',
    available: why === null,
    reason: why,
    ...(why !== null && words ? { detail: words } : {}),
    devices: described,
  };
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
    cudaBackend(),
  ];
}

/** Whether the CPU computes bf16 products natively at the instruction set in use. */
export function supportsBf16(): boolean {
  return native().simdLevel() === 'avx512' && native().cpuFeatures().avx512Bf16;
}

const FORM = /^(auto|cpu|cuda(:\d+)?)$/;

/**
 * The device to run on: the one asked for, else that of `TOKENFLOW_DEVICE`, else `otherwise`; and `auto` resolved, to the
 * first CUDA device that can be used or, silently, the CPU. `cuda` becomes the first that can be used, by its number.
 * @throws BackendUnavailableError for a device that was named and is not available
 * @throws TokenFlowError ERR_TOKENFLOW_INVALID_ARGUMENT for anything that is no device
 */
export function resolveDevice(asked?: Device, otherwise: Device = 'auto'): string {
  const device = asked ?? process.env.TOKENFLOW_DEVICE ?? otherwise;
  if (typeof device !== 'string' || !FORM.test(device)) {
    const where = asked === undefined ? 'TOKENFLOW_DEVICE' : 'device';
    throw invalidArgument(where, "'auto', 'cpu', 'cuda' or 'cuda:n'", device);
  }
  if (device === 'cpu') return device;
  const { available, reason, detail, devices } = cudaBackend();
  if (device === 'auto' || device === 'cuda') {
    if (available) return devices.find((one) => one.reason === undefined)!.id;
    if (device === 'auto') return 'cpu';
    throw new BackendUnavailableError(device, reason!, detail);
  }
  const wanted = devices.find((one) => one.id === `cuda:${Number(device.slice(5))}`);
  if (reason !== null) throw new BackendUnavailableError(device, reason, detail);
  if (wanted === undefined) {
    throw new BackendUnavailableError(device, 'no-device', `there are ${devices.length}, counted from 0`);
  }
  if (wanted.reason !== undefined) throw new BackendUnavailableError(device, wanted.reason);
  return wanted.id;
}

/** Whether a device that `resolveDevice` gave computes in a precision. */
export function supportsPrecision(device: string, precision: Precision): boolean {
  const devices = device === 'cpu' ? listBackends()[0].devices : cudaBackend().devices;
  return devices.some((one) => one.id === device && one.precisions.includes(precision));
}

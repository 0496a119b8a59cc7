import os from 'node:os';
import { invalidArgument, TokenFlowError } from './errors.js';
import { native } from './native.js';

/** Where a model runs: `auto` is the best there is; `cuda` is the first CUDA device, `cuda:n` the n-th. */
export type Device = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** Why a backend cannot be used. */
export type BackendReason = 'not-built';

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
    { name: 'cuda', available: false, reason: 'not-built', devices: [] },
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
  if (device.startsWith('cuda')) throw new BackendUnavailableError(device, 'not-built');
  return 'cpu';
}

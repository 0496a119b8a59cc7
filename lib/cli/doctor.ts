import os from 'node:os';
import { Command } from 'commander';
import { type Backend, explainBackend, listBackends } from '../backends.js';
import { loadSharp } from '../image/sharp.js';
import { NativeLoadError, native, nativePath } from '../native.js';
import { packageVersion } from '../package-version.js';
import { jsonOption, quietOption } from './options.js';
import { bundledModel, type OutputOptions, printJson } from './session.js';

/** Whether images can be decoded, and by what. */
function imageDecoder(): { available: boolean; version?: string; reason?: string } {
  try {
    return { available: true, version: loadSharp().versions.sharp };
  } catch (error) {
    return { available: false, reason: (error as Error).message.split('\n')[0] };
  }
}

function addonReport() {
  const { compiler, nodeApi } = native().buildInfo();
  const features = native().cpuFeatures();
  return {
    path: nativePath(),
    compiler,
    nodeApi,
    simd: native().simdLevel(),
    instructionSets: Object.entries(features)
      .filter(([, present]) => present)
      .map(([name]) => name),
    threads: native().threads(),
  };
}

function backendLine({ name, available, reason, detail, devices }: Backend): string {
  if (!available) {
    return `  ${name}: not available (${reason}): ${explainBackend(reason!)}${detail ? ` (${detail})` : ''}`;
  }
  const described = devices.map(
    ({ id, name: card, reason: lacking, precisions }) =>
      `${id} (${card}), ${lacking ? `not available (${lacking})` : precisions.join(' and ')}`,
  );
  return `  ${name}: ${described.join('; ')}`;
}

function doctor(options: OutputOptions): void {
  const environment = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => name.startsWith('TOKENFLOW_')),
  );
  const machine = {
    version: packageVersion(),
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: os.cpus()[0]?.model ?? 'unknown',
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    environment,
    sharp: imageDecoder(),
    bundledModel: bundledModel() ?? null,
  };
  const print = (lines: string[]) => {
    if (!options.json) process.stdout.write(`${lines.join('\n')}\n`);
  };
  print([
    `tokenflow ${machine.version}, Node.js ${machine.node}, ${machine.platform}`,
    `  processor: ${machine.processor}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(1)} GiB`,
    ...Object.entries(environment).map(([name, value]) => `  ${name}=${value}`),
    `  images: ${machine.sharp.available ? `sharp ${machine.sharp.version}` : machine.sharp.reason}`,
    `  bundled model: ${machine.bundledModel ?? 'not there'}`,
  ]);
  try {
    const addon = addonReport();
    const backends = listBackends();
    if (options.json) printJson({ ...machine, addon, backends });
    print([
      `addon: ${addon.path}`,
      `  build: ${addon.compiler}, Node-API ${addon.nodeApi}`,
      `  instruction set: ${addon.simd} (the processor has ${addon.instructionSets.join(', ') || 'none beyond the baseline'})`,
      `  threads: ${addon.threads}`,
      'backends:',
      ...backends.map(backendLine),
    ]);
  } catch (error) {
    if (!(error instanceof NativeLoadError)) throw error;
    if (options.json) printJson({ ...machine, addon: { attempts: error.attempts }, backends: [] });
    throw error;
  }
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Say what this installation can do: build, instruction sets, threads, backends and why not.')
    .addOption(jsonOption())
    .addOption(quietOption())
    .addHelpText('after', '\nExample:\n  tokenflow doctor')
    .action(doctor);
}

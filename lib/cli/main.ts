import { Command, CommanderError } from 'commander';
import { TokenFlowError } from '../errors.js';
import { NativeLoadError } from '../native.js';
import { packageVersion } from '../package-version.js';
import { systemError } from '../system-error.js';
import { convertCommand } from './convert.js';
import { decodeCommand } from './decode.js';
import { detokenizeCommand } from './detokenize.js';
import { doctorCommand } from './doctor.js';
import { encodeCommand } from './encode.js';
import { inspectCommand } from './inspect.js';
import { queueCommand } from './queue.js';
import { reconstructCommand } from './reconstruct.js';
import { CommandFailed, interrupted, listenForInterrupt, USAGE } from './session.js';
import { tokenizeCommand } from './tokenize.js';
import { verifyCommand } from './verify.js';

/** Exit codes: what a shell script can rely on. */
const DONE = 0;
const FAILED = 1;
const WRONG_USAGE = 2;
const INTERRUPTED = 130; // 128 + SIGINT

const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*/g, ' ');

function complain(message: string): void {
  process.stderr.write(`tokenflow: ${message}\n`);
}

/** Gives a command, and those below it, what the program has set. */
function inherit(command: Command, parent: Command, path: string): Command {
  const name = `${path} ${command.name()}`;
  command
    .copyInheritedSettings(parent)
    .helpOption('-h, --help', `print this text  (e.g. ${name} --help)`)
    .configureOutput({ outputError: usageComplaint(name) });
  for (const inner of command.commands) inherit(inner, command, name);
  return command;
}

/** How the commands complain of a mistake in how they were called. */
function usageComplaint(command: string): (text: string) => void {
  return (text) => complain(`${oneLine(text.replace(/^error: /, ''))} (see ${command} --help)`);
}

function buildProgram(): Command {
  const program = new Command('tokenflow')
    .description('Images to discrete tokens and back.')
    .version(packageVersion(), '-V, --version', 'print the version  (e.g. tokenflow --version)')
    .helpOption('-h, --help', 'print this text  (e.g. tokenflow encode --help)')
    .exitOverride()
    .configureOutput({ outputError: usageComplaint('tokenflow') })
    .addHelpText('after', '\nExample:\n  tokenflow encode photo.jpg --out tokens.npy');
  const commands = [
    encodeCommand(),
    decodeCommand(),
    reconstructCommand(),
    tokenizeCommand(),
    verifyCommand(),
    detokenizeCommand(),
    queueCommand(),
    inspectCommand(),
    convertCommand(),
    doctorCommand(),
  ];
  for (const command of commands) program.addCommand(inherit(command, program, 'tokenflow'));
  return program;
}

/** Says what went wrong, in a line where a line is enough, and returns the exit code. */
function report(error: unknown, command: string): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return DONE; // help or version was asked for
    if (error.code === USAGE) usageComplaint(`tokenflow ${command}`)(error.message);
    return WRONG_USAGE;
  }
  if (error instanceof CommandFailed) {
    complain(oneLine(error.message));
    return error.exitCode;
  }
  if (interrupted.aborted) {
    complain('interrupted');
    return INTERRUPTED;
  }
  if (error instanceof NativeLoadError) complain(error.message);
  else if (error instanceof TokenFlowError) complain(oneLine(error.message));
  else complain(oneLine(`unexpected error: ${error instanceof Error ? error.message : error}`));
  if (process.env.TOKENFLOW_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return FAILED;
}

/** `-out x` would be read as `-o ut`, and x as one more image. */
function refuseSingleDash(program: Command, [, , name, ...rest]: readonly string[]): void {
  const command = program.commands.find((candidate) => candidate.name() === name);
  const meant = rest.find((arg) => command?.options.some(({ long }) => arg.length > 2 && `-${arg}` === long));
  if (command && meant) command.error(`unknown option '${meant}'; did you mean -${meant}?`, { exitCode: 2 });
}

/** `help nothing` would be answered by the whole help. */
function refuseUnknownHelp(program: Command, [, , help, name]: readonly string[]): void {
  if (help !== 'help' || name === undefined || name.startsWith('-')) return;
  const known = program.commands.map((command) => command.name());
  if (known.includes(name)) return;
  program.error(`unknown command '${name}'; there are ${known.join(', ')}`, { exitCode: 2 });
}

/** Runs the command line and sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  listenForInterrupt();
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(DONE); // the reader has seen enough
    process.exit(report(systemError('write', 'stdout', error), ''));
  });
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error; // nobody reads what is said: the work goes on
  });
  let running = '';
  const program = buildProgram().hook('preAction', (_, command) => {
    running = command.name();
  });
  try {
    refuseSingleDash(program, argv);
    refuseUnknownHelp(program, argv);
    await program.parseAsync(argv);
  } catch (error) {
    process.exitCode = report(error, running);
  }
}

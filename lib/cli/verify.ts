import { Command } from 'commander';
import { RunFolder } from '../run/run-folder.js';
import { verifyRun } from '../run/verify.js';
import { jsonOption, quietOption } from './options.js';
import { count } from './progress.js';
import { CommandFailed, interrupted, type OutputOptions, printJson, say } from './session.js';

async function verify(out: string, options: OutputOptions): Promise<void> {
  const result = await verifyRun(new RunFolder(out), {
    signal: interrupted,
    onShard: (name, problems) => {
      if (process.stderr.isTTY && problems.length === 0) say(options, `${name}: well`);
    },
  });
  const { shards, images, errors, problems } = result;
  for (const problem of problems) say(options, problem);
  if (options.json) printJson({ folder: out, ...result });
  if (problems.length > 0) {
    throw new CommandFailed(`${out}: ${count(problems.length, 'problem')}`);
  }
  const all = `${count(shards, 'shard')}, ${count(images, 'image')}, ${count(errors, 'error')}`;
  say(options, `${out}: ${all}; all is as it was written`);
}

export function verifyCommand(): Command {
  return new Command('verify')
    .description('Check a folder of token shards: checksums, counts, token ranges.')
    .argument('<folder>', 'where tokenize put them')
    .addOption(jsonOption())
    .addOption(quietOption())
    .addHelpText('after', '\nExample:\n  tokenflow verify tokens')
    .action(verify);
}

// clang-format over native/: in place, or with --check an error for each file that would change.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';

const files = readdirSync('native', { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && /\.(h|cc|cu|cuh)$/.test(entry.name))
  .map((entry) => `${entry.parentPath}/${entry.name}`);
const probe = spawnSync('clang-format', ['--version']);
if (probe.status !== 0) {
  process.stderr.write(
    'clang-format is not installed; native/ was not checked. Type: apt-get install clang-format\n',
  );
  process.exit(0);
}
const args = process.argv.includes('--check') ? ['--dry-run', '--Werror', ...files] : ['-i', ...files];
process.exit(spawnSync('clang-format', args, { stdio: 'inherit' }).status ?? 1);

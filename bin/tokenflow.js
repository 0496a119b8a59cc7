#!/usr/bin/env node

const { existsSync } = require('node:fs');
const path = require('node:path');

const main = path.join(__dirname, '..', 'dist', 'cli', 'main.js');
if (existsSync(main)) {
  require(main).main(process.argv);
} else {
  process.stderr.write('tokenflow: not built yet; type: npm run setup (in a clone of the repository)\n');
  process.exitCode = 1;
}

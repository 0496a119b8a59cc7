/**
 * What every section of the report shares. A section is a process of its own (sections/*.mjs): one that fails, hangs or loses
 * the device takes no other with it, and what it found until then counts. Results leave as lines of JSON on standard output;
 * report.mjs reads them.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';

export const root = path.resolve(import.meta.dirname, '..', '..');

// The tests' own build: it has the library, and the random weights of the full-size models.
export const require = createRequire(path.join(root, 'dist-test', 'package.json'));
export const lib = (name) => require(`./lib/${name}.js`);

const { values } = parseArgs({
  options: { device: { type: 'string' }, rehearse: { type: 'boolean', default: false } },
});
/** 'cuda:0' */
export const device = values.device;
/** Small sizes, to try every line of the report where the card is an emulated one. Its figures mean nothing. */
export const rehearse = values.rehearse;

const send = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Adds to what the section found. */
export const found = (fields) => send({ found: fields });

/** Adds to the row of the section's table that has this key; a new key is a new row. */
export const row = (key, fields) => send({ row: { key, fields } });

/** Something that is wrong with the library, not with the report. */
export const failure = (text) => send({ failure: text });

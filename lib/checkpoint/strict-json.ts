/** JSON from files that are not trusted: bounded in depth and count, and without a key twice in one object. */
import type { ByteSource } from './source.js';

const DEEPEST = 8;
/** Commas, colons and brackets: some twenty for each tensor of a header. */
const MOST_MARKS = 4_000_000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;

/**
 * Parses UTF-8 bytes. JSON.parse alone takes the last of two equal keys, so that two readers of one file may see
 * different tensors; here that is an error.
 *
 * @param what how messages call the text
 */
export function parseStrictJson(source: ByteSource, bytes: Uint8Array, what: string): unknown {
  checkStructure(source, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), what);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw source.broken(`${what} is not valid JSON in UTF-8; the file is damaged`, cause);
  }
}

/** Runs before the parser, so that hostile nesting never becomes objects. Leaves all other syntax to JSON.parse. */
function checkStructure(source: ByteSource, bytes: Buffer, what: string): void {
  const open: (Set<string> | undefined)[] = []; // the keys of each open object; undefined for an array
  let key: [begin: number, end: number] = [0, 0]; // the last string, quotes included
  let marks = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) {
      const begin = at;
      for (at++; bytes[at] !== QUOTE; at++) {
        if (at >= bytes.length) throw source.broken(`${what} ends inside a string; the file is damaged`);
        if (bytes[at] === BACKSLASH) at++;
      }
      key = [begin, at + 1];
      continue;
    }
    const opens = byte === 0x7b || byte === 0x5b;
    const closes = byte === 0x7d || byte === 0x5d;
    if (!opens && !closes && byte !== COMMA && byte !== COLON) continue;
    if (++marks > MOST_MARKS) throw source.broken(`${what} holds more than ${MOST_MARKS} JSON marks`);
    if (opens) {
      if (open.length === DEEPEST)
        throw source.broken(`${what} is nested more than ${DEEPEST} deep; the file is damaged`);
      open.push(byte === 0x7b ? new Set() : undefined);
    } else if (closes) {
      open.pop();
    } else if (byte === COLON) {
      const keys = open.at(-1);
      const name = decodeString(bytes.toString('utf8', ...key));
      if (keys?.has(name)) throw source.broken(`${what} holds the key '${name.slice(0, 200)}' twice`);
      keys?.add(name);
    }
  }
}

/** A quoted string with its escapes resolved; one that JSON.parse will refuse anyway stays as it is. */
function decodeString(quoted: string): string {
  if (!quoted.includes('\\')) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted;
  }
}

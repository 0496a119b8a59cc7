/**
 * A pickle machine that cannot do harm: it builds lists, maps, sets and plain values, and asks its caller about the rest.
 *
 * A pickle is a program for a small stack machine. Python's runs `module.name(*args)` for whatever names the program
 * brings; this one calls nothing but the `Constructor`s its caller hands out. Any other class becomes `Inert`: a value
 * without content, so that optimizer states and argparse namespaces pass by. The machine has no jumps, so it ends; what
 * it may build is counted, so memory is bounded; nothing in it recurses, so depth costs nothing and cycles are only
 * references.
 */
import { type ByteSource, checkRange } from './source.js';

/** Stands for every value of a class that is not built: calling, filling or setting it gives itself. */
export class Inert {
  constructor(readonly className: string) {}
}

/** A global that REDUCE and NEWOBJ may call. */
export class Constructor {
  constructor(
    readonly name: string,
    readonly make: (args: unknown[]) => unknown,
  ) {}
}

/** What the caller decides. */
export interface PickleHooks {
  /** A `Constructor`, an `Inert`, or a plain value for `module.name`; throws for a name that must not appear. */
  global(module: string, name: string): unknown;
  /** The object behind a persistent id. */
  persistent(id: unknown): unknown;
}

/** Steps a pickle may take. A state dict of ten thousand tensors takes under a million. */
const MOST_STEPS = 5_000_000;
/** Lists, maps and sets a pickle may make. */
const MOST_CONTAINERS = 500_000;
/** A longer string becomes `Inert`, as every byte string does: no key is that long. */
const LONGEST_TEXT = 4096;
/** All kept strings together, in bytes. */
const MOST_TEXT = 16 * 1024 * 1024;
/** Longest text line (a global's name, a number of protocol 1). */
const LONGEST_LINE = 4096;
/** Longest integer, in bytes. */
const LONGEST_INTEGER = 1024;

const WINDOW_BYTES = 64 * 1024;

/** A forward reader over a byte range of a file, through a window of 64 KiB. */
export class ByteReader {
  readonly #window: Buffer;
  #windowStart: number;
  #windowLength = 0;
  #position: number;

  constructor(
    readonly source: ByteSource,
    offset: number,
    readonly end: number,
  ) {
    checkRange(source, offset, end - offset);
    this.#window = Buffer.allocUnsafe(Math.min(WINDOW_BYTES, end - offset));
    this.#windowStart = offset;
    this.#position = offset;
  }

  /** Byte offset in the file of what is read next. */
  get position(): number {
    return this.#position;
  }

  byte(): number {
    const at = this.#load(1);
    this.#position++;
    return this.#window[at];
  }

  /** The next `length` bytes, valid until the next read; at most 64 KiB. */
  take(length: number): Buffer {
    const at = this.#load(length);
    this.#position += length;
    return this.#window.subarray(at, at + length);
  }

  skip(length: number): void {
    this.#demand(length);
    this.#position += length;
  }

  /** Text up to the next newline, which is consumed. */
  line(): string {
    let text = '';
    for (let byte = this.byte(); byte !== 0x0a; byte = this.byte()) {
      if (text.length >= LONGEST_LINE)
        throw this.source.broken('the pickle holds an endless line; it is damaged');
      text += String.fromCharCode(byte);
    }
    return text;
  }

  #demand(length: number): void {
    if (length > this.end - this.#position) {
      throw this.source.broken('the pickle ends in the middle; the file is truncated or damaged');
    }
  }

  /** Makes the next `length` bytes lie in the window; their index there. */
  #load(length: number): number {
    this.#demand(length);
    let at = this.#position - this.#windowStart;
    if (at < 0 || at + length > this.#windowLength) {
      this.#windowStart = this.#position;
      this.#windowLength = Math.min(this.#window.length, this.end - this.#position);
      this.source.readInto(this.#window.subarray(0, this.#windowLength), this.#windowStart);
      at = 0;
    }
    return at;
  }
}

const MARK = Symbol('mark');

/** Runs one pickle from the reader's position to its STOP, and gives the value it leaves. */
export function unpickle(reader: ByteReader, hooks: PickleHooks): unknown {
  return new Machine(reader, hooks).run();
}

class Machine {
  readonly #reader: ByteReader;
  readonly #hooks: PickleHooks;
  readonly #stack: unknown[] = [];
  readonly #memo = new Map<number, unknown>();
  #containers = 0;
  #textBytes = 0;

  constructor(reader: ByteReader, hooks: PickleHooks) {
    this.#reader = reader;
    this.#hooks = hooks;
  }

  run(): unknown {
    for (let step = 0; step < MOST_STEPS; step++) {
      const opcode = this.#reader.byte();
      if (opcode === 0x2e /* STOP */) return this.#pop();
      this.#execute(opcode);
    }
    throw this.#broken(`it takes more than ${MOST_STEPS} steps`);
  }

  #execute(opcode: number): void {
    const reader = this.#reader;
    switch (opcode) {
      case 0x80: // PROTO
        if (reader.byte() > 5) throw this.#broken('its protocol is newer than 5');
        return;
      case 0x95: // FRAME: a hint for buffering
        reader.take(8);
        return;

      case 0x28: // MARK
        this.#push(MARK);
        return;
      case 0x30: // POP
        this.#demand(1);
        this.#stack.pop(); // may be a mark
        return;
      case 0x31: // POP_MARK
        this.#popToMark();
        return;
      case 0x32: // DUP
        this.#push(this.#top());
        return;

      case 0x4e: // NONE
        this.#push(null);
        return;
      case 0x88: // NEWTRUE
        this.#push(true);
        return;
      case 0x89: // NEWFALSE
        this.#push(false);
        return;
      case 0x49: // INT
        this.#push(this.#textInteger(reader.line()));
        return;
      case 0x4c: // LONG
        this.#push(this.#textInteger(reader.line().replace(/L$/, '')));
        return;
      case 0x4a: // BININT
        this.#push(reader.take(4).readInt32LE(0));
        return;
      case 0x4b: // BININT1
        this.#push(reader.byte());
        return;
      case 0x4d: // BININT2
        this.#push(reader.take(2).readUInt16LE(0));
        return;
      case 0x8a: // LONG1
        this.#push(this.#binaryInteger(reader.byte()));
        return;
      case 0x8b: // LONG4
        this.#push(this.#binaryInteger(reader.take(4).readUInt32LE(0)));
        return;
      case 0x46: // FLOAT
        this.#push(this.#textFloat(reader.line()));
        return;
      case 0x47: // BINFLOAT
        this.#push(reader.take(8).readDoubleBE(0));
        return;

      case 0x8c: // SHORT_BINUNICODE
        this.#push(this.#text(reader.byte(), 'utf8'));
        return;
      case 0x58: // BINUNICODE
        this.#push(this.#text(reader.take(4).readUInt32LE(0), 'utf8'));
        return;
      case 0x8d: // BINUNICODE8
        this.#push(this.#text(this.#length64(), 'utf8'));
        return;
      case 0x55: // SHORT_BINSTRING: Python 2's str, which torch.load reads as text too
        this.#push(this.#text(reader.byte(), 'latin1'));
        return;
      case 0x54: // BINSTRING
        this.#push(this.#text(reader.take(4).readUInt32LE(0), 'latin1'));
        return;
      case 0x43: // SHORT_BINBYTES
        this.#push(this.#passOver('bytes', reader.byte()));
        return;
      case 0x42: // BINBYTES
        this.#push(this.#passOver('bytes', reader.take(4).readUInt32LE(0)));
        return;
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        this.#push(this.#passOver('bytes', this.#length64()));
        return;

      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        this.#push(this.#made([]));
        return;
      case 0x7d: // EMPTY_DICT
        this.#push(this.#made(new Map()));
        return;
      case 0x8f: // EMPTY_SET
        this.#push(this.#made(new Set()));
        return;
      case 0x6c: // LIST
      case 0x74: // TUPLE
        this.#push(this.#made(this.#popToMark()));
        return;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        this.#push(this.#made(this.#popMany(opcode - 0x84)));
        return;
      case 0x64: // DICT
        this.#setItems(this.#push(this.#made(new Map())), this.#popToMark(1));
        return;
      case 0x91: // FROZENSET
        this.#push(this.#made(new Set(this.#popToMark())));
        return;

      case 0x61: // APPEND
        this.#append(this.#popMany(1));
        return;
      case 0x65: // APPENDS
        this.#append(this.#popToMark());
        return;
      case 0x73: // SETITEM
        this.#setItems(this.#peekUnder(2), this.#popMany(2));
        return;
      case 0x75: {
        // SETITEMS
        const items = this.#popToMark();
        this.#setItems(this.#top(), items);
        return;
      }
      case 0x90: {
        // ADDITEMS
        const items = this.#popToMark();
        const set = this.#top();
        if (set instanceof Set) for (const item of items) set.add(item);
        else if (!(set instanceof Inert)) throw this.#broken('it adds items to what is no set');
        return;
      }

      case 0x67: // GET
        this.#get(Number(reader.line()));
        return;
      case 0x68: // BINGET
        this.#get(reader.byte());
        return;
      case 0x6a: // LONG_BINGET
        this.#get(reader.take(4).readUInt32LE(0));
        return;
      case 0x70: // PUT
        this.#memo.set(Number(reader.line()), this.#top());
        return;
      case 0x71: // BINPUT
        this.#memo.set(reader.byte(), this.#top());
        return;
      case 0x72: // LONG_BINPUT
        this.#memo.set(reader.take(4).readUInt32LE(0), this.#top());
        return;
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        return;

      case 0x63: // GLOBAL
        this.#push(this.#hooks.global(reader.line(), reader.line()));
        return;
      case 0x93: {
        // STACK_GLOBAL
        const [module, name] = this.#popMany(2);
        if (typeof module !== 'string' || typeof name !== 'string')
          throw this.#broken('a global has no name');
        this.#push(this.#hooks.global(module, name));
        return;
      }
      case 0x52: // REDUCE
      case 0x81: {
        // NEWOBJ
        const [callee, args] = this.#popMany(2);
        this.#push(this.#call(callee, args));
        return;
      }
      case 0x92: {
        // NEWOBJ_EX
        const [callee, args] = this.#popMany(3);
        this.#push(this.#call(callee, args));
        return;
      }
      case 0x69: {
        // INST
        const callee = this.#hooks.global(reader.line(), reader.line());
        this.#push(this.#call(callee, this.#popToMark()));
        return;
      }
      case 0x6f: {
        // OBJ
        const [callee, ...args] = this.#popToMark();
        this.#push(this.#call(callee, args));
        return;
      }
      case 0x62: // BUILD: attributes (a state dict's _metadata, an object's __dict__) are not weights
        this.#popMany(1);
        this.#top();
        return;

      case 0x51: // BINPERSID
        this.#push(this.#hooks.persistent(this.#pop()));
        return;

      default:
        throw this.#broken(
          `opcode 0x${opcode.toString(16).padStart(2, '0')} at byte ${reader.position - 1} is none that torch.save writes`,
        );
    }
  }

  #broken(what: string, cause?: unknown) {
    return this.#reader.source.broken(`the pickle in it is damaged or not a checkpoint: ${what}`, cause);
  }

  #push<T>(value: T): T {
    this.#stack.push(value);
    return value;
  }

  #top(): unknown {
    return this.#peekUnder(0);
  }

  /** The value under the `depth` topmost ones. */
  #peekUnder(depth: number): unknown {
    const at = this.#stack.length - 1 - depth;
    if (at < 0 || this.#stack[at] === MARK) throw this.#broken('it takes more from its stack than is there');
    return this.#stack[at];
  }

  #demand(count: number): void {
    if (this.#stack.length < count) throw this.#broken('it takes more from its stack than is there');
  }

  #pop(): unknown {
    return this.#popMany(1)[0];
  }

  #popMany(count: number): unknown[] {
    this.#demand(count);
    const values = this.#stack.splice(this.#stack.length - count, count);
    if (values.includes(MARK)) throw this.#broken('it takes more from its stack than is there');
    return values;
  }

  /** Everything above the last mark, which goes too; `above` values on top are left out of it and stay. */
  #popToMark(above = 0): unknown[] {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) throw this.#broken('a mark is missing');
    const values = this.#stack.splice(mark + 1, this.#stack.length - mark - 1 - above);
    this.#stack.splice(mark, 1);
    return values;
  }

  #made<T>(container: T): T {
    if (++this.#containers > MOST_CONTAINERS)
      throw this.#broken(`it makes more than ${MOST_CONTAINERS} containers`);
    return container;
  }

  #append(items: unknown[]): void {
    const list = this.#top();
    if (Array.isArray(list)) for (const item of items) list.push(item);
    else if (!(list instanceof Inert)) throw this.#broken('it appends to what is no list');
  }

  #setItems(map: unknown, items: unknown[]): void {
    if (items.length % 2 !== 0) throw this.#broken('a dict has a key without a value');
    if (map instanceof Inert) return;
    if (!(map instanceof Map)) throw this.#broken('it sets items of what is no dict');
    for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
  }

  #get(index: number): void {
    if (!this.#memo.has(index)) throw this.#broken(`it recalls value ${index}, which it never stored`);
    this.#push(this.#memo.get(index));
  }

  #call(callee: unknown, args: unknown): unknown {
    if (callee instanceof Inert) return callee;
    if (!(callee instanceof Constructor)) throw this.#broken('it calls what cannot be called');
    if (!Array.isArray(args)) throw this.#broken(`it calls ${callee.name} without a tuple of arguments`);
    return this.#made(callee.make(args));
  }

  #text(length: number, encoding: 'utf8' | 'latin1'): unknown {
    if (length > LONGEST_TEXT) return this.#passOver('str', length);
    this.#textBytes += length;
    if (this.#textBytes > MOST_TEXT) throw this.#broken(`it holds more than ${MOST_TEXT} bytes of text`);
    return this.#reader.take(length).toString(encoding);
  }

  #passOver(kind: string, length: number): Inert {
    this.#reader.skip(length);
    return new Inert(kind);
  }

  #length64(): number {
    return Number(this.#reader.take(8).readBigUInt64LE(0)); // one too large for a number is refused as past the end
  }

  #binaryInteger(length: number): number | bigint {
    if (length > LONGEST_INTEGER) throw this.#broken(`an integer of ${length} bytes`);
    if (length === 0) return 0;
    const bigEndian = Buffer.from(this.#reader.take(length)).reverse();
    return this.#integer(BigInt.asIntN(length * 8, BigInt(`0x${bigEndian.toString('hex')}`)));
  }

  #textInteger(text: string): number | bigint | boolean {
    if (text === '00') return false; // how protocol 1 writes booleans
    if (text === '01') return true;
    if (!/^[+-]?\d+$/.test(text) || text.length > LONGEST_INTEGER)
      throw this.#broken('an integer is not one');
    return this.#integer(BigInt(text));
  }

  #integer(value: bigint): number | bigint {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  #textFloat(text: string): number {
    const named: Record<string, number> = { inf: Infinity, '-inf': -Infinity, nan: Number.NaN };
    const value = Object.hasOwn(named, text) ? named[text] : Number(text);
    if (text.trim() === '' || (Number.isNaN(value) && text !== 'nan'))
      throw this.#broken('a float is not one');
    return value;
  }
}

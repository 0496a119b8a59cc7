/**
 * Seeded random numbers for learning codebooks: xoshiro128** (Blackman and Vigna), its state filled from the seed by
 * splitmix32. The same seed gives the same numbers on every machine.
 */
export class Random {
  readonly #state = new Uint32Array(4);

  /** @param seed a whole number from 0 to 2^53 - 1 */
  constructor(seed: number) {
    let low = seed >>> 0;
    const high = Math.floor(seed / 2 ** 32);
    for (let i = 0; i < 4; i++) {
      low = (low + 0x9e3779b9) >>> 0;
      let mixed = Math.imul(low ^ (low >>> 16), 0x85ebca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
      this.#state[i] = mixed ^ (mixed >>> 16) ^ (i === 3 ? high : Math.imul(high, 0x9e3779b1 + 2 * i));
    }
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1; // the one state that never leaves itself
    for (let i = 0; i < 16; i++) this.#next();
  }

  #next(): number {
    const s = this.#state;
    const scaled = Math.imul(s[1], 5);
    const result = Math.imul((scaled << 7) | (scaled >>> 25), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  /** 53 random bits. */
  #wide(): number {
    return (this.#next() >>> 5) * 2 ** 26 + (this.#next() >>> 6);
  }

  /** From [0, 1), in steps of 2^-53. */
  uniform(): number {
    return this.#wide() / 2 ** 53;
  }

  /** A whole number from 0 to `below - 1`, each equally likely; `below` at most 2^53. */
  integer(below: number): number {
    const usable = 2 ** 53 - (2 ** 53 % below); // what remains would favour the smallest numbers
    for (;;) {
      const drawn = this.#wide();
      if (drawn < usable) return drawn % below;
    }
  }

  /** `count` different whole numbers below `below`, in random order. */
  sample(count: number, below: number): number[] {
    // The shuffle of 0, 1, 2, …, of which only the swapped places are kept.
    const swapped = new Map<number, number>();
    return Array.from({ length: count }, (_, i) => {
      const j = i + this.integer(below - i);
      const drawn = swapped.get(j) ?? j;
      swapped.set(j, swapped.get(i) ?? i);
      return drawn;
    });
  }
}

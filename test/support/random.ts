/** Seeded numbers for tests: mulberry32, the same everywhere. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Values from [-scale, scale). */
export function randomFloats(length: number, next: () => number, scale = 1): Float32Array {
  return Float32Array.from({ length }, () => (next() * 2 - 1) * scale);
}

/** Small whole numbers: many equal vectors, and many ties. */
export function gridFloats(length: number, next: () => number): Float32Array {
  return Float32Array.from({ length }, () => Math.round(next() * 4 - 2));
}

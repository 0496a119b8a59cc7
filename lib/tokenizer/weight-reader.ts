import type { Model } from './model.js';
import type { WeightSource } from './types.js';

/** Reads weights by the names that graphs use: as they are in the checkpoint, or computed from one that is. */
export class WeightReader {
  readonly #source: WeightSource;
  readonly #model: Model;
  #staging = new Float32Array(0);

  constructor(source: WeightSource, model: Model) {
    this.#source = source;
    this.#model = model;
  }

  /** The weight, until the next is read: all are read into the same memory, which costs far less than new memory each. */
  read(name: string): Float32Array {
    const derived = this.#model.derived.get(name);
    return derived ? derived.compute(this.#stored(derived.from)) : this.#stored(name);
  }

  /** Lets go of that memory. */
  release(): void {
    this.#staging = new Float32Array(0);
  }

  #stored(name: string): Float32Array {
    const shape = this.#source.tensors.get(name)?.shape;
    if (!this.#source.readInto || !shape) return this.#source.read(name);
    const count = shape.reduce((a, b) => a * b, 1);
    if (this.#staging.length < count) this.#staging = new Float32Array(count);
    const target = this.#staging.subarray(0, count);
    this.#source.readInto(name, target);
    return target;
  }
}

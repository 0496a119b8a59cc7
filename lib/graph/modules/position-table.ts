/**
 * A learned position table as a graph uses it: by the checkpoint's name, or by the name of a copy resized to another
 * grid, with that table's shape.
 */
export interface PositionTable {
  readonly name: string;
  readonly shape: readonly number[];
}

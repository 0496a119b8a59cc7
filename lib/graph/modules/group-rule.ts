/** How many groups a GroupNorm over so many channels has. */
export type GroupRule = (channels: number) => number;

/** Epsilon of every GroupNorm of the pixel branch. */
export const GROUP_NORM_EPSILON = 1e-6;

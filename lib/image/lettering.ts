/**
 * Lettering without fonts: a machine may have none installed, and a picture must not depend on those it has. Each
 * character is one stroke path on a grid where capitals stand from y = 0 to the baseline at y = 6, small letters
 * start at y = 2 and tails reach y = 8.
 */

type Glyph = [width: number, path: string];

const BOWL = 'A1.5 2 0 1 1 0 4A1.5 2 0 1 1 3 4';

const GLYPHS: Record<string, Glyph> = {
  a: [3, `M3 2V6M3 4${BOWL}`],
  b: [3, `M0 0V6M3 4${BOWL}`],
  c: [2.7, 'M2.7 2.8A1.5 2 0 1 0 2.7 5.2'],
  d: [3, `M3 0V6M3 4${BOWL}`],
  e: [3, 'M0 4H3A1.5 2 0 1 0 2.6 5.4'],
  f: [2.1, 'M2.1 0.1C1.1 -0.2 0.8 0.5 0.8 1.4V6M0 2H2'],
  g: [3, `M3 2V6.3Q3 8 1.5 8Q0.6 8 0.2 7.5M3 4${BOWL}`],
  h: [2.9, 'M0 0V6M0 3.8Q0 2 1.5 2Q2.9 2 2.9 3.8V6'],
  i: [0.2, 'M0.1 2V6M0.1 0.4V0.5'],
  j: [1, 'M0.9 2V7Q0.9 8 0 8M0.9 0.4V0.5'],
  k: [2.7, 'M0 0V6M2.5 2L0 4.4M1 3.5L2.7 6'],
  l: [0.2, 'M0.1 0V6'],
  m: [4.6, 'M0 2V6M0 3.6Q0 2 1.2 2Q2.3 2 2.3 3.6V6M2.3 3.6Q2.3 2 3.5 2Q4.6 2 4.6 3.6V6'],
  n: [2.9, 'M0 2V6M0 3.8Q0 2 1.5 2Q2.9 2 2.9 3.8V6'],
  o: [3, `M3 4${BOWL}`],
  p: [3, `M0 2V8M3 4${BOWL}`],
  q: [3, `M3 2V8M3 4${BOWL}`],
  r: [1.8, 'M0 2V6M0 3.8Q0 2 1.8 2'],
  s: [2.6, 'M2.5 2.6Q2 2 1.3 2Q0.1 2 0.1 3Q0.1 3.8 1.3 4Q2.6 4.2 2.6 5Q2.6 6 1.3 6Q0.4 6 0 5.4'],
  t: [2.1, 'M0.8 0.6V5Q0.8 6 1.7 6H2.1M0 2H2'],
  u: [2.9, 'M0 2V4.2Q0 6 1.4 6Q2.9 6 2.9 4.2M2.9 2V6'],
  v: [3, 'M0 2L1.5 6L3 2'],
  w: [4.4, 'M0 2L1.1 6L2.2 2.6L3.3 6L4.4 2'],
  x: [2.8, 'M0 2L2.8 6M2.8 2L0 6'],
  y: [3, 'M0 2L1.5 6M3 2L1.3 6.6Q0.8 8 0 8'],
  z: [2.7, 'M0 2H2.7L0 6H2.7'],
  A: [4, 'M0 6L2 0L4 6M0.7 4H3.3'],
  B: [3.4, 'M0 0V6H1.8Q3.4 6 3.4 4.4Q3.4 2.8 1.8 2.8H0M0 0H1.6Q3 0 3 1.4Q3 2.8 1.6 2.8'],
  C: [4, 'M4 1.4A2.3 3 0 1 0 4 4.6'],
  D: [3.8, 'M0 0V6H1.4Q3.8 6 3.8 3Q3.8 0 1.4 0H0'],
  E: [3, 'M3 0H0V6H3M0 2.9H2.6'],
  F: [3, 'M3 0H0V6M0 2.9H2.6'],
  G: [4.2, 'M4 1.2A2.4 3 0 1 0 4.2 4.4V3.3H2.6'],
  H: [3.8, 'M0 0V6M3.8 0V6M0 2.9H3.8'],
  I: [0.2, 'M0.1 0V6'],
  J: [2.4, 'M2.4 0V4.4Q2.4 6 1.2 6Q0.2 6 0 5'],
  K: [3.5, 'M0 0V6M3.3 0L0 3.8M1.2 2.5L3.5 6'],
  L: [2.8, 'M0 0V6H2.8'],
  M: [4.4, 'M0 6V0L2.2 3.8L4.4 0V6'],
  N: [3.8, 'M0 6V0L3.8 6V0'],
  O: [4.6, 'M2.3 0A2.3 3 0 1 1 2.3 6A2.3 3 0 1 1 2.3 0'],
  P: [3.3, 'M0 6V0H1.7Q3.3 0 3.3 1.6Q3.3 3.2 1.7 3.2H0'],
  Q: [4.6, 'M2.3 0A2.3 3 0 1 1 2.3 6A2.3 3 0 1 1 2.3 0M3 4.6L4.6 6.4'],
  R: [3.4, 'M0 6V0H1.7Q3.3 0 3.3 1.6Q3.3 3.2 1.7 3.2H0M1.7 3.2L3.4 6'],
  S: [3.4, 'M3.2 1Q2.7 0 1.7 0Q0.2 0 0.2 1.5Q0.2 2.6 1.7 2.9Q3.4 3.2 3.4 4.5Q3.4 6 1.7 6Q0.4 6 0 4.9'],
  T: [3.6, 'M0 0H3.6M1.8 0V6'],
  U: [3.8, 'M0 0V3.8Q0 6 1.9 6Q3.8 6 3.8 3.8V0'],
  V: [4, 'M0 0L2 6L4 0'],
  W: [5.6, 'M0 0L1.4 6L2.8 1L4.2 6L5.6 0'],
  X: [3.6, 'M0 0L3.6 6M3.6 0L0 6'],
  Y: [3.6, 'M0 0L1.8 3L3.6 0M1.8 3V6'],
  Z: [3.4, 'M0 0H3.4L0 6H3.4'],
  '0': [3.2, 'M1.6 0A1.6 3 0 1 1 1.6 6A1.6 3 0 1 1 1.6 0'],
  '1': [1.8, 'M0.2 1.3L1.7 0V6'],
  '2': [3.1, 'M0.1 1.6A1.5 1.55 0 1 1 2.7 2.5L0 6H3.1'],
  '3': [3.2, 'M0.2 1Q0.7 0 1.6 0Q3 0 3 1.4Q3 2.8 1.3 2.8Q3.2 2.8 3.2 4.4Q3.2 6 1.6 6Q0.4 6 0 4.9'],
  '4': [3.4, 'M2.5 6V0L0 4.2H3.4'],
  '5': [3.2, 'M2.9 0H0.6L0.3 2.7Q0.9 2.2 1.6 2.2Q3.2 2.2 3.2 4.1Q3.2 6 1.5 6Q0.4 6 0 5.1'],
  '6': [3.2, 'M2.5 0Q0.1 1.6 0.1 4.2A1.55 1.8 0 1 0 3.2 4.2A1.55 1.8 0 1 0 0.1 4.2'],
  '7': [3.2, 'M0 0H3.2L1.1 6'],
  '8': [3.2, 'M1.6 2.8A1.4 1.4 0 1 1 1.6 0A1.4 1.4 0 1 1 1.6 2.8A1.6 1.6 0 1 1 1.6 6A1.6 1.6 0 1 1 1.6 2.8'],
  '9': [3.2, 'M0.7 6Q3.1 4.4 3.1 1.8A1.55 1.8 0 1 0 0 1.8A1.55 1.8 0 1 0 3.1 1.8'],
  ' ': [1.2, ''],
  '.': [0.2, 'M0.1 5.9V6'],
  ',': [0.5, 'M0.4 5.7L0 7'],
  ':': [0.2, 'M0.1 2.9V3M0.1 5.9V6'],
  '·': [0.2, 'M0.1 3.7V3.8'],
  '-': [1.8, 'M0 3.8H1.8'],
  _: [3, 'M0 6.8H3'],
  '+': [2.8, 'M0 3.8H2.8M1.4 2.4V5.2'],
  '=': [2.8, 'M0 3.1H2.8M0 4.6H2.8'],
  '×': [2.2, 'M0 2.7L2.2 4.9M2.2 2.7L0 4.9'],
  '/': [2.2, 'M2.2 -0.4L0 6.8'],
  '%': [
    4.2,
    'M3.6 0L0.6 6M1.6 1.3A0.8 1.3 0 1 1 0 1.3A0.8 1.3 0 1 1 1.6 1.3M4.2 4.7A0.8 1.3 0 1 1 2.6 4.7A0.8 1.3 0 1 1 4.2 4.7',
  ],
  '(': [1.2, 'M1.2 -0.6Q-0.6 3 1.2 7'],
  ')': [1.2, 'M0 -0.6Q1.8 3 0 7'],
};

const UNKNOWN: Glyph = [2.6, 'M0 0H2.6V6H0Z'];
const SPACING = 1.35;
const CAPITAL = 6;

/** Width of `text` in pixels when its capitals are `size` pixels high. */
export function textWidth(text: string, size: number): number {
  let units = 0;
  for (const character of text) units += (GLYPHS[character] ?? UNKNOWN)[0] + SPACING;
  return Math.max(units - SPACING, 0) * (size / CAPITAL);
}

/**
 * `text` as an SVG group.
 *
 * @param x left end, or right end or middle as `anchor` says
 * @param y baseline
 * @param size height of a capital in pixels
 */
export function textSvg(
  text: string,
  x: number,
  y: number,
  size: number,
  color: string,
  anchor: 'start' | 'middle' | 'end' = 'start',
): string {
  const scale = size / CAPITAL;
  const width = textWidth(text, size);
  let left = anchor === 'start' ? x : anchor === 'end' ? x - width : x - width / 2;
  const paths: string[] = [];
  for (const character of text) {
    const [units, path] = GLYPHS[character] ?? UNKNOWN;
    if (path)
      paths.push(
        `<path transform="translate(${left.toFixed(2)} ${(y - size).toFixed(2)}) scale(${scale})" d="${path}"/>`,
      );
    left += (units + SPACING) * scale;
  }
  return `<g fill="none" stroke="${color}" stroke-width="0.75" stroke-linecap="round" stroke-linejoin="round">${paths.join('')}</g>`;
}

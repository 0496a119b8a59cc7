import { textSvg } from './lettering.js';
import { loadSharp } from './sharp.js';

/** RGB pixels, `[height][width][3]`. */
export interface Picture {
  data: Uint8Array;
  width: number;
  height: number;
}

/** What one scale adds: its tokens as colours and the picture decoded from all scales up to it. */
export interface ContactSheetStep {
  /** Side of the token grid. */
  scale: number;
  /** RGB of each token, `[scale][scale][3]`. */
  tokens: Uint8Array;
  /** Decoded from this scale and the coarser ones; as large as the original. */
  picture: Picture;
  /** Against the original, in dB. */
  psnr: number;
}

export interface ContactSheetContent {
  title: string;
  /** Which model, in a few words. */
  model: string;
  original: Picture;
  /** Coarse to fine; the last one's picture is the reconstruction. */
  steps: ContactSheetStep[];
  /** Lines about the reconstruction: a value and what it is. */
  facts: { value: string; label: string }[];
}

export interface Rectangle {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Where things are on a sheet. Pictures are shown at a whole multiple of their size. */
export interface ContactSheetLayout {
  width: number;
  height: number;
  original: Rectangle;
  reconstruction: Rectangle;
  /** Facts and curve. */
  figures: Rectangle;
  steps: { tokens: Rectangle; picture: Rectangle }[];
}

const INK = '#eceae6';
const MUTED = '#8f96a3';
const FAINT = '#343943';
const ACCENT = '#f2b661';
const PAPER = '#15171c';

const MARGIN = 40;
const GAP = 14;
const LABEL = 30; // height of a line of labels

/** The layout of a sheet for a photograph of w x h pixels in so many scales. */
export function contactSheetLayout(w: number, h: number, scales: number): ContactSheetLayout {
  const small = Math.max(1, Math.floor(128 / w));
  const large = 2 * small;
  const tile = { width: w * small, height: h * small };
  const big = { width: w * large, height: h * large };

  const width = 2 * MARGIN + Math.max(scales * (tile.width + GAP) - GAP, 2 * (big.width + GAP) + 480);
  const top = MARGIN + 34 + LABEL;
  const tokensTop = top + big.height + 24 + 2 * LABEL;
  const picturesTop = tokensTop + tile.height + GAP;
  const height = picturesTop + tile.height + LABEL + MARGIN;

  const second = MARGIN + big.width + GAP;
  const third = second + big.width + 3 * GAP;
  return {
    width,
    height,
    original: { left: MARGIN, top, ...big },
    reconstruction: { left: second, top, ...big },
    figures: { left: third, top, width: width - MARGIN - third, height: big.height },
    steps: Array.from({ length: scales }, (_, i) => {
      const left = MARGIN + i * (tile.width + GAP);
      return { tokens: { left, top: tokensTop, ...tile }, picture: { left, top: picturesTop, ...tile } };
    }),
  };
}

/**
 * Draws one photograph's contact sheet: the original and the reconstruction side by side, figures and how they grow
 * with the scales, then for each scale its token grid and the picture decoded so far.
 *
 * @throws TokenFlowError `ERR_TOKENFLOW_IMAGE` when sharp is missing.
 */
export async function drawContactSheet(content: ContactSheetContent): Promise<Picture> {
  const { original, steps } = content;
  const layout = contactSheetLayout(original.width, original.height, steps.length);
  const { width, height, figures } = layout;
  const labelled = layout.steps.map(({ tokens, picture }, i) => {
    const middle = tokens.left + tokens.width / 2;
    return (
      textSvg(`${steps[i].scale} × ${steps[i].scale}`, middle, tokens.top - 12, 9, INK, 'middle') +
      textSvg(`${steps[i].psnr.toFixed(1)} dB`, middle, picture.top + picture.height + 21, 9, INK, 'middle')
    );
  });
  const svg = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">`,
    `<rect width="${width}" height="${height}" fill="${PAPER}"/>`,
    textSvg(content.title, MARGIN, MARGIN + 16, 16, INK),
    textSvg(content.model, width - MARGIN, MARGIN + 16, 9, MUTED, 'end'),
    textSvg('original', layout.original.left, figures.top - 12, 9, MUTED),
    textSvg('reconstruction', layout.reconstruction.left, figures.top - 12, 9, MUTED),
    drawFacts(content.facts, figures),
    drawCurve(steps, { ...figures, top: figures.top + 74, height: figures.height - 74 }),
    textSvg(
      'each scale: its tokens, in the colour that they add, and the picture decoded from it and the coarser ones',
      MARGIN,
      layout.steps[0].tokens.top - LABEL - 12,
      9,
      MUTED,
    ),
    ...labelled,
    '</svg>',
  ].join('\n');
  const data = new Uint8Array(await loadSharp()(Buffer.from(svg)).removeAlpha().raw().toBuffer());
  const sheet = { data, width, height };

  paste(sheet, original, layout.original);
  paste(sheet, steps[steps.length - 1].picture, layout.reconstruction);
  layout.steps.forEach(({ tokens, picture }, i) => {
    paste(sheet, steps[i].picture, picture);
    pasteGrid(sheet, steps[i].tokens, steps[i].scale, tokens);
  });
  return sheet;
}

function drawFacts(facts: ContactSheetContent['facts'], { left, top, width }: Rectangle): string {
  const step = width / facts.length;
  return facts
    .map(
      ({ value, label }, i) =>
        textSvg(value, left + i * step, top + 18, 18, INK) +
        textSvg(label, left + i * step, top + 42, 9, MUTED),
    )
    .join('');
}

/** PSNR over the tokens read so far, with one dot per scale. */
function drawCurve(steps: ContactSheetStep[], { left, top, width, height }: Rectangle): string {
  let count = 0;
  const counts = steps.map(({ scale }) => {
    count += scale * scale;
    return count;
  });
  const low = Math.floor(Math.min(...steps.map(({ psnr }) => psnr)));
  const high = Math.ceil(Math.max(...steps.map(({ psnr }) => psnr)));
  const bottom = top + height - 24;
  const x = (i: number) => left + 34 + ((width - 44) * i) / Math.max(steps.length - 1, 1);
  const y = (psnr: number) => bottom - ((bottom - top - 32) * (psnr - low)) / Math.max(high - low, 1);
  const points = steps.map(({ psnr }, i) => `${x(i).toFixed(1)},${y(psnr).toFixed(1)}`);
  const lines: string[] = [];
  const spacing = high - low > 8 ? 4 : 2;
  for (let level = Math.ceil(low / spacing) * spacing; level <= high; level += spacing) {
    lines.push(
      `<path d="M${left + 34} ${y(level)}H${left + width}" stroke="${FAINT}"/>`,
      textSvg(`${level}`, left + 20, y(level) + 4, 8, MUTED, 'end'),
    );
  }
  return [
    textSvg('PSNR (dB) after so many tokens', left, top + 8, 9, MUTED),
    ...lines,
    `<polyline points="${points.join(' ')}" fill="none" stroke="${ACCENT}" stroke-width="2" stroke-linejoin="round"/>`,
    ...steps.map(({ psnr }, i) => `<circle cx="${x(i)}" cy="${y(psnr)}" r="4" fill="${ACCENT}"/>`),
    ...counts.map((n, i) => textSvg(`${n}`, x(i), top + height, 8, MUTED, 'middle')),
  ].join('\n');
}

/** Copies a picture onto the sheet, each of its pixels as a square of whole pixels. */
function paste(sheet: Picture, picture: Picture, { left, top, width, height }: Rectangle): void {
  const factor = width / picture.width;
  for (let y = 0; y < height; y++) {
    const from = Math.floor(y / factor) * picture.width;
    const to = (top + y) * sheet.width + left;
    for (let x = 0; x < width; x++) {
      const pixel = 3 * (from + Math.floor(x / factor));
      sheet.data.set(picture.data.subarray(pixel, pixel + 3), 3 * (to + x));
    }
  }
}

/** Draws tokens as squares with a hair of space between them, as long as there is room for it. */
function pasteGrid(sheet: Picture, colors: Uint8Array, scale: number, at: Rectangle): void {
  const edge = (length: number, i: number) => Math.round((length * i) / scale);
  const seam = at.width / scale >= 6 ? 1 : 0;
  for (let row = 0; row < scale; row++) {
    for (let column = 0; column < scale; column++) {
      const color = colors.subarray(3 * (row * scale + column), 3 * (row * scale + column) + 3);
      const [left, right] = [
        edge(at.width, column),
        edge(at.width, column + 1) - (column + 1 < scale ? seam : 0),
      ];
      const [top, bottom] = [edge(at.height, row), edge(at.height, row + 1) - (row + 1 < scale ? seam : 0)];
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++)
          sheet.data.set(color, 3 * ((at.top + y) * sheet.width + at.left + x));
      }
    }
  }
}

import assert from 'node:assert/strict';
import {
  contactSheetLayout,
  drawContactSheet,
  type Picture,
  type Rectangle,
} from '../lib/image/contact-sheet.js';
import { textSvg, textWidth } from '../lib/image/lettering.js';

const pixel = ({ data, width }: Picture, x: number, y: number) => [
  ...data.subarray(3 * (y * width + x), 3 * (y * width + x) + 3),
];

function picture(width: number, height: number, seed: number): Picture {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37 + seed * 101) % 256);
  return { data, width, height };
}

/** What a rectangle of the sheet shows, each `factor` x `factor` square read as one pixel; squares must be even. */
function shown(sheet: Picture, { left, top, width, height }: Rectangle, factor: number): Picture {
  const data: number[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = pixel(sheet, left + x, top + y);
      const [evenX, evenY] = [x - (x % factor), y - (y % factor)];
      assert.deepEqual(here, pixel(sheet, left + evenX, top + evenY));
      if (x === evenX && y === evenY) data.push(...here);
    }
  }
  return { data: Uint8Array.from(data), width: width / factor, height: height / factor };
}

describe('a contact sheet', () => {
  const scales = [1, 2, 5];
  const original = picture(64, 64, 1);
  const steps = scales.map((scale, i) => ({
    scale,
    tokens: picture(scale, scale, 20 + i).data,
    picture: picture(64, 64, 10 + i),
    psnr: 14 + 3 * i,
  }));
  const content = {
    title: 'a test',
    model: 'none',
    original,
    steps,
    facts: [{ value: '7', label: 'tokens' }],
  };

  it('shows every picture pixel by pixel where its layout says', async () => {
    const sheet = await drawContactSheet(content);
    const layout = contactSheetLayout(64, 64, 3);
    assert.deepEqual([sheet.width, sheet.height], [layout.width, layout.height]);
    assert.equal(sheet.data.length, sheet.width * sheet.height * 3);
    assert.deepEqual(shown(sheet, layout.original, 4), original);
    assert.deepEqual(shown(sheet, layout.reconstruction, 4), steps[2].picture);
    steps.forEach((step, i) => {
      assert.deepEqual(shown(sheet, layout.steps[i].picture, 2), step.picture);
    });
  });

  it('draws each token as a square of its colour', async () => {
    const sheet = await drawContactSheet(content);
    const layout = contactSheetLayout(64, 64, 3);
    steps.forEach(({ scale, tokens }, i) => {
      const { left, top, width } = layout.steps[i].tokens;
      const cell = width / scale;
      for (let row = 0; row < scale; row++) {
        for (let column = 0; column < scale; column++) {
          const wanted = [...tokens.subarray(3 * (row * scale + column), 3 * (row * scale + column) + 3)];
          for (const [dx, dy] of [
            [0.2, 0.2],
            [0.8, 0.8],
          ]) {
            const at = [
              left + Math.floor((column + dx) * cell),
              top + Math.floor((row + dy) * cell),
            ] as const;
            assert.deepEqual(pixel(sheet, ...at), wanted);
          }
        }
      }
    });
  });

  it('keeps its parts apart and inside', () => {
    for (const [width, height, count] of [
      [128, 128, 9],
      [256, 256, 9],
      [384, 384, 15],
      [128, 128, 1],
      [16, 24, 4],
    ]) {
      const layout = contactSheetLayout(width, height, count);
      const parts = [
        layout.original,
        layout.reconstruction,
        layout.figures,
        ...layout.steps.flatMap(({ tokens, picture }) => [tokens, picture]),
      ];
      for (const [i, a] of parts.entries()) {
        assert.ok(
          a.left > 0 && a.top > 0 && a.left + a.width < layout.width && a.top + a.height < layout.height,
        );
        for (const b of parts.slice(i + 1)) {
          const apart =
            a.left + a.width < b.left ||
            b.left + b.width < a.left ||
            a.top + a.height < b.top ||
            b.top + b.height < a.top;
          assert.ok(apart, `${JSON.stringify(a)} and ${JSON.stringify(b)} touch`);
        }
      }
    }
  });

  it('is lettered without fonts', async () => {
    const blank = await drawContactSheet({ ...content, title: '' });
    const titled = await drawContactSheet({ ...content, title: 'Raccoon, 24.1 dB' });
    const ink = titled.data.reduce((count, value, i) => count + (value !== blank.data[i] ? 1 : 0), 0);
    assert.ok(ink > 500, `${ink} samples of ink`);
    assert.doesNotMatch(textSvg('abc', 0, 0, 9, '#fff'), /<text|font/);
  });
});

describe('lettering', () => {
  it('measures what it draws', () => {
    assert.equal(textWidth('', 12), 0);
    assert.ok(textWidth('mm', 12) > textWidth('m', 12) * 2);
    assert.ok(Math.abs(textWidth('abc', 12) - 2 * textWidth('abc', 6)) < 1e-9);
    const start = (svg: string) => Number(/translate\(([-\d.]+)/.exec(svg)![1]);
    const width = textWidth('tokens', 9);
    assert.ok(Math.abs(start(textSvg('tokens', 100, 50, 9, '#fff', 'end')) - (100 - width)) < 0.01);
    assert.ok(Math.abs(start(textSvg('tokens', 100, 50, 9, '#fff', 'middle')) - (100 - width / 2)) < 0.01);
  });

  it('draws a box for what it has no letter for, and lets no markup through', () => {
    assert.match(textSvg('é', 0, 0, 6, '#fff'), /d="M0 0H2\.6V6H0Z"/);
    assert.doesNotMatch(textSvg('<script>&"', 0, 0, 6, '#fff'), /script|&/);
  });
});

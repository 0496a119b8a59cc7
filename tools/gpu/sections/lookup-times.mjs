// Milliseconds of n lookups among k codes of d dimensions, ours by CUDA events, PyTorch's ways beside them.
import { lookupProgram, millisecondsByOp, randomFloats, sum } from '../measure.mjs';
import { Rival } from '../rival.mjs';
import { device, rehearse, row } from '../section.mjs';

// The targets of the project first.
const CASES = [
  [8192, 32768, 40],
  [32768, 32768, 40],
  [8192, 8192, 8],
  [8192, 32768, 32],
  [131072, 32768, 40],
  [32768, 131072, 64],
  [817, 32768, 40],
  [131072, 262144, 8],
];
const SMALL = [
  [36, 100, 40],
  [4096, 64, 8],
];

const rival = Rival.find(device, rehearse);
const compare = async (key, request, name) => {
  const { milliseconds, error } = (await rival?.ask({ do: 'lookup', ...request })) ?? {};
  if (milliseconds !== undefined || error !== undefined) row(key, { [name]: milliseconds ?? error });
};
const shapes = (rehearse ? SMALL : CASES).map(([wanted, k, d]) => {
  // as maps of 64 x 64 cells, so that one launch has all of them
  const side = wanted < 4096 ? Math.round(Math.sqrt(wanted)) : 64;
  const batch = Math.max(1, Math.round(wanted / side ** 2));
  return { batch, side, n: batch * side * side, k, d };
});
for (const { batch, side, n, k, d } of shapes) {
  const key = `${n} ${k} ${d}`;
  const program = lookupProgram(device, batch, side, k, d);
  const x = randomFloats(n * d, 5);
  row(key, { n, k, d, ours: sum(millisecondsByOp(program, { x }).values()) });
  program.dispose();
  for (const way of ['matmul', 'cdist']) {
    for (const tf32 of [false, true]) {
      await compare(key, { n, k, d, way, tf32, compiled: false }, `${way}${tf32 ? ' tf32' : ''}`);
    }
  }
}
for (const { n, k, d } of shapes) {
  await compare(`${n} ${k} ${d}`, { n, k, d, way: 'matmul', tf32: false, compiled: true }, 'matmul compiled');
}
rival?.end();

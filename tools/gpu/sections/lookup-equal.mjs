// A million lookups (d = 40, k = 8192, the multi-scale quantiser's) on the card and on the CPU, compared to the bit.
import { lookupProgram, randomFloats } from '../measure.mjs';
import { device, failure, found, rehearse } from '../section.mjs';

const [batch, side, k, d] = rehearse ? [2, 6, 100, 40] : [8, 128, 8192, 40];
const wanted = rehearse ? 100 : 1_000_000;
const [ours, reference] = [device, 'cpu'].map((where) => lookupProgram(where, batch, side, k, d));
let queries = 0;
let different = 0;
for (let round = 0; queries < wanted; round++) {
  const x = randomFloats(batch * side * side * d, round + 1);
  const [a, b] = [ours, reference].map((program) => program.runSync({ x }).tokens);
  queries += a.length;
  different += a.filter((token, i) => token !== b[i]).length;
  found({ queries, different });
}
if (different > 0) failure(`${different} of ${queries} indices differ`);

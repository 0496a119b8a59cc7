// The share of tokens that bf16 changes: the bundled model on the sample images.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { device, found, lib, rehearse, root } from '../section.mjs';

const { TokenFlow, listBackends } = lib('index');
const card = listBackends()[1].devices.find(({ id }) => id === device);
if (!card.precisions.includes('bf16')) {
  found({ note: 'this card has no bf16' });
} else {
  const samples = path.join(root, 'samples');
  const images = readdirSync(samples)
    .filter((file) => /\.(jpe?g|png)$/.test(file))
    .map((file) => path.join(samples, file))
    .slice(0, rehearse ? 1 : undefined);
  const tokens = [];
  for (const precision of ['f32', 'bf16']) {
    const tokenizer = await TokenFlow.load(path.join(root, 'models', 'tokenflow-tiny'), {
      device,
      precision,
    });
    tokens.push((await tokenizer.encode(images)).tokens);
    await tokenizer.dispose();
  }
  const changed = tokens[0].filter((token, i) => token !== tokens[1][i]).length;
  found({ model: 'tokenflow-tiny', images: images.length, share: changed / tokens[0].length });
}

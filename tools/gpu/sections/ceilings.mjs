// What the card reaches at best, as PyTorch measures it: matrix products in bf16 and fp32, and a copy.
import { Rival } from '../rival.mjs';
import { device, found, rehearse } from '../section.mjs';

const rival = Rival.find(device, rehearse);
if (rival === null) {
  found({ note: 'python3 has no PyTorch here' });
} else {
  found(await rival.ask({ do: 'ceilings', size: rehearse ? 64 : 8192 }));
  rival.end();
}

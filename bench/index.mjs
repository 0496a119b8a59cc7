/**
 * Every benchmark: `npm run bench -- [--json FILE] [--only TEXT] [--quick]`. Each names its rival and runs it in the same
 * process, in turn with ours.
 */
import { benchArguments, Report } from './frame.mjs';
import { benchDecode, benchEncode } from './graph.mjs';
import { benchLoad } from './load.mjs';
import { benchDualLookup } from './lookup.mjs';

const { json, only, quick } = benchArguments();
const report = new Report('tokenflow');
if (only === undefined || 'lookup/dual/40/32768'.includes(only))
  await benchDualLookup(report, { threads: [1, 2] });
await benchEncode(report, { quick, only });
await benchDecode(report, { quick, only });
await benchLoad(report, { quick, only });
report.finish(json);

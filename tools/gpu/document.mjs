const show = (value) => {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number' && !Number.isInteger(value)) return String(Number(value.toPrecision(3)));
  return String(value).replaceAll('|', '\\|').replaceAll('\n', ' ');
};

function table(rows) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return [
    `| ${columns.join(' | ')} |`,
    `|${' --- |'.repeat(columns.length)}`,
    ...rows.map((row) => `| ${columns.map((column) => show(row[column])).join(' | ')} |`),
  ].join('\n');
}

/** Scalars only; what is nested is left to the JSON. */
const flat = (row) =>
  Object.fromEntries(Object.entries(row).filter(([, value]) => typeof value !== 'object'));

/** The share of the ceilings that each model's layers reach. */
function withShares(rows, ceilings) {
  return rows.map((row) => {
    const peak = row.precision === 'bf16' ? ceilings.bf16Tflops : ceilings.f32Tflops;
    return peak && row.tflops ? { ...row, shareOfPeak: row.tflops / peak } : row;
  });
}

/** Where the time of a batch goes: the five ops that take most of it. */
function shares(row) {
  if (!row.byOp) return null;
  const parts = Object.entries(row.byOp).slice(0, 5);
  return `- ${row.variant} ${row.part} ${row.precision}, batch ${row.batch}: ${parts
    .map(([op, time]) => `${op} ${((100 * time) / row.ours).toFixed(0)} %`)
    .join(', ')}`;
}

/** The report as Markdown. */
export function documentOf(report) {
  const { sections } = report;
  const torch = report.torch?.torch
    ? `PyTorch ${report.torch.torch} (CUDA ${report.torch.cuda})`
    : 'no PyTorch';
  const blocks = [
    `# ${report.card}`,
    `tokenflow ${report.version}, ${report.date.slice(0, 10)}, compute capability ${report.computeCapability}, ` +
      `${(report.memoryBytes / 2 ** 30).toFixed(0)} GiB, Node.js ${report.node}, ${torch}. Made by ` +
      '`npm run gpu:report`. Times are milliseconds by CUDA events after warm-up, medians. Ours are sums over the ops of a ' +
      'program started one by one; `endToEnd` is by the clock on the wall, from uint8 in host memory to tokens there (or ' +
      'back), per batch with three under way. `momentsGroupNorm` and `separateGroupNorm` are `ours` with ' +
      'TOKENFLOW_CUDA_GROUP_NORM set to that. PyTorch computes the same layers in channels-last memory, without the quantiser.',
  ];
  if (report.rehearsal) blocks.push('**A rehearsal at small sizes: its figures mean nothing.**');
  if (report.failures.length > 0) {
    blocks.push(
      '## Failures',
      report.failures.map((line) => `- ${line.replaceAll('\n', '\n  ')}`).join('\n'),
    );
  }
  for (const [name, section] of Object.entries(sections)) {
    blocks.push(`## ${section.title}`);
    if (Object.keys(section.found).length > 0) blocks.push(table([section.found]));
    if (section.rows) {
      const rows =
        name === 'models' ? withShares(section.rows, sections.ceilings?.found ?? {}) : section.rows;
      blocks.push(table(rows.map(flat)));
      const lines = rows.map(shares).filter(Boolean);
      if (lines.length > 0) blocks.push('Where the time goes:', lines.join('\n'));
    }
    if (section.cutShort) blocks.push(`Cut short after ${section.cutShort} s.`);
  }
  if (report.leftOut.length > 0) blocks.push(`Left out, the time was up: ${report.leftOut.join(', ')}.`);
  return `${blocks.join('\n\n')}\n`;
}

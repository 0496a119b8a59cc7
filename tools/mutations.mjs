// Plants deliberate faults in copies of the CUDA kernels, one at a time, and runs the emulated tests on each: every fault
// has to be noticed. A fault that no test notices is a hole in the tests. It takes an hour and more:
//   --only TEXT   takes the faults whose file or name contains it (repeat it for more)
//   --resume      leaves out what was noticed before by the same tests in the same sources (build/mutations/noticed.json)
//   --list        says which faults there are, and fails where one can no longer be planted
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const scratch = path.join(root, 'build', 'mutations');
const RING = '    WaitAsync<kStages - 2>();\n    __syncthreads();';

/** [file, test program, what is wrong, from, to]. `from` must occur; its first occurrence is replaced. */
const faults = [
  ['nearest.cu', 'lookup_test', 'ring barrier removed', RING, '    WaitAsync<kStages - 2>();'],
  ['nearest.cu', 'lookup_test', 'wait leaves one stage too many in flight', RING, RING.replace('- 2', '- 1')],
  [
    'nearest.cu',
    'lookup_test',
    'prefetch past the last stage',
    'if (step + kStages - 1 < steps)',
    'if (step + kStages - 1 <= steps)',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'prefetch into the stage being read',
    '((step + kStages - 1) & (kStages - 1))',
    '(step & (kStages - 1))',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'rows of queries beyond the last are read',
    'const bool inside = query0 + row < a.queries.count;',
    'const bool inside = true;',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'minima of absent queries are stored',
    'if (q < a.queries.count) {\n    a.minima',
    'if (true) {\n    a.minima',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'the second chunk of k is skipped',
    'min(kChunks, (a.book.dim - k + 3) / 4)',
    'min(kChunks, (a.book.dim - k) / 4)',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'a later tile replaces an equal earlier one',
    'if (m < best[i]) {',
    'if (m <= best[i]) {',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'splits overlap by nothing, the last tile is lost',
    'static_cast<int>(a.book.padded / kTileCodes));',
    'static_cast<int>(a.book.padded / kTileCodes) - 1);',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'butterfly keeps the wrong half',
    'upper ? v[i + width] : v[i]',
    'upper ? v[i] : v[i + width]',
  ],
  [
    'nearest.cu',
    'lookup_test',
    'accumulators start at 0 instead of the norms',
    'acc[i][j] = norm;',
    'acc[i][j] = norm < INFINITY ? 0.0f : norm;',
  ],
  ['swizzle.cuh', 'lookup_test', 'swizzle dropped', '(chunk ^ turn)', '(chunk)'],
  [
    'score_key.cuh',
    'lookup_test',
    'negative scores order the wrong way',
    'bits >> 31 ? 0xffffffffu : 0x80000000u',
    '0x80000000u',
  ],
  [
    'prepare.cu',
    'lookup_test',
    'margin without the rounding residual of the query',
    'y_residual * code + rounding',
    'rounding',
  ],
  [
    'prepare.cu',
    'lookup_test',
    'margin without the rounding residuals of the codes',
    'y_norm * book.largest_residual + y_residual',
    'y_residual',
  ],
  [
    'prepare.cu',
    'lookup_test',
    'an infinite margin becomes 0',
    'IsFinite(margin) ? margin : INFINITY',
    'IsFinite(margin) ? margin : 0.0f',
  ],
  [
    'prepare.cu',
    'lookup_test',
    'a query that is not finite is scored',
    'queries.scored[q] = finite;',
    'queries.scored[q] = 1;',
  ],
  [
    'prepare.cu',
    'lookup_test',
    'the stride beyond the dimension keeps what was there',
    'if (k >= book.dim || !finite) y[k]',
    'if (!finite) y[k]',
  ],
  ['screen.cu', 'lookup_test', 'ring barrier removed', RING, '    WaitAsync<kStages - 2>();'],
  ['screen.cu', 'lookup_test', 'the half stage at the end is forgotten', 'a.book.dim - k > 16 ? 2 : 1', '1'],
  [
    'screen.cu',
    'lookup_test',
    'groups of the two column warps change places',
    '(warp >> 2);\n  if (query0',
    '(1 - (warp >> 2));\n  if (query0',
  ],
  [
    'screen.cu',
    'lookup_test',
    'norms in the order of the fragments instead of the columns',
    '(column0 + 32 * q + 8 * t) * 4',
    '(column0 + 32 * q + 8 * (t ^ 1)) * 4',
  ],
  [
    'settle.cu',
    'lookup_test',
    'the margin is ignored',
    'next > list.worst() + margin',
    'next > list.worst()',
  ],
  [
    'settle.cu',
    'lookup_test',
    'groups equal to the worst are left out',
    'next > list.worst() + margin',
    'next >= list.worst() + margin',
  ],
  [
    'settle.cu',
    'lookup_test',
    'insertion forgets the carry between the slots',
    'if (lane_ == 0 && e == 1) {',
    'if (false) {',
  ],
  [
    'settle.cu',
    'lookup_test',
    'only the first 32 codes of a group are scored',
    'i < kCodes; i += 32',
    'i < 32; i += 32',
  ],
  ['tensor_tile.cuh', 'matmul_test', "B swizzled by A's rule", '(row >> 3) & 3', '(row >> 1) & 3'],
  [
    'tensor_tile.cuh',
    'matmul_test',
    'second k step reads the first chunks',
    'b + (b_offset ^ (step * 32))',
    'b + b_offset',
  ],
  [
    'tensor_tile.cuh',
    'matmul_test',
    'columns owned in fragment order',
    'acc_[i][q * 4 + (e >> 1)][2 * h + (e & 1)]; }',
    'acc_[i][q * 4 + (e & 3)][2 * h + (e >> 2)]; }',
  ],
  ['gemm.cu', 'matmul_test', 'ring barrier removed', RING, '    WaitAsync<kStages - 2>();'],
  ['gemm.cu', 'matmul_test', 'wait leaves one stage too many in flight', RING, RING.replace('- 2', '- 1')],
  [
    'gemm.cu',
    'matmul_test',
    'no commit once nothing is issued',
    '    if (k + kStages - 1 < a.stages) issue(stage == 0 ? kStages - 1 : stage - 1);\n    CommitAsync();',
    '    if (k + kStages - 1 < a.stages) {\n      issue(stage == 0 ? kStages - 1 : stage - 1);\n      CommitAsync();\n    }',
  ],
  [
    'gemm.cu',
    'matmul_test',
    'barrier after the prefetch instead of before',
    `${RING}  // this stage is complete for everyone, and everyone has left the one to be filled\n    if (k + kStages - 1 < a.stages) issue(stage == 0 ? kStages - 1 : stage - 1);`,
    '    WaitAsync<kStages - 2>();\n    if (k + kStages - 1 < a.stages) issue(stage == 0 ? kStages - 1 : stage - 1);\n    __syncthreads();',
  ],
  [
    'gemm.cu',
    'matmul_test',
    'rows beyond the image are stored',
    'if (r >= rows || !column_inside) continue;',
    'if (!column_inside) continue;',
  ],
  [
    'gemm.cu',
    'matmul_test',
    'columns beyond the weights are read',
    'column0 + row + i * kRowStep < a.w.columns && k_left > 0;',
    'k_left > 0;',
  ],
  [
    'row8.cuh',
    'matmul_test',
    'whole 16-byte stores at the ragged edge',
    'columns >= 8 && aligned',
    'aligned',
  ],
  [
    'gemm.cu',
    'matmul_test',
    'residual added before the activation',
    'tile.at(i, h, q, e) + (bias[e] + row_bias))',
    'tile.at(i, h, q, e) + (bias[e] + row_bias) + (residual != nullptr ? 1.0f : 0.0f))',
  ],
  [
    'matmul_source.cuh',
    'matmul_test',
    'left and right bounds of the image missing',
    ' &&\n                        static_cast<unsigned>(x) < static_cast<unsigned>(a.width << a.upsample);',
    ';',
  ],
  [
    'matmul_source.cuh',
    'matmul_test',
    'upsampled bounds use the small map',
    'static_cast<unsigned>(a.height << a.upsample)',
    'static_cast<unsigned>(a.height)',
  ],
  ['matmul_source.cuh', 'matmul_test', 'taps beyond the window are read', 'ky_ < a.kernel &&', ''],
  [
    'matmul_source.cuh',
    'matmul_test',
    'kx and ky wrap one tap late',
    'if (++kx_ == a.kernel) {',
    'if (kx_++ == a.kernel) {',
  ],
  [
    'matmul_source.cuh',
    'matmul_test',
    'k beyond the matrix is read',
    'row_[i] >= 0 && k_ < a.depth',
    'row_[i] >= 0',
  ],
  ['sgemm.cu', 'matmul_test', 'ring barrier removed', RING, '    WaitAsync<kStages - 2>();'],
  ['gemm.cu', 'matmul_test', 'weights beyond the depth count', ' && k_left > 0;', ';'],
  ['sgemm.cu', 'matmul_test', 'weights beyond the depth count', ' && k_left > 0;', ';'],
  [
    'attention_matrix.cu',
    'attention_test',
    'padding columns of P left as they were',
    'c < p_stride; c += 32',
    'c < tokens; c += 32',
  ],
  [
    'attention_matrix.cu',
    'attention_test',
    'values of the next head',
    '* 3 * heads + head) * width',
    '* 3 * heads + head + 1) * width',
  ],
  [
    'sgemm.cu',
    'matmul_test',
    'two steps of a chain exchanged',
    'fmaf(row.x, column[j].x',
    'fmaf(row.y, column[j].y',
  ],
  [
    'sgemm.cu',
    'matmul_test',
    'the residual is added before the bias',
    'if (a.epilogue.bias != nullptr) v +=',
    'if (a.epilogue.residual == nullptr && a.epilogue.bias != nullptr) v +=',
  ],
  [
    'attention.cu',
    'attention_test',
    'tile barrier removed',
    '    WaitAsync<0>();\n    __syncthreads();',
    '    WaitAsync<0>();',
  ],
  [
    'attention.cu',
    'attention_test',
    'queries read before the barrier',
    '  WaitAsync<1>();\n  __syncthreads();',
    '  WaitAsync<1>();',
  ],
  [
    'attention.cu',
    'attention_test',
    'the last tile is not masked',
    'if (left < kTileRows) {',
    'if (false) {',
  ],
  [
    'attention.cu',
    'attention_test',
    'values read without turning',
    'LoadMatrix4Transposed(value',
    'LoadMatrix4(value',
  ],
  ['attention.cu', 'attention_test', 'an even pitch', '(kChunks | 1) * 16', 'kChunks * 16'],
  [
    'attention.cu',
    'attention_test',
    'the sum is not rescaled',
    'fmaf(total[r], shrink, sum)',
    '(total[r] + sum)',
  ],
  [
    'attention.cu',
    'attention_test',
    'channels beyond the width of the head are stored',
    'if (n * 8 >= a.width) break;',
    '',
  ],
  ['group_norm.cu', 'norm_test', 'barrier before the sums are collected removed', '  __syncthreads();\n', ''],
  [
    'group_norm.cu',
    'norm_test',
    'no origin: the squares cancel',
    'const float d = v[e] - origin[e];',
    'const float d = v[e];',
  ],
  [
    'group_norm.cu',
    'norm_test',
    'the spread between channels left out',
    'within / (count * width) + between / width',
    'within / (count * width)',
  ],
  [
    'group_norm.cu',
    'norm_test',
    'a piece runs into the next',
    '(piece + 1) * kPiece);',
    '(piece + 1) * kPiece + 1);',
  ],
  [
    'group_norm.cu',
    'halo_test',
    'moments merged without the spread between the pieces',
    '(sums[2] + sums[1] - sums[0] * sums[0] / count) / count',
    'sums[2] / count',
  ],
  [
    'group_norm.cu',
    'halo_test',
    'pieces merged without their counts',
    'const double count = at[0], off',
    'const double count = 128, off',
  ],
  [
    'group_norm.cu',
    'halo_test',
    'moments of the next group',
    'a.moments.pieces * 3 * stride + group * quads;',
    'a.moments.pieces * 3 * stride + (group + 1) % a.groups * quads;',
  ],
  [
    'group_norm.cu',
    'halo_test',
    'the barrier before the warps are added up removed',
    'StoreShared<double>(shared + (warp * 3 + s) * 8, sums[s]);\n  }\n  __syncthreads();',
    'StoreShared<double>(shared + (warp * 3 + s) * 8, sums[s]);\n  }',
  ],
  [
    'moments.cuh',
    'halo_test',
    'the mean of a lane instead of the piece',
    'sum = SumOverLanes<kLanes>(sum);',
    '',
  ],
  [
    'moments.cuh',
    'halo_test',
    'squares about 0 instead of the mean',
    'fmaf(v - centre, v - centre, square)',
    'fmaf(v, v, square)',
  ],
  ['moments.cuh', 'halo_test', 'rows beyond the map count', 'if (!inside(i, h)) continue;', ''],
  [
    'moments.cuh',
    'halo_test',
    'pieces beyond the map are stored',
    'column_inside && piece < to.pieces',
    'column_inside',
  ],
  ['row8.cuh', 'halo_test', 'moments of what was not rounded', 'v[e] = AsStored(y, v[e]);', 'v[e] += 0.0f;'],
  [
    'gemm.cu',
    'halo_test',
    'the second strip of a warp counted as the first',
    'row0 + warp_row + 32 * strip;',
    'row0 + warp_row;',
  ],
  ['sgemm.cu', 'halo_test', 'moments without bias and residual', '      acc[i][j] = v;\n', ''],
  [
    'sgemm.cu',
    'halo_test',
    'a pair of rows counted whole at the edge',
    'max(0, min(2, rows - first - 16 * i))',
    '(rows > first + 16 * i ? 2 : 0)',
  ],
  [
    'sgemm.cu',
    'halo_test',
    'rows of the two halves of a warp are not added',
    'MomentsOfLanes<1 | 2 | 16>',
    'MomentsOfLanes<1 | 2>',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'ring barrier removed',
    '      WaitAsync<kStages - 2>();\n      __syncthreads();',
    '      WaitAsync<kStages - 2>();',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'wait leaves one stage too many in flight',
    '      WaitAsync<kStages - 2>();\n      __syncthreads();',
    '      WaitAsync<kStages - 1>();\n      __syncthreads();',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'a patch is normalised before it has arrived',
    'kArrival = kStages - 1;',
    'kArrival = kStages - 2;',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'the padding is normalised',
    'if (to.from < 0 || channel >= channels) return;',
    'if (to.from == -2 || channel >= channels) return;',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'the next patch into the one being read',
    'shared + (c & 1) * kPatchBytes + PatchOffset(p',
    'shared + PatchOffset(p',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'patch swizzled by its pixel when stored, by its column when read',
    'PatchOffset(p, across, chunk)',
    'PatchOffset(p, p + 2 * down, chunk)',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'patch swizzle dropped',
    '((chunk ^ ((column >> 1) & 3)) << 4)',
    '(chunk << 4)',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'rows and columns of the taps exchanged',
    'const int ky = tap / 3, column = tap % 3 + (lane & 15);',
    'const int ky = tap % 3, column = tap / 3 + (lane & 15);',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'the last chunk of channels is loaded beyond its end',
    'column0 + row < a.w.columns && channel < channels;',
    'column0 + row < a.w.columns;',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'the last piece of a patch is not normalised',
    'tap < kArrival + kOwned)',
    'tap < kArrival + kOwned - 1)',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'scales of the first image',
    'static_cast<int64_t>(image) * channels + channel;\n    const uint4 in',
    'static_cast<int64_t>(0 * image) * channels + channel;\n    const uint4 in',
  ],
  [
    'halo_conv.cu',
    'halo_test',
    'the two rows of a strip at the lower edge both count',
    'max(0, min(2, a.map.height - (y0 + warp_y + 2 * strip)))',
    '2',
  ],
  [
    'layer_norm.cu',
    'norm_test',
    'the spread about 0 instead of the mean',
    'c + e < a.channels ? v[e] - mean : 0.0f',
    'c + e < a.channels ? v[e] : 0.0f',
  ],
  [
    'layer_norm.cu',
    'norm_test',
    'what pads a row counts as a channel',
    'c + e < a.channels ? v[e] - mean : 0.0f',
    'v[e] - mean',
  ],
  [
    'group_norm.cu',
    'norm_test',
    'the padding of a pixel left as it was',
    'a.to.scale[image * a.stride + padding] = a.to.shift[image * a.stride + padding] = 0.0f;',
    ';',
  ],
  [
    'multiscale.cu',
    'multiscale_test',
    'bins do not overlap',
    '((row + 1) * a.grid + a.scale - 1) / a.scale;',
    '(row + 1) * a.grid / a.scale;',
  ],
  [
    'multiscale.cu',
    'multiscale_test',
    'a token out of range is followed',
    'return index < 0 || index >= a.code_count\n',
    'return false\n',
  ],
  [
    'multiscale.cu',
    'multiscale_test',
    'rows and columns of the taps exchanged',
    'rows = a.taps[y], columns = a.taps[x]',
    'rows = a.taps[x], columns = a.taps[y]',
  ],
  ['multiscale.cu', 'multiscale_test', 'the residual is not reduced', 'a.residual[i] -= up;', ';'],
  [
    'program.cc',
    'overlap_test',
    'kernels do not wait for their inputs',
    'card.stream().WaitFor(slot.uploaded);',
    '',
  ],
  [
    'program.cc',
    'overlap_test',
    'results come down before they are there',
    'card.downloads().WaitFor(slot.computed);',
    '',
  ],
  ['program.cc', 'overlap_test', 'results are taken before they came down', 'slot.downloaded.Wait();', ''],
  [
    'weights.cc',
    'overlap_test',
    'a slot is given to two runs',
    'while (free < slots_that_fit_ && slots_[free] != nullptr && slots_[free]->land != nullptr) free++;',
    '',
  ],
  [
    'weights.cc',
    'overlap_test',
    'the arena moves under a run',
    '    LandAll();\n    generation_',
    '    generation_',
  ],
  [
    'elementwise.cu',
    'elementwise_test',
    'not a number becomes 255',
    'v > 0.0f ? (v < 255.0f ? v : 255.0f) : 0.0f',
    'v < 255.0f ? (v > 0.0f ? v : 0.0f) : 255.0f',
  ],
  [
    'quantize.cu',
    'codebook_calls_test',
    'the code of absent queries is read',
    'q < queries.count ? nearest[q * k] : kNoCode',
    'nearest[q * k]',
  ],
  [
    'quantize.cu',
    'codebook_calls_test',
    'each lane copies its own code',
    '__shfl_sync(kFullWarp, index, row)',
    'index',
  ],
  [
    'quantize.cu',
    'codebook_calls_test',
    'codes of absent queries are written',
    'min(static_cast<int64_t>(32), queries.count - first)',
    '32',
  ],
  [
    'quantize.cu',
    'codebook_calls_test',
    'the parts of an error in one chain',
    'float sum = 0.0f;',
    'float sum = total;\n    total = 0.0f;',
  ],
  [
    'ranks.cu',
    'codebook_calls_test',
    'places beyond the wanted are kept',
    'from[i / k * ranks + i % k]',
    'from[i]',
  ],
  [
    'ranks.cu',
    'codebook_calls_test',
    'the second place of a row without one is the next row',
    'ranks > 1 && indices',
    'ranks > 0 && indices',
  ],
  [
    'ranks.cu',
    'codebook_calls_test',
    'rows are not counted from the first of the call',
    'static_cast<unsigned long long>(base + row)',
    'static_cast<unsigned long long>(row)',
  ],
  [
    'gather.cu',
    'codebook_calls_test',
    'the index after the last is followed',
    'index >= a.codes.count',
    'index > a.codes.count',
  ],
  [
    'gather.cu',
    'codebook_calls_test',
    'a bad index is told by every element of its row but the first',
    'if (e == 0) atomicMin',
    'if (e > 0 && a.codes.dim < 2) atomicMin',
  ],
  ['gather.cu', 'codebook_calls_test', 'subnormal halves are halved', '0x1p-24f', '0x1p-25f'],
  [
    'gather.cu',
    'learning_test',
    'columns are taken from the first',
    'stride + begin + i % dim',
    'stride + i % dim',
  ],
  [
    'rows.cu',
    'learning_test',
    'a zero row is divided by its length',
    'divisor > 0.0f ? __fdiv_rn(v[k], divisor) : 0.0f',
    '__fdiv_rn(v[k], divisor)',
  ],
  [
    'rows.cu',
    'learning_test',
    'each lane divides by the norm of its own row',
    '__shfl_sync(kFullWarp, norm, r)',
    'norm',
  ],
  ['rows.cu', 'learning_test', 'infinity counts as finite', '< 0x7f800000u', '<= 0x7f800000u'],
  [
    'rows_by_code.cu',
    'learning_test',
    'lanes without a row count with those that have digit 0',
    'if (!there) peers = ~peers;',
    'peers = kFullWarp;',
  ],
  [
    'rows_by_code.cu',
    'learning_test',
    'places in the order of the lanes above',
    'peers & ((1u << lane) - 1)',
    'peers & ~((2u << lane) - 1)',
  ],
  [
    'rows_by_code.cu',
    'learning_test',
    'the counter is read after it was raised',
    '    if (there) visit(i, counter + __popc(peers & ((1u << lane) - 1)));\n    __syncwarp();',
    '    if (there) visit(i, counter + __popc(peers & ((1u << lane) - 1)));',
  ],
  [
    'rows_by_code.cu',
    'learning_test',
    'the scan forgets the sums of earlier steps',
    'before += LoadShared<uint32_t>(shared + 32 * 4);',
    'before = LoadShared<uint32_t>(shared + 32 * 4);',
  ],
  [
    'rows_by_code.cu',
    'learning_test',
    'the barrier between the steps of the scan removed',
    'before += LoadShared<uint32_t>(shared + 32 * 4);\n    __syncthreads();',
    'before += LoadShared<uint32_t>(shared + 32 * 4);',
  ],
  ['rows_by_code.cu', 'learning_test', 'one pass for codes of two digits', 'passes < 4 &&', 'passes < 1 &&'],
  ['rows_by_code.cu', 'learning_test', 'sums in fp32', 'double sum = 0.0;', 'float sum = 0.0f;'],
  [
    'rows_by_code.cu',
    'learning_test',
    'the farthest of equal rows is the last',
    'other_row < best_row',
    'other_row > best_row',
  ],
  [
    'kmeans.cu',
    'learning_test',
    'the partial sums in another order',
    '(lanes[0] + lanes[4]) + (lanes[1] + lanes[5])',
    '(lanes[0] + lanes[1]) + (lanes[4] + lanes[5])',
  ],
  [
    'kmeans.cu',
    'learning_test',
    'a later code replaces a nearer one',
    'first || distance <',
    'first || distance !=',
  ],
  [
    'kmeans.cu',
    'learning_test',
    'values after the last of a block are read',
    'i + lane < end ? values[i + lane] : 0.0f',
    'values[i + lane]',
  ],
  [
    'residual.cu',
    'learning_test',
    'the sum goes on from an earlier call',
    'a.first ? 0.0f : a.sum[i]',
    'a.sum[i]',
  ],
  ['residual.cu', 'learning_test', 'an error in fp32', 'double error = 0.0;', 'float error = 0.0f;'],
  [
    'residual.cu',
    'learning_test',
    'a bad index is followed',
    'index < 0 || index >= a.codes.count',
    'index < 0',
  ],
];

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    resume: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
  },
});
const chosen = faults.filter(
  ([file, , name]) =>
    values.only.length === 0 || values.only.some((text) => `${file} ${name}`.includes(text)),
);
if (values.list) {
  let lost = 0;
  for (const [file, program, name, from] of chosen) {
    const planted = readFileSync(path.join(root, 'native', 'cuda', file), 'utf8').includes(from);
    if (!planted) lost++;
    process.stdout.write(`${planted ? '' : 'NOT PLANTED  '}${file}: ${name} (${program})\n`);
  }
  process.stdout.write(`${chosen.length} faults, ${lost} of them cannot be planted\n`);
  process.exit(lost === 0 ? 0 : 1);
}

/** Of everything that decides whether a fault is noticed. */
const sources = createHash('sha256');
for (const folder of ['native/cuda', 'native/codebook', 'test/simt']) {
  for (const file of readdirSync(path.join(root, folder)).sort()) {
    sources.update(file).update(readFileSync(path.join(root, folder, file)));
  }
}
const stamp = sources.digest('hex');
const record = path.join(scratch, 'noticed.json');
const before = existsSync(record) ? JSON.parse(readFileSync(record, 'utf8')) : {};
const known = new Set(before.sources === stamp ? before.noticed : []);

const native = path.join(scratch, 'native', 'cuda');
rmSync(path.join(scratch, 'native'), { recursive: true, force: true });
mkdirSync(scratch, { recursive: true });
cpSync(path.join(root, 'native'), path.join(scratch, 'native'), {
  recursive: true,
  preserveTimestamps: true,
});
// An earlier run may have left an object of a faulty file behind, which must not pass for that of the sound one.
for (const file of new Set(faults.map(([name]) => name))) {
  utimesSync(path.join(native, file), new Date(), new Date());
}

function simt(program) {
  const args = [
    'tools/simt.mjs',
    `--source=${path.join(scratch, 'native')}`,
    `--build=${path.join(scratch, 'build')}`,
  ];
  return spawnSync('node', [...args, `--program=${program}`, '--fail-fast'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    timeout: 900_000,
  });
}

let noticed = 0;
for (const [file, program, name, from, to] of chosen) {
  const key = [file, name, from, to].join('\n');
  if (values.resume && known.has(key)) {
    noticed++;
    continue;
  }
  const full = path.join(native, file);
  const original = readFileSync(full, 'utf8');
  if (!original.includes(from)) {
    process.stdout.write(`NOT PLANTED  ${file}: ${name}\n`);
    continue;
  }
  writeFileSync(
    full,
    original.replace(from, () => to),
  );
  const result = simt(program);
  writeFileSync(full, original);
  // 2: it did not compile. No status: the time was up, on a busy machine perhaps. Neither says anything about the tests.
  const seen = result.status === 1;
  if (seen) {
    noticed++;
    known.add(key);
    writeFileSync(record, JSON.stringify({ sources: stamp, noticed: [...known] }));
  }
  const how = /^ {4}(.*)$/m.exec(result.stdout)?.[1] ?? result.error?.message ?? '';
  const otherwise = { 0: 'SURVIVED    ', 2: 'NOT COMPILED' }[result.status] ?? 'NOT FINISHED';
  const verdict = seen ? 'noticed     ' : otherwise;
  process.stdout.write(`${verdict} ${file}: ${name}${how ? ` (${how.slice(0, 110)})` : ''}\n`);
  if (result.status === 2) process.stdout.write(result.stderr.split('\n').slice(0, 12).join('\n'));
}
process.stdout.write(`${noticed} of ${chosen.length} noticed\n`);
process.exit(noticed === chosen.length && noticed > 0 ? 0 : 1);

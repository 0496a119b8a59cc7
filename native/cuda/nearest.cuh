// The exact lookup on the FMA units; see nearest.cu.
#pragma once
#include "launch.cuh"
#include "lookup_view.h"

namespace tokenflow::cuda {

// queries.keys[q] becomes the smallest ScoreKey(score, tile) over the tiles of kTileCodes codes, unless it was smaller.
// `splits` blocks share the tiles of each block of queries.
void NearestKeys(const QueryView& queries, const CodebookView& book, int splits, cudaStream_t stream);

// minima[q][g] = the smallest score of group g of kGroupCodes codes, +inf where none can be chosen.
void NearestMinima(const QueryView& queries, const CodebookView& book, int splits,
                   float* minima,  // [count][groups]
                   cudaStream_t stream);

}  // namespace tokenflow::cuda

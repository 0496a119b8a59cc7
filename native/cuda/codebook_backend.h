// The codebook layer on a card.
#pragma once
#include <memory>

#include "card.h"
#include "runtime/codebook_backend.h"

namespace tokenflow::cuda {

std::unique_ptr<CodebookBackend> MakeCodebookBackend(std::shared_ptr<Card> card);

}  // namespace tokenflow::cuda

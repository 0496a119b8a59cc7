// A lookup goes over its queries in pieces that fit into the workspace: the queries of a piece come up (unless they are on the
// card), the kernels run, its results go down (unless they stay); the host waits once a piece.
#include "placed_codebook.h"

#include <algorithm>

#include "arena.h"
#include "codebook/ranks.h"
#include "ranks.cuh"

namespace tokenflow::cuda {

namespace {

constexpr unsigned long long kNone = ~0ull;

// What the kernels of a call leave for the host.
struct Notes {
  unsigned long long first_missing, scored_groups;
};

int64_t BytesOf(QueryFormat format) {
  return format == QueryFormat::kFloat32 ? 4 : 2;
}

// Where the arrays of one piece lie; those that the caller has on the card stay null.
struct Piece {
  void* narrow = nullptr;  // queries as given, where they are not fp32
  float* x = nullptr;
  int32_t* wide_indices = nullptr;  // [rows][ranks], where more are found than asked for
  float *wide_distances = nullptr, *wide_parts = nullptr;
  int32_t* indices = nullptr;
  float *distances = nullptr, *margins = nullptr, *codes = nullptr, *errors = nullptr;
  std::vector<float*> parts;
  int32_t* counts = nullptr;
  Notes* notes = nullptr;
  void* lookup = nullptr;
  size_t bytes = 0;

  Piece(void* memory, const NearestRequest& request, int64_t rows, int ranks, const CodebookView& view,
        const LookupPlan& plan) {
    Arena arena(memory);
    const auto own = [&](const Operand& operand, auto** place, int64_t count) {
      using T = std::remove_reference_t<decltype(**place)>;
      if (operand.data != nullptr && !operand.on_device) *place = arena.Take<T>(count);
    };
    notes = arena.Take<Notes>(1);
    own(request.counts, &counts, view.count);
    if (request.format != QueryFormat::kFloat32) {
      x = arena.Take<float>(rows * view.dim);
      if (!request.queries.on_device) narrow = arena.Take<uint16_t>(rows * view.dim);
    } else {
      own(request.queries, &x, rows * view.dim);
    }
    if (ranks > request.k) {
      wide_indices = arena.Take<int32_t>(rows * ranks);
    }
    if (ranks > request.k || (request.margins.data != nullptr && request.distances.data == nullptr)) {
      wide_distances = arena.Take<float>(rows * ranks);
    }
    if (!request.part_distances.empty()) {
      wide_parts = arena.Take<float>(rows * ranks * static_cast<int64_t>(request.part_distances.size()));
    }
    own(request.indices, &indices, rows * request.k);
    own(request.distances, &distances, rows * request.k);
    own(request.margins, &margins, rows);
    own(request.codes, &codes, rows * view.dim);
    own(request.errors, &errors, rows);
    for (const Operand& part : request.part_distances) {
      parts.push_back(nullptr);
      own(part, &parts.back(), rows * request.k);
    }
    lookup = arena.Take<unsigned char>(static_cast<int64_t>(LookupWorkspaceBytes(view, plan)));
    bytes = arena.used();
  }
};

}  // namespace

CudaCodebook::CudaCodebook(std::shared_ptr<Workspace> workspace, std::shared_ptr<const PackedCodes> packed,
                           std::vector<PartSpan> spans, ScreenMode screen)
    : workspace_(std::move(workspace)),
      packed_(std::move(packed)),
      spans_(std::move(spans)),
      screen_(screen) {}

int64_t CudaCodebook::bytes() const {
  const int64_t padded = (codes() + kTileCodes - 1) / kTileCodes * kTileCodes;
  const int64_t row =
      (dim() + 3) / 4 * 4 * int64_t{sizeof(float)} + (dim() + 7) / 8 * 8 * int64_t{sizeof(uint16_t)};
  const int64_t compared = non_finite() > 0 ? codes() * dim() * int64_t{sizeof(float)} : 0;
  return padded * (row + int64_t{sizeof(float)}) + compared +
         static_cast<int64_t>(spans_.size() * sizeof(PartSpan));
}

LookupCounts CudaCodebook::counts() const {
  return {queries_.load(), screened_.load(), exact_scores_.load()};
}

const char* CudaCodebook::screen_name() const {
  return workspace_->card().shape().arch >= 80 ? "bf16 tensor cores" : nullptr;
}

LookupPlan CudaCodebook::Plan(int64_t queries, int k) const {
  const int64_t padded = (codes() + kTileCodes - 1) / kTileCodes * kTileCodes;
  return PlanLookup(queries, padded, dim(), k, workspace_->card().shape(), screen_);
}

void CudaCodebook::CountLookup(int64_t queries, const LookupPlan& plan,
                               unsigned long long scored_groups) const {
  queries_ += queries;
  if (plan.path != LookupPath::kScreen) return;
  screened_ += queries;
  exact_scores_ += static_cast<int64_t>(scored_groups) * kGroupCodes;
}

CudaCodebook::Resident& CudaCodebook::Get() const {
  if (resident_ != nullptr) return *resident_;
  auto resident = std::make_unique<Resident>();
  const HostCodebook host = LayOut(*packed_);
  const auto allocate = [&](int64_t count, size_t size) {
    return workspace_->Allocate(static_cast<size_t>(count) * size,
                                "a codebook of " + std::to_string(codes()) + " codes");
  };
  resident->codes = allocate(host.codes.size(), sizeof(float));
  resident->codes_low = allocate(host.codes_low.size(), sizeof(uint16_t));
  if (non_finite() > 0) resident->rows = allocate(codes() * dim(), sizeof(float));
  resident->norms = allocate(host.view.padded, sizeof(float));
  resident->parts = allocate(spans_.size(), sizeof(PartSpan));
  Staging& staging = workspace_->staging();
  try {
    staging.Upload(resident->codes.as(), host.codes.data(), resident->codes.bytes());
    staging.Upload(resident->codes_low.as(), host.codes_low.data(), resident->codes_low.bytes());
    if (non_finite() > 0) staging.Upload(resident->rows.as(), packed_->rows.data(), resident->rows.bytes());
  } catch (...) {
    staging.Drop();  // before the memory goes
    throw;
  }
  CodebookView& view = resident->view;
  view = host.view;
  view.codes = resident->codes.as<float>();
  view.codes_low = resident->codes_low.as<uint16_t>();
  view.norms = resident->norms.as<float>();
  view.parts = resident->parts.as<PartSpan>();
  resident_ = std::move(resident);
  return *resident_;
}

const CodebookView& CudaCodebook::View(const float* weights) const {
  Resident& resident = Get();
  std::vector<float> wanted(spans_.size(), 1.0f);
  if (weights != nullptr) wanted.assign(weights, weights + spans_.size());
  if (resident.weights == wanted) return resident.view;
  resident.weights.clear();  // none, should an upload fail
  std::vector<PartSpan> spans = spans_;
  for (size_t p = 0; p < spans.size(); p++) {
    spans[p].weight = wanted[p];
    spans[p].query_factor = QueryFactor(packed_->metric) * wanted[p];
  }
  const std::vector<float> norms =
      LayOutNorms(*packed_, wanted.data(), resident.view.padded, &resident.view.largest_norm);
  workspace_->staging().Upload(resident.norms.as(), norms.data(), norms.size() * sizeof(float));
  workspace_->staging().Upload(resident.parts.as(), spans.data(), spans.size() * sizeof(PartSpan));
  resident.weights = std::move(wanted);
  return resident.view;
}

CodeRows CudaCodebook::Rows() const {
  const Resident& resident = Get();
  if (resident.rows.bytes() > 0) return {resident.rows.as<float>(), codes(), dim(), dim()};
  return {resident.codes.as<float>(), codes(), resident.view.stride, dim()};
}

NearestReport CudaCodebook::Nearest(const NearestRequest& request, const CancelFlag& cancelled) const {
  const int ranks = request.margins.data != nullptr ? RanksForMargin(request.k, codes()) : request.k;
  return workspace_->Call([&] {
    const CodebookView view = View(request.weights);
    Staging& staging = workspace_->staging();
    const cudaStream_t stream = workspace_->card().stream().get();

    // As many rows at a time as the budget allows, at least those of one block of queries.
    int64_t rows = std::max<int64_t>(1, request.n);
    const size_t budget = workspace_->Budget(Layer::kLookup);
    const auto bytes_for = [&](int64_t count) {
      return Piece(nullptr, request, count, ranks, view, Plan(count, ranks)).bytes;
    };
    while (rows > kBlockQueries && bytes_for(rows) > budget) {
      rows = std::max(kBlockQueries, (rows / 2 + kBlockQueries - 1) / kBlockQueries * kBlockQueries);
    }
    const LookupPlan plan = Plan(rows, ranks);
    void* memory = workspace_->Reserve(Layer::kLookup, bytes_for(rows),
                                       "a lookup of " + std::to_string(rows) + " queries");
    const Piece piece(memory, request, rows, ranks, view, plan);

    Check(cudaMemsetAsync(&piece.notes->first_missing, 0xff, sizeof(unsigned long long), stream), "clearing");
    Check(cudaMemsetAsync(&piece.notes->scored_groups, 0, sizeof(unsigned long long), stream), "clearing");
    int32_t* const counts = piece.counts != nullptr ? piece.counts : request.counts.as<int32_t>();
    if (counts != nullptr) Check(cudaMemsetAsync(counts, 0, codes() * sizeof(int32_t), stream), "clearing");

    for (int64_t begin = 0; begin < request.n; begin += rows) {
      if (cancelled.load(std::memory_order_relaxed)) break;
      const int64_t count = std::min(rows, request.n - begin);
      // Where the elements of this piece go: into the caller's array on the card, or into ours.
      const auto place = [&](const Operand& operand, auto* own, int64_t width) {
        using T = std::remove_pointer_t<decltype(own)>;
        return own != nullptr || operand.data == nullptr ? own : operand.as<T>() + begin * width;
      };
      const auto fetch = [&](const Operand& operand, const auto* own, int64_t width) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(own)>>;
        if (own != nullptr) staging.Download(operand.as<T>() + begin * width, own, count * width * sizeof(T));
      };

      const float* x = place(request.queries, piece.x, view.dim);
      if (!request.queries.on_device) {
        void* up = piece.narrow != nullptr ? piece.narrow : piece.x;
        const int64_t row = view.dim * BytesOf(request.format);
        staging.Upload(up, request.queries.as<const char>() + begin * row, count * row);
      }
      if (request.format != QueryFormat::kFloat32) {
        const auto* narrow = request.queries.on_device
                                 ? request.queries.as<const uint16_t>() + begin * view.dim
                                 : static_cast<const uint16_t*>(piece.narrow);
        (request.format == QueryFormat::kFloat16 ? WidenHalf : WidenBFloat16)(narrow, count * view.dim,
                                                                              piece.x, stream);
      }
      int32_t* const indices = place(request.indices, piece.indices, request.k);
      float* const distances = place(request.distances, piece.distances, request.k);
      const NearestResult found{
          piece.wide_indices != nullptr ? piece.wide_indices : indices,
          piece.wide_distances != nullptr ? piece.wide_distances : distances,
          piece.wide_parts,
          count * ranks,
          &piece.notes->scored_groups,
          {place(request.codes, piece.codes, view.dim), place(request.errors, piece.errors, 1), counts}};
      LookupPlan this_plan = plan;
      this_plan.per_pass = std::min(plan.per_pass, count);
      Lookup(x, count, view, ranks, this_plan, found, piece.lookup, stream);
      FirstMissing(found.indices, count, ranks, begin, &piece.notes->first_missing, stream);
      if (request.margins.data != nullptr) {
        Margins(found.indices, found.distances, count, ranks, place(request.margins, piece.margins, 1),
                stream);
      }
      if (found.indices != indices) TakeRanks(found.indices, count, ranks, request.k, indices, stream);
      if (found.distances != distances && distances != nullptr)
        TakeRanks(found.distances, count, ranks, request.k, distances, stream);
      for (size_t p = 0; p < piece.parts.size(); p++) {
        TakeRanks(piece.wide_parts + static_cast<int64_t>(p) * count * ranks, count, ranks, request.k,
                  place(request.part_distances[p], piece.parts[p], request.k), stream);
      }
      fetch(request.indices, piece.indices, request.k);
      fetch(request.distances, piece.distances, request.k);
      fetch(request.margins, piece.margins, 1);
      fetch(request.codes, piece.codes, view.dim);
      fetch(request.errors, piece.errors, 1);
      for (size_t p = 0; p < piece.parts.size(); p++)
        fetch(request.part_distances[p], piece.parts[p], request.k);
      staging.Finish();
    }
    Notes notes;
    if (piece.counts != nullptr)
      staging.Download(request.counts.data, piece.counts, codes() * sizeof(int32_t));
    staging.Download(&notes, piece.notes, sizeof notes);
    staging.Finish();
    CountLookup(request.n, plan, notes.scored_groups);
    NearestReport report;
    if (notes.first_missing != kNone) report.first_missing = static_cast<int64_t>(notes.first_missing);
    return report;
  });
}

void CudaCodebook::Gather(const Operand& indices, int64_t n, const Operand& rows) const {
  workspace_->Call([&] {
    const CodeRows codes = Rows();
    Staging& staging = workspace_->staging();
    const cudaStream_t stream = workspace_->card().stream().get();
    struct Space {
      unsigned long long* first;
      int32_t* indices;
      float* rows;
      size_t bytes;
    };
    const auto lay_out = [&](void* memory) {
      Arena arena(memory);
      Space space{arena.Take<unsigned long long>(1), nullptr, nullptr, 0};
      if (!indices.on_device) space.indices = arena.Take<int32_t>(n);
      if (!rows.on_device) space.rows = arena.Take<float>(n * codes.dim);
      space.bytes = arena.used();
      return space;
    };
    const size_t bytes = lay_out(nullptr).bytes;
    const Space space =
        lay_out(workspace_->Reserve(Layer::kLookup, bytes, "a gather of " + std::to_string(n) + " rows"));
    if (!indices.on_device) staging.Upload(space.indices, indices.data, n * sizeof(int32_t));
    Check(cudaMemsetAsync(space.first, 0xff, sizeof *space.first, stream), "clearing");
    const int32_t* from = indices.on_device ? indices.as<const int32_t>() : space.indices;
    float* to = rows.on_device ? rows.as<float>() : space.rows;
    GatherRows(codes, from, n, 1, 0, 0, to, codes.dim, 0, space.first, stream);
    unsigned long long first = kNone;
    staging.Download(&first, space.first, sizeof first);
    if (!rows.on_device) staging.Download(rows.data, to, n * codes.dim * sizeof(float));
    staging.Finish();
    if (first == kNone) return;
    int32_t index = 0;
    staging.Download(&index, from + first, sizeof index);
    staging.Finish();
    throw InvalidArgument("Expected indices from 0 to " + std::to_string(codes.count - 1) + " but received " +
                          std::to_string(index) + " at position " + std::to_string(first));
  });
}

}  // namespace tokenflow::cuda

#include "runtime/memory_plan.h"

#include <algorithm>
#include <numeric>

namespace tokenflow {

namespace {

// Values that share one piece of memory, from the first step that writes it to the last that reads it.
struct Block {
  int first = -1, last = -1;
  int64_t bytes = 0;
  Place place;
};

class Planner {
 public:
  Planner(const Graph& graph, const std::vector<Step>& steps, const std::vector<int64_t>& bytes)
      : graph_(graph),
        steps_(steps),
        bytes_(bytes),
        block_(graph.values.size(), -1),
        last_read_(graph.values.size(), -1) {}

  MemoryPlan Run() {
    const int end = static_cast<int>(steps_.size());
    for (int i = 0; i < end; i++) {
      for (const ValueId x : steps_[i].operands.reads) last_read_[x] = i;
    }
    for (size_t i = 0; i < graph_.inputs.size(); i++) {
      Begin(graph_.inputs[i].value, -1).place = {Place::kInput, 0, static_cast<int>(i)};
    }
    std::vector<int> output_of(graph_.values.size(), -1);
    for (size_t i = 0; i < graph_.outputs.size(); i++) {
      int& port = output_of[graph_.outputs[i].value];
      if (port < 0) port = static_cast<int>(i);  // the others are copies of it
    }

    MemoryPlan plan;
    plan.moved.assign(steps_.size(), false);
    for (int i = 0; i < end; i++) {
      const Operands& operands = steps_[i].operands;
      for (const ValueId y : operands.writes) {
        const int shared = output_of[y] >= 0 ? -1 : Shared(i);
        if (shared >= 0) {
          block_[y] = shared;
          plan.moved[i] = IsReshape(i);
        } else {
          Block& block = Begin(y, i);
          if (output_of[y] >= 0) block.place = {Place::kOutput, 0, output_of[y]};
        }
        Block& block = blocks_[block_[y]];
        block.last = std::max({block.last, i, last_read_[y]});
      }
    }
    plan.arena_bytes = PlaceAll();
    for (const int block : block_) plan.places.push_back(block < 0 ? Place{} : blocks_[block].place);
    return plan;
  }

 private:
  bool IsReshape(int step) const { return std::holds_alternative<Reshape>(graph_.ops[steps_[step].op]); }

  Block& Begin(ValueId value, int step) {
    block_[value] = static_cast<int>(blocks_.size());
    Block block;
    block.first = step;
    block.last = std::max(step, last_read_[value]);
    block.bytes = (bytes_[value] + kAlignment - 1) / kAlignment * kAlignment;
    blocks_.push_back(block);
    return blocks_.back();
  }

  // The block that the result of a step may share, or -1.
  int Shared(int step) const {
    const Operands& operands = steps_[step].operands;
    if (IsReshape(step)) return block_[operands.reads[0]];
    const ValueId x = operands.in_place;
    if (x == kNoValue) return -1;
    const int block = block_[x];
    if (blocks_[block].place.kind != Place::kNowhere) return -1;  // the caller's memory
    if (blocks_[block].last > step) return -1;                    // read later, perhaps under another name
    int uses = 0;
    for (const ValueId read : operands.reads) uses += block_[read] == block;
    return uses == 1 ? block : -1;
  }

  int64_t PlaceAll() {
    std::vector<int> order;
    for (size_t i = 0; i < blocks_.size(); i++) {
      if (blocks_[i].place.kind == Place::kNowhere) order.push_back(static_cast<int>(i));
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return blocks_[a].bytes > blocks_[b].bytes; });
    std::vector<int> placed;  // by offset
    int64_t arena = 0;
    for (const int index : order) {
      Block& block = blocks_[index];
      int64_t best = -1, best_gap = 0, at = 0;
      for (const int other : placed) {
        const Block& o = blocks_[other];
        if (o.first > block.last || o.last < block.first) continue;
        const int64_t gap = o.place.offset - at;
        if (gap >= block.bytes && (best < 0 || gap < best_gap)) {
          best = at;
          best_gap = gap;
        }
        at = std::max(at, o.place.offset + o.bytes);
      }
      block.place = {Place::kArena, best < 0 ? at : best, -1};
      arena = std::max(arena, block.place.offset + block.bytes);
      placed.insert(
          std::upper_bound(placed.begin(), placed.end(), index,
                           [&](int a, int b) { return blocks_[a].place.offset < blocks_[b].place.offset; }),
          index);
    }
    return arena;
  }

  const Graph& graph_;
  const std::vector<Step>& steps_;
  const std::vector<int64_t>& bytes_;  // by value
  std::vector<Block> blocks_;
  std::vector<int> block_;      // of a value
  std::vector<int> last_read_;  // of a value, the step
};

}  // namespace

MemoryPlan PlanMemory(const Graph& graph, const std::vector<Step>& steps, const std::vector<int64_t>& bytes) {
  return Planner(graph, steps, bytes).Run();
}

MemoryPlan PlanMemory(const Graph& graph, const std::vector<Step>& steps) {
  std::vector<int64_t> bytes;
  for (const GraphValue& value : graph.values) bytes.push_back(value.Bytes());
  return PlanMemory(graph, steps, bytes);
}

}  // namespace tokenflow

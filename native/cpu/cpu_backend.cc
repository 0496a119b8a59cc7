#include <atomic>
#include <chrono>
#include <cstring>

#include "cpu/codebook_backend.h"
#include "cpu/fusion.h"
#include "cpu/op.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/memory_plan.h"

namespace tokenflow {

namespace {

class CpuProgram : public Program {
 public:
  CpuProgram(const Graph& graph, std::shared_ptr<CpuWeightStore> store, Precision precision)
      : graph_(graph), shapes_(WeightShapes(graph)), store_(std::move(store)) {
    Compiler compiler(graph_, *store_, precision);
    std::vector<Step> steps;
    for (const FusedStep& fused : Fuse(graph_)) {
      const Op& op = graph_.ops[fused.step.op];
      steps.push_back(fused.step);
      op_of_.push_back(fused.step.op);
      ops_.push_back(fused.winograd
                         ? CompileWinograd(std::get<Conv2d>(op), fused, compiler)
                         : std::visit([&](const auto& plain) { return Compile(plain, compiler); }, op));
    }
    weights_ = compiler.weights();
    plan_ = PlanMemory(graph_, steps);
    milliseconds_ = std::vector<std::atomic<double>>(graph_.ops.size());
  }

  const Graph& graph() const override { return graph_; }

  std::vector<MissingWeight> MissingWeights() const override {
    std::vector<MissingWeight> missing;
    for (const std::string& name : store_->Missing(weights_)) missing.push_back({name, shapes_.at(name)});
    return missing;
  }

  void SetWeight(const std::string& name, const float* data, int64_t count) override {
    if (shapes_.count(name) == 0) throw InvalidArgument("The graph has no weight named '" + name + "'");
    store_->Set(name, data, count);
  }

  ProgramMemory Memory() const override {
    int64_t scratch = 0;
    for (const CompiledOp& op : ops_) scratch = std::max(scratch, op.scratch_bytes());
    return {plan_.arena_bytes, scratch};
  }

  void Run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
           const CancelFlag& cancelled) override {
    for (const auto& weight : weights_) {
      if (weight->ready()) continue;
      const std::vector<MissingWeight> missing = MissingWeights();
      throw InvalidArgument("Expected every weight before a run but " + std::to_string(missing.size()) +
                            " are missing" + (missing.empty() ? "" : ", first '" + missing[0].name + "'"));
    }
    const ProgramMemory memory = Memory();
    char* arena = store_->Workspace(memory.activations + memory.scratch, "the activations");
    const auto memory_of = [&](const Place& place) -> char* {
      switch (place.kind) {
        case Place::kArena:
          return arena + place.offset;
        case Place::kInput:
          return static_cast<char*>(const_cast<void*>(inputs[place.port]));
        case Place::kOutput:
          return static_cast<char*>(outputs[place.port]);
        default:
          return nullptr;
      }
    };
    std::vector<char*> values;
    for (const Place& place : plan_.places) values.push_back(memory_of(place));

    const Frame frame{values.data(), arena + memory.activations, cancelled};
    for (size_t i = 0; i < ops_.size(); i++) {
      if (cancelled.load(std::memory_order_relaxed)) return;
      if (plan_.moved[i]) continue;
      const auto start = std::chrono::steady_clock::now();
      ops_[i].run(frame);
      const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
      std::atomic<double>& total = milliseconds_[op_of_[i]];
      total.store(total.load() + spent.count());
    }
    for (size_t i = 0; i < graph_.outputs.size(); i++) {
      const ValueId value = graph_.outputs[i].value;
      if (values[value] != outputs[i]) std::memcpy(outputs[i], values[value], graph_.values[value].Bytes());
    }
  }

  std::vector<OpTime> Profile() const override {
    std::vector<OpTime> times;
    for (size_t i = 0; i < graph_.ops.size(); i++)
      times.push_back({OpName(graph_.ops[i]), milliseconds_[i].load()});
    return times;
  }

 private:
  const Graph graph_;
  const std::map<std::string, std::vector<int64_t>> shapes_;  // of the weights
  std::shared_ptr<CpuWeightStore> store_;
  std::vector<CompiledOp> ops_;  // by step
  std::vector<size_t> op_of_;    // of the graph, by step
  std::vector<std::shared_ptr<WeightEntry>> weights_;
  MemoryPlan plan_;
  std::vector<std::atomic<double>> milliseconds_;  // by op of the graph
};

class Cpu : public Backend {
 public:
  CodebookBackend& codebooks() override { return CpuCodebooks(); }

  std::shared_ptr<WeightStore> CreateStore() override { return std::make_shared<CpuWeightStore>(); }

  std::shared_ptr<Program> Compile(const Graph& graph, std::shared_ptr<WeightStore> store,
                                   Precision precision) override {
    if (!Supports(precision)) {
      throw Error(
          "ERR_TOKENFLOW_BACKEND_UNAVAILABLE",
          "Precision bf16 needs a processor with AVX512-BF16 (and TOKENFLOW_SIMD not below avx512); use "
          "precision f32 here");
    }
    CheckGraph(graph);
    return std::make_shared<CpuProgram>(graph, std::static_pointer_cast<CpuWeightStore>(std::move(store)),
                                        precision);
  }

  bool Supports(Precision precision) const override {
    return precision == Precision::kF32 || UseAvx512Bf16();
  }
};

}  // namespace

Backend& CpuBackend() {
  static Cpu backend;
  return backend;
}

}  // namespace tokenflow

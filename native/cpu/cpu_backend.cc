#include <atomic>
#include <chrono>
#include <cstring>
#include <set>

#include "cpu/codebook_backend.h"
#include "cpu/fusion.h"
#include "cpu/op.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/memory_plan.h"
#include "runtime/parallel.h"

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
    CheckWeights();
    const ProgramMemory memory = Memory();
    char* arena = store_->Workspace(memory.activations + memory.scratch, "the activations");
    RunIn(arena, inputs, outputs, cancelled);
  }

  void CheckWeights() const {
    for (const auto& weight : weights_) {
      if (weight->ready()) continue;
      const std::vector<MissingWeight> missing = MissingWeights();
      throw InvalidArgument("Expected every weight before a run but " + std::to_string(missing.size()) +
                            " are missing" + (missing.empty() ? "" : ", first '" + missing[0].name + "'"));
    }
  }

  // `arena` holds the bytes of Memory(), scratch after activations.
  void RunIn(char* arena, const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
             const CancelFlag& cancelled) {
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

    const Frame frame{values.data(), arena + plan_.arena_bytes, cancelled};
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

// One program several times over, each lane with its share of the images, its own memory and one thread. Where a batch has
// images for every thread, nobody has to wait for anybody at the end of an op; the weights are shared.
class CpuLanes : public Program {
 public:
  CpuLanes(const Graph& one, const std::shared_ptr<CpuWeightStore>& store, Precision precision, int lanes)
      : graph_(Widened(one, lanes)), store_(store) {
    const Alone alone;  // as they will run
    for (int lane = 0; lane < lanes; lane++) {
      programs_.push_back(std::make_unique<CpuProgram>(one, store, precision));
    }
  }

  const Graph& graph() const override { return graph_; }
  std::vector<MissingWeight> MissingWeights() const override { return programs_[0]->MissingWeights(); }
  void SetWeight(const std::string& name, const float* data, int64_t count) override {
    programs_[0]->SetWeight(name, data, count);
  }

  ProgramMemory Memory() const override {
    const ProgramMemory one = MemoryOfOne();
    const int64_t lanes = static_cast<int64_t>(programs_.size());
    return {one.activations * lanes, one.scratch * lanes};
  }

  void Run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
           const CancelFlag& cancelled) override {
    programs_[0]->CheckWeights();
    const ProgramMemory one = MemoryOfOne();
    const int64_t bytes = (one.activations + one.scratch + kAlignment - 1) / kAlignment * kAlignment;
    const int lanes = static_cast<int>(programs_.size());
    char* arena = store_->Workspace(bytes * lanes, "the activations");
    OnThreads(lanes, [&](int lane) {
      const Alone alone;
      std::vector<const void*> in(inputs);
      std::vector<void*> out(outputs);
      const Graph& graph = programs_[lane]->graph();
      for (size_t i = 0; i < in.size(); i++) {
        in[i] = static_cast<const char*>(in[i]) + lane * graph.values[graph.inputs[i].value].Bytes();
      }
      for (size_t i = 0; i < out.size(); i++) {
        out[i] = static_cast<char*>(out[i]) + lane * graph.values[graph.outputs[i].value].Bytes();
      }
      programs_[lane]->RunIn(arena + lane * bytes, in, out, cancelled);
    });
  }

  std::vector<OpTime> Profile() const override {
    std::vector<OpTime> times = programs_[0]->Profile();
    for (size_t lane = 1; lane < programs_.size(); lane++) {
      const std::vector<OpTime> others = programs_[lane]->Profile();
      for (size_t i = 0; i < times.size(); i++) times[i].milliseconds += others[i].milliseconds;
    }
    return times;
  }

 private:
  // The ports of all lanes together: their first extent is the images.
  static Graph Widened(Graph graph, int lanes) {
    std::set<ValueId> ports;
    for (const Port& port : graph.inputs) ports.insert(port.value);
    for (const Port& port : graph.outputs) ports.insert(port.value);
    for (const ValueId port : ports) graph.values[port].shape[0] *= lanes;
    return graph;
  }

  ProgramMemory MemoryOfOne() const {
    const Alone alone;
    return programs_[0]->Memory();
  }

  const Graph graph_;
  const std::shared_ptr<CpuWeightStore> store_;
  std::vector<std::unique_ptr<CpuProgram>> programs_;
};

class Cpu : public Backend {
 public:
  CodebookBackend& codebooks() override { return CpuCodebooks(); }

  std::shared_ptr<WeightStore> CreateStore() override { return std::make_shared<CpuWeightStore>(); }

  std::shared_ptr<Program> Compile(const Graph& graph, std::shared_ptr<WeightStore> store,
                                   Precision precision) override {
    return std::make_shared<CpuProgram>(graph, Checked(graph, store, precision), precision);
  }

  std::shared_ptr<Program> CompileLanes(const Graph& graph, const std::shared_ptr<WeightStore>& store,
                                        Precision precision, int lanes) {
    return std::make_shared<CpuLanes>(graph, Checked(graph, store, precision), precision, lanes);
  }

  bool Supports(Precision precision) const override {
    return precision == Precision::kF32 || UseAvx512Bf16();
  }

 private:
  std::shared_ptr<CpuWeightStore> Checked(const Graph& graph, const std::shared_ptr<WeightStore>& store,
                                          Precision precision) const {
    if (!Supports(precision)) {
      throw Error(
          "ERR_TOKENFLOW_BACKEND_UNAVAILABLE",
          "Precision bf16 needs a processor with AVX512-BF16 (and TOKENFLOW_SIMD not below avx512); use "
          "precision f32 here");
    }
    CheckGraph(graph);
    return std::static_pointer_cast<CpuWeightStore>(store);
  }
};

Cpu& TheCpu() {
  static Cpu backend;
  return backend;
}

}  // namespace

Backend& CpuBackend() {
  return TheCpu();
}

std::shared_ptr<Program> CompileCpuLanes(const Graph& graph, std::shared_ptr<WeightStore> store,
                                         Precision precision, int lanes) {
  return TheCpu().CompileLanes(graph, store, precision, lanes);
}

}  // namespace tokenflow

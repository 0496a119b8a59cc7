// How a program runs. Its memory on the card is two pieces, laid out when the weights are complete:
//
//   arena: [values, planned (runtime/memory_plan.h)] [scratch of one op at a time]     one for all runs
//   slot:  [inputs] [outputs] [faults]                                                 one for each run under way, two at most
//
// A slot has a mirror in pinned host memory. A run fills the inputs' mirror and puts its work into three streams of the card,
// which wait for each other by events: one copy up, the kernels, one copy down. Start returns then, and what it returns waits
// for the copy down, so while one batch is computed the next one's inputs go up and the results of the one before come down.
//
// The first run starts the kernels one by one; it also loads their code. From the second on, all of them are captured in a CUDA
// graph, which spares the host's part of some hundreds of launches. A graph has noted addresses, so there is one for each slot,
// captured anew when memory had to move. Where capturing is refused, or TOKENFLOW_CUDA_GRAPHS=off, the kernels go on being
// started one by one, and are timed (Profile).
#include "program.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <utility>

#include "op.h"
#include "runtime/memory_plan.h"

namespace tokenflow::cuda {

namespace {

constexpr int64_t kLine = 256;  // bytes; of every part

// Events around the ops of one run.
class Stopwatch {
 public:
  explicit Stopwatch(size_t count) : events_(count) {
    for (cudaEvent_t& event : events_) Check(cudaEventCreate(&event), "creating an event");
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
  void Mark(size_t i, const Stream& stream) const {
    Check(cudaEventRecord(events_[i], stream.get()), "taking the time");
  }
  float MillisecondsFrom(size_t i) const {
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]), "reading the time");
    return milliseconds;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

bool GraphsWanted() {
  const char* wanted = std::getenv("TOKENFLOW_CUDA_GRAPHS");
  if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, "on") == 0) return true;
  if (std::strcmp(wanted, "off") == 0) return false;
  throw InvalidArgument(std::string("Expected on or off for TOKENFLOW_CUDA_GRAPHS but received '") + wanted +
                        "'");
}

class CudaProgram : public Program {
 public:
  CudaProgram(const Graph& graph, std::shared_ptr<CudaWeightStore> store, Precision precision)
      : graph_(graph),
        shapes_(WeightShapes(graph)),
        store_(std::move(store)),
        graphs_wanted_(GraphsWanted()) {
    const FusedGraph fused = FuseNorms(graph_, precision, WantedNormFusion());
    Compiler compiler(fused, *store_, precision);
    std::vector<Step> steps;
    std::vector<int64_t> bytes;
    for (size_t id = 0; id < fused.graph.values.size(); id++) {
      bytes.push_back(fused.graph.values[id].Elements() * BytesOf(fused.elements[id]));
    }
    for (size_t i = 0; i < graph_.ops.size(); i++) {
      Operands operands = fused.OperandsOf(i);
      // An element may be written over the one it is made of only where both have its size.
      const ValueId x = operands.in_place;
      if (x != kNoValue && fused.elements[x] != fused.elements[operands.writes[0]]) {
        operands.in_place = kNoValue;
      }
      steps.push_back({i, std::move(operands)});
      ops_.push_back(std::visit([&](const auto& op) { return Compile(op, compiler); }, graph_.ops[i]));
    }
    weights_ = compiler.weights();
    faults_ = compiler.faults();
    plan_ = PlanMemory(fused.graph, steps, bytes);
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
    store_->card().Use([&] {
      try {
        store_->Set(name, data, count);
      } catch (const DeviceError& error) {
        if (error.status != cudaErrorMemoryAllocation) throw;
        const Card::Space space = store_->card().Memory();
        throw Error(error.code,
                    "The weight '" + name + "' of " + std::to_string(count) +
                        " elements does not fit on the device: " + std::to_string(space.free >> 20) + " of " +
                        std::to_string(space.total >> 20) + " MiB are free, " +
                        std::to_string(store_->Bytes() >> 20) +
                        " MiB of weights are there already. Free memory, or use the CPU");
      }
    });
  }

  ProgramMemory Memory() const override {
    if (!Ready()) return {plan_.arena_bytes, 0};
    const Layout layout(*this);
    return {plan_.arena_bytes, static_cast<int64_t>(layout.arena + layout.slot) - plan_.arena_bytes};
  }

  void Run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
           const CancelFlag& cancelled) override {
    if (const auto rest = Start(inputs, outputs, cancelled)) rest();
  }

  std::function<void()> Start(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                              const CancelFlag& cancelled) override {
    if (!Ready()) {
      const std::vector<MissingWeight> missing = MissingWeights();
      throw InvalidArgument("Expected every weight before a run but " + std::to_string(missing.size()) +
                            " are missing" + (missing.empty() ? "" : ", first '" + missing[0].name + "'"));
    }
    return store_->card().Use([&] { return StartHere(inputs, outputs, cancelled); });
  }

  std::vector<OpTime> Profile() const override {
    std::vector<OpTime> times;
    for (size_t i = 0; i < graph_.ops.size(); i++) {
      times.push_back({OpName(graph_.ops[i]), milliseconds_[i].load()});
    }
    return times;
  }

 private:
  // Where the parts lie.
  struct Layout {
    explicit Layout(const CudaProgram& program) {
      Take(&arena, program.plan_.arena_bytes);
      int64_t most = 0;
      for (const CompiledOp& op : program.ops_) most = std::max(most, op.scratch_bytes());
      scratch = Take(&arena, most);
      for (const Port& port : program.graph_.inputs) {
        inputs.push_back(Take(&slot, program.graph_.values[port.value].Bytes()));
      }
      first_output = slot;
      for (const Port& port : program.graph_.outputs) {
        outputs.push_back(Take(&slot, program.graph_.values[port.value].Bytes()));
      }
      faults = Take(&slot, static_cast<int64_t>(program.faults_.size() * sizeof(int32_t)));
    }
    static size_t Take(size_t* bytes, int64_t count) {
      const size_t offset = *bytes;
      *bytes += static_cast<size_t>(RoundUp(count, kLine));
      return offset;
    }
    size_t arena = 0, slot = 0;   // bytes
    size_t scratch;               // in the arena
    size_t first_output, faults;  // in the slot
    std::vector<size_t> inputs, outputs;
  };

  bool Ready() const {
    for (const auto& weight : weights_) {
      if (!weight->ready()) return false;
    }
    return true;
  }

  std::function<void()> StartHere(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                                  const CancelFlag& cancelled) {
    const Card& card = store_->card();
    const Layout layout(*this);
    const auto memory = store_->Reserve(layout.arena, layout.slot, graph_.values[0].shape[0]);
    RunSlot& slot = store_->slot(memory.slot);
    for (size_t i = 0; i < inputs.size(); i++) {
      std::memcpy(slot.pinned.as() + layout.inputs[i], inputs[i],
                  graph_.values[graph_.inputs[i].value].Bytes());
    }
    if (cancelled.load(std::memory_order_relaxed)) return {};

    std::shared_ptr<const Stopwatch> stopwatch;
    try {
      if (layout.first_output > 0) {
        Check(cudaMemcpyAsync(slot.device.as(), slot.pinned.as(), layout.first_output, cudaMemcpyHostToDevice,
                              card.uploads().get()),
              "uploading inputs");
      }
      card.uploads().Record(slot.uploaded);
      card.stream().WaitFor(slot.uploaded);
      stopwatch = Compute(layout, memory, slot);
      card.stream().Record(slot.computed);
      card.downloads().WaitFor(slot.computed);
      Check(
          cudaMemcpyAsync(slot.pinned.as() + layout.first_output, slot.device.as() + layout.first_output,
                          layout.slot - layout.first_output, cudaMemcpyDeviceToHost, card.downloads().get()),
          "downloading outputs");
      card.downloads().Record(slot.downloaded);
    } catch (...) {
      // What was started reads and writes the memory.
      for (const Stream* stream : {&card.uploads(), &card.stream(), &card.downloads()}) {
        cudaStreamSynchronize(stream->get());
      }
      throw;
    }

    // Whoever comes first, the rest of this run or a run that needs its memory, lands it.
    const auto failure = std::make_shared<std::exception_ptr>();
    const auto landed = std::make_shared<bool>(false);
    slot.land = [=, slot = &slot] {
      *landed = true;
      try {
        store_->card().Use([&] { Land(layout, *slot, outputs, stopwatch.get()); });
      } catch (...) {
        *failure = std::current_exception();
      }
    };
    return [=, slot = &slot] {
      if (!*landed) slot->Land();
      if (*failure != nullptr) std::rethrow_exception(*failure);
    };
  }

  // The kernels of one run; what times them, where they are started one by one.
  std::shared_ptr<const Stopwatch> Compute(const Layout& layout, const CudaWeightStore::Workspace& memory,
                                           const RunSlot& slot) {
    const Stream& stream = store_->card().stream();
    Captured& captured = captured_[memory.slot];
    const std::pair<int, int> now(memory.generation, slot.generation);
    if (captured.graph != nullptr && captured.generations != now) captured.graph.reset();
    if (graphs_wanted_ && warm_ && captured.graph == nullptr) {
      try {
        captured.graph =
            std::make_unique<LaunchGraph>(stream, [&] { Enqueue(layout, memory, slot, nullptr); });
        captured.generations = now;
      } catch (const DeviceError& error) {
        if (!IsRecoverable(error.status)) throw;
        graphs_wanted_ = false;
      }
    }
    warm_ = true;
    if (captured.graph != nullptr) {
      captured.graph->Launch(stream);
      return nullptr;
    }
    auto stopwatch = std::make_shared<const Stopwatch>(ops_.size() + 1);
    Enqueue(layout, memory, slot, stopwatch.get());
    return stopwatch;
  }

  // Waits for a run and takes its results.
  void Land(const Layout& layout, const RunSlot& slot, const std::vector<void*>& outputs,
            const Stopwatch* stopwatch) {
    slot.downloaded.Wait();
    for (size_t i = 0; i < ops_.size() && stopwatch != nullptr; i++) {
      milliseconds_[i].store(milliseconds_[i].load() + stopwatch->MillisecondsFrom(i));
    }
    const unsigned char* mirror = slot.pinned.as();
    const auto* faults = reinterpret_cast<const int32_t*>(mirror + layout.faults);
    for (size_t i = 0; i < faults_.size(); i++) {
      if (faults[i] != 0) throw InvalidArgument(faults_[i]);
    }
    for (size_t i = 0; i < outputs.size(); i++) {
      std::memcpy(outputs[i], mirror + layout.outputs[i], graph_.values[graph_.outputs[i].value].Bytes());
    }
  }

  // Puts the kernels of one run into the stream.
  void Enqueue(const Layout& layout, const CudaWeightStore::Workspace& memory, const RunSlot& slot,
               const Stopwatch* stopwatch) {
    const Stream& stream = store_->card().stream();
    unsigned char* const ports = slot.device.as();
    std::vector<unsigned char*> values;
    for (const Place& place : plan_.places) {
      values.push_back(place.kind == Place::kArena    ? memory.arena + place.offset
                       : place.kind == Place::kInput  ? ports + layout.inputs[place.port]
                       : place.kind == Place::kOutput ? ports + layout.outputs[place.port]
                                                      : nullptr);
    }
    const Frame frame{values.data(), memory.arena + layout.scratch,
                      reinterpret_cast<int32_t*>(ports + layout.faults), stream.get()};
    Check(cudaMemsetAsync(ports + layout.faults, 0, layout.slot - layout.faults, stream.get()),
          "clearing the faults");
    for (size_t i = 0; i < ops_.size(); i++) {
      if (stopwatch != nullptr) stopwatch->Mark(i, stream);
      if (!plan_.moved[i]) ops_[i].run(frame);
    }
    if (stopwatch != nullptr) stopwatch->Mark(ops_.size(), stream);
    for (size_t i = 0; i < graph_.outputs.size(); i++) {
      const ValueId value = graph_.outputs[i].value;
      unsigned char* const output = ports + layout.outputs[i];
      if (values[value] == output) continue;  // an input, or the value of another output
      Check(cudaMemcpyAsync(output, values[value], graph_.values[value].Bytes(), cudaMemcpyDeviceToDevice,
                            stream.get()),
            "copying an output");
    }
  }

  const Graph graph_;
  const std::map<std::string, std::vector<int64_t>> shapes_;  // of the weights
  const std::shared_ptr<CudaWeightStore> store_;
  std::vector<CompiledOp> ops_;
  std::vector<std::shared_ptr<WeightEntry>> weights_;
  std::vector<std::string> faults_;  // what each means
  MemoryPlan plan_;
  bool graphs_wanted_;
  bool warm_ = false;  // it ran before
  struct Captured {
    std::unique_ptr<LaunchGraph> graph;
    std::pair<int, int> generations;  // of the memory whose addresses it has
  };
  Captured captured_[CudaWeightStore::kSlots];
  std::vector<std::atomic<double>> milliseconds_;  // by op
};

}  // namespace

std::shared_ptr<Program> CompileProgram(const Graph& graph, std::shared_ptr<CudaWeightStore> store,
                                        Precision precision) {
  return std::make_shared<CudaProgram>(graph, std::move(store), precision);
}

}  // namespace tokenflow::cuda

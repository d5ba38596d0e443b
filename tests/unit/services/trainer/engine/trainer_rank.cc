// One rank of the tests: trainer_rank RUN_FOLDER RANK SIZE LAST_STEP FAULT VIEWS DTYPE. Opens the
// run, trains each step up to LAST_STEP, prints its numbers and saves it. FAULT: "none", or how
// and where which rank is struck, once in the life of the run, in step 2: "kill:forward:1",
// "stop:backward:0", .., "kill:save:0" (its files are written, nobody knows of them, and rank 0 has
// not written the state), "kill:write:1" (while its files are written), "kill:gather:1" and
// "kill:reduce:1" (while the next layer's weights, or a layer's gradients, are under way),
// "throw:forward:1", after which the batch is given again. VIEWS: "none", "dense" (the learner's
// view), "d1", "d2" or "d3" (distillation); with all but "none" each step is rollouts of every
// method. DTYPE: "float32" or "bfloat16", or "float32-sharded", ..: ranks hold slices of the
// layers; "float32-waits-sharded": and compute nothing meanwhile; with "-tied" the head is the
// embedding, with "-beside" checkpoints are written while the next step is taken.
#include <ATen/core/Tensor.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "common/collective/join.h"
#include "services/trainer/engine/engine.h"
#include "tests/unit/services/trainer/engine/batches.h"
#include "tests/unit/services/trainer/engine/watched_ranks.h"

namespace palimpsest::trainer {
namespace {

// What strikes this process; a file remembers that it has.
struct Fault {
  std::string mark;
  int signal = 0;  // 0: an exception
  void Strike() const {
    std::ofstream(mark) << "struck";
    if (signal == 0) throw std::runtime_error("out of luck");
    std::raise(signal);
  }
};

// The system's clock, which strikes when it is read for the n-th time after Arm(n). The engine
// reads it when a forward pass begins (1) and twice between forward and backward (2, 3).
class StrikingClock final : public Clock {
 public:
  explicit StrikingClock(const Fault& fault) : fault_(fault) {}
  void Arm(int reads) { left_ = reads; }
  // Strikes when another thread than this one reads it, which is the one that writes.
  void ArmForOthers() { others_ = true; }
  absl::Time Now() override {
    if (left_ > 0 && --left_ == 0) fault_.Strike();
    if (others_ && std::this_thread::get_id() != own_) fault_.Strike();
    return SystemClock().Now();
  }
  void SleepFor(absl::Duration d) override { SystemClock().SleepFor(d); }

 private:
  const Fault& fault_;
  std::atomic<int> left_ = 0;
  std::atomic<bool> others_ = false;
  const std::thread::id own_ = std::this_thread::get_id();
};

// Rollouts are of the weights that the run began with, so that no batch depends on how ranks round.
// 1: six demonstrations with events; 2: seven rollouts with events; 3: one with events and one with
// none; 4: a single one, so that all ranks but one have nothing to do. It was learnt in step 2 and
// 3 and is likelier than the clip of a good one: it is a bad one now, which no bound holds back.
Batch BatchOf(int64_t step, const model::Decoder& initial) {
  if (step == 1) return SftBatch(1, Budget());
  Batch batch = RlBatch(initial, step, Budget(), step == 2 ? 7 : 1);
  if (step == 4) batch.rl[0].advantage = -1;
  if (step != 3) return batch;
  batch.rl.push_back(
      {.rollout = Replayed(initial, {}, RandomTokens(77, 7), "plain"), .advantage = -0.5});
  return batch;
}

void PrintReplayed(const std::vector<rl::Replayed>& replayed) {
  for (const rl::Replayed& r : replayed) {
    double sum = 0;  // each place counts otherwise
    for (size_t i = 0; i < r.logprobs.size(); ++i)
      sum += static_cast<double>(i + 1) * r.logprobs[i];
    std::printf("replayed %s: %d tokens %.9g\n", r.id.c_str(), static_cast<int>(r.logprobs.size()),
                sum);
  }
  std::fflush(stdout);
}

void Print(const StepResult& r) {
  std::printf("step %d loss %.9g norm %.9g entropy %.9g tokens %d", static_cast<int>(r.step),
              r.loss, r.grad_norm, r.entropy, static_cast<int>(r.loss_tokens));
  if (r.ratio) std::printf(" ratio %.9g max %.9g", r.ratio->mean, r.ratio->max);
  if (r.views) {
    std::printf(" distilled %.9g kl %.9g %.9g p5 %.9g", r.distilled, r.views->dense_shadow,
                r.views->shadow_dense, r.views->bins.at(0).acceptance_p5);
  }
  for (const MismatchBucket& m : r.mismatch) {
    std::printf(" saw %d: %d tokens %.9g", m.events, static_cast<int>(m.tokens), m.mean_abs);
  }
  std::puts("");
  std::fflush(stdout);
}

struct Arguments {
  std::string run;
  int rank = 0, size = 1;
  int64_t last_step = 0;
  std::string fault, views, dtype;
};

// "<bytes held> <bytes of them>" of all but the last norm between passes.
void NoteHeld(const Arguments& args, const model::Decoder& decoder) {
  size_t held = 0, all = 0;
  std::set<const void*> seen;  // some parameters stand in one storage
  for (const auto& [name, tensor] : decoder.Parameters()) {
    if (name == "model.norm.weight") continue;
    all += tensor.nbytes();
    if (seen.insert(tensor.storage().unsafeGetStorageImpl()).second) {
      held += tensor.storage().nbytes();
    }
  }
  std::ofstream(absl::StrFormat("%s/held-%d.txt", args.run, args.rank)) << held << " " << all;
}

rl::ViewOptions ViewsOf(const std::string& views) {
  using rl::Distillation;
  if (views == "dense") return {.learner = rl::View::kDense};
  if (views == "none") return {};
  const Distillation kinds[] = {Distillation::kD1, Distillation::kD2, Distillation::kD3};
  return {.distillation = {kinds[views[1] - '1'], 0.5, 0}};
}

absl::Status Train(const Arguments& args, Collective& joined) {
  WatchedRanks ranks(joined, absl::StrContains(args.dtype, "waits"));
  Fault fault = {.mark = args.run + "/struck"};
  if (args.fault.starts_with("kill")) fault.signal = SIGKILL;
  if (args.fault.starts_with("stop")) fault.signal = SIGSTOP;
  const auto strikes = [&](const char* where) {
    return args.fault.ends_with(absl::StrFormat(":%s:%d", where, args.rank)) &&
           !std::filesystem::exists(fault.mark);
  };
  StrikingClock clock(fault);
  EngineOptions options = TinyOptions(args.run, "run");
  options.keep_checkpoints = 9;
  options.model.init.tied = absl::StrContains(args.dtype, "tied");
  options.shadow = ViewsOf(args.views);
  if (args.dtype.starts_with("bfloat16")) options.dtype = model::DType::kBFloat16;
  if (args.dtype.ends_with("sharded")) {
    options.weights = WeightsHeld::kSharded;
    options.activations = model::Activations::kRecomputed;
  }
  ASSIGN_OR_RETURN(const SourceModel initial,
                   MakeModel(options.model, options.run.seed, options.dtype));
  ASSIGN_OR_RETURN(const auto engine, TrainerEngine::Open(options, clock, ranks));
  const absl::Status published = engine->Publish().status();
  if (args.rank == 0) RETURN_IF_ERROR(published);
  for (int64_t step = engine->step() + 1; step <= args.last_step; ++step) {
    if (step == 2 && strikes("forward")) clock.Arm(1);
    if (step == 2 && strikes("backward")) clock.Arm(3);
    if (step == 2 && strikes("gather")) {
      ranks.gathers = [&, begun = 0]() mutable {
        if (++begun == 2) fault.Strike();  // the first one is waited for at once
      };
    }
    if (step == 2 && strikes("reduce")) {
      ranks.reduces = [&] { fault.Strike(); };
    }
    if (step == 2 && strikes("save")) {
      ranks.tells = [&, told = 0]() mutable {
        // What is on the disk, where to write; then that the files are there.
        if (engine->phase() == Phase::kCheckpoint && ++told == 3) fault.Strike();
      };
    }
    const Batch batch =
        args.views == "none" ? BatchOf(step, *initial.decoder) : MixedBatch(*initial.decoder, step);
    absl::StatusOr<TrainOutcome> outcome = engine->Train(batch);
    if (absl::IsInternal(outcome.status())) {
      std::puts(outcome.status().ToString().c_str());
      outcome = engine->Train(batch);
    }
    RETURN_IF_ERROR(outcome.status());
    Print(outcome->result);
    PrintReplayed(outcome->replayed);
    if (step == 2 && strikes("write")) clock.ArmForOthers();
    const bool beside = absl::StrContains(args.dtype, "beside") && step < args.last_step;
    RETURN_IF_ERROR(beside ? engine->BeginSave() : engine->Save());
  }
  NoteHeld(args, engine->decoder());
  ranks.WriteBegun(absl::StrFormat("%s/begun-%d.txt", args.run, args.rank));
  return absl::OkStatus();
}

absl::Status Run(const Arguments& args) {
  std::unique_ptr<Collective> joined;
  if (args.size > 1) {
    ASSIGN_OR_RETURN(joined, Join({.folder = args.run + "/ranks",
                                   .rank = args.rank,
                                   .size = args.size,
                                   .meeting = absl::Minutes(2),
                                   .timeout = absl::Seconds(5),
                                   .roll_call = absl::Seconds(1)},
                                  SystemClock()));
  }
  Collective& ranks = joined ? *joined : Alone();
  const absl::Status status = Train(args, ranks);
  if (!status.ok()) ranks.Fail(status);
  return status;
}

}  // namespace
}  // namespace palimpsest::trainer

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  std::signal(SIGPIPE, SIG_IGN);
  const absl::Status status =
      palimpsest::trainer::Run({argv[1], std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]),
                                argv[5], argv[6], argv[7]});
  std::puts(status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

#include "services/trainer/engine/accumulate.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "common/collective/exchange.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/prompt_pass_torch.h"

namespace palimpsest::trainer {
namespace {

attention::ReplayOptions OptionsFor(const EngineOptions& options, const model::Decoder& decoder) {
  return {.gradient = options.gradient,
          .scale = 1 / std::sqrt(static_cast<double>(decoder.config().head_dim))};
}

class Accumulation {
 public:
  Accumulation(const Learning& learning, Clock& clock, Accumulated& sums)
      : learning_(learning),
        replay_(OptionsFor(learning.options, learning.decoder)),
        clock_(clock),
        sums_(sums) {}

  absl::Status Run(std::span<const MicroBatch> rest) {
    while (!rest.empty()) {
      const bool cut = learning_.cut_prompts_once && rest.front().cut != nullptr;
      const size_t count = cut ? PiecesInFront(rest) : 1;
      RETURN_IF_ERROR(cut ? LearnCut(rest.first(count)) : LearnFrom(rest.front(), {}));
      rest = rest.subspan(count);
    }
    return absl::OkStatus();
  }

 private:
  // Of the group that a micro-batch is a piece of, or null.
  struct Prompts {
    const PromptPass* learner = nullptr;
    const PromptPass* reference = nullptr;
  };

  absl::Status LearnCut(std::span<const MicroBatch> pieces) {
    const LossSequence& cut = *pieces.front().cut;
    std::unique_ptr<PromptPass> reference;
    if (learning_.reference != nullptr) {
      const c10::NoGradGuard no_grad;
      const absl::Time start = clock_.Now();
      ASSIGN_OR_RETURN(reference, PromptPass::Run(*learning_.reference, OfReference(), cut));
      sums_.reference_seconds += absl::ToDoubleSeconds(clock_.Now() - start);
    }
    const auto responses = [&](const PromptPass& prompt) -> absl::Status {
      for (const MicroBatch& piece : pieces)
        RETURN_IF_ERROR(LearnFrom(piece, {&prompt, reference.get()}));
      return absl::OkStatus();
    };
    return LearnBehindPrompt(learning_.decoder, replay_, cut, clock_, sums_.pass, responses);
  }

  absl::Status LearnFrom(const MicroBatch& micro_batch, const Prompts& prompts) {
    std::vector<double> reference;  // log-probabilities of the loss tokens
    if (learning_.reference != nullptr) {
      const absl::Time start = clock_.Now();
      ASSIGN_OR_RETURN(reference,
                       ReplayLogProbs(*learning_.reference, OfReference(), micro_batch.sequences,
                                      learning_.views.learner, prompts.reference));
      sums_.reference_seconds += absl::ToDoubleSeconds(clock_.Now() - start);
    }
    const LossFunction loss = [&](const PassTokens& pass) {
      if (!learning_.rollouts) return Likelihood(pass);
      sums_.mismatch.Add(pass);
      sums_.replayed.Add(pass);
      return PolicyLoss(learning_.options.loss, pass, reference, sums_.objective);
    };
    ASSIGN_OR_RETURN(const PassResult pass,
                     RunPass(learning_.decoder, replay_, micro_batch.sequences, loss, clock_,
                             learning_.views, prompts.learner));
    sums_.pass.Add(pass.sums);
    sums_.gaps.insert(sums_.gaps.end(), pass.gaps.begin(), pass.gaps.end());
    return absl::OkStatus();
  }

  attention::ReplayOptions OfReference() const {
    return OptionsFor(learning_.options, *learning_.reference);
  }

  const Learning& learning_;
  const attention::ReplayOptions replay_;
  Clock& clock_;
  Accumulated& sums_;
};

}  // namespace

absl::Status Accumulate(const Learning& learning, std::span<const MicroBatch> micro_batches,
                        Clock& clock, Accumulated& sums) {
  return Accumulation(learning, clock, sums).Run(micro_batches);
}

absl::Status AddUp(Collective& ranks, Accumulated& sums) {
  if (ranks.size() == 1) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto passes, OneOfAll(ranks, sums.pass));
  ASSIGN_OR_RETURN(const auto objectives, OneOfAll(ranks, sums.objective));
  ASSIGN_OR_RETURN(const auto references, OneOfAll(ranks, sums.reference_seconds));
  ASSIGN_OR_RETURN(const auto gaps, OfAll<rl::ViewGap>(ranks, sums.gaps));
  const std::vector<MismatchBucket> mismatch = sums.mismatch.Sums();
  ASSIGN_OR_RETURN(const auto mismatches, OfAll<MismatchBucket>(ranks, mismatch));
  ASSIGN_OR_RETURN(const auto replayed, OfAll<ReplayedToken>(ranks, sums.replayed.tokens()));
  sums = {};
  for (size_t rank = 0; rank < passes.size(); ++rank) {
    sums.pass.Add(passes[rank]);
    sums.gaps.insert(sums.gaps.end(), gaps[rank].begin(), gaps[rank].end());
    sums.reference_seconds = std::max(sums.reference_seconds, references[rank]);
    sums.objective.Add(objectives[rank]);
    sums.mismatch.Add(mismatches[rank]);
    sums.replayed.Add(replayed[rank]);
  }
  // The others wait for the slowest.
  for (double PassSums::*seconds :
       {&PassSums::forward_seconds, &PassSums::backward_seconds, &PassSums::other_view_seconds}) {
    sums.pass.*seconds = 0;
    for (const PassSums& pass : passes) {
      sums.pass.*seconds = std::max(sums.pass.*seconds, pass.*seconds);
    }
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer

#include "services/trainer/engine/replay_pass.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <numeric>

#include "absl/time/time.h"
#include "common/model/divergence_torch.h"
#include "common/model/head_turn_torch.h"
#include "services/trainer/engine/forward_torch.h"

namespace palimpsest::trainer {
namespace {

// What a loss is a function of, with its derivatives.
struct Pulled {
  std::vector<at::Tensor> values, gradients;
  void Add(const at::Tensor& value, std::span<const double> gradient) {
    values.push_back(value);
    gradients.push_back(Like(value, gradient));
  }
};

// The head sees the rows from now on.
void Enter(model::HeadTurn& head, Forward& forward) {
  for (PredictingRows& part : forward.rows) part.hidden = head.Enter(part.hidden);
}

// Rows that no gradient reaches any more, and nothing of their pass behind them.
std::vector<PredictingRows> Constant(std::vector<PredictingRows> rows) {
  for (PredictingRows& part : rows) part.hidden = part.hidden.detach();
  return rows;
}

// [T] each.
model::RowDivergence Compare(const model::Decoder& decoder, std::span<const PredictingRows> rows,
                             std::span<const PredictingRows> others) {
  std::vector<at::Tensor> to_other, from_other, acceptance;
  for (size_t i = 0; i < rows.size(); ++i) {
    model::RowDivergence part =
        model::CompareRows(decoder, rows[i].hidden, others[i].hidden, rows[i].temperature);
    to_other.push_back(std::move(part.to_other));
    from_other.push_back(std::move(part.from_other));
    acceptance.push_back(std::move(part.acceptance));
  }
  return {at::cat(to_other), at::cat(from_other), at::cat(acceptance)};
}

// `view` is what the compared rows are of.
std::vector<rl::ViewGap> GapsOf(const std::vector<TokenOutcome>& tokens,
                                const model::RowDivergence& divergence, rl::View view) {
  const std::vector<double> to = Wide(divergence.to_other), from = Wide(divergence.from_other),
                            acceptance = Wide(divergence.acceptance);
  const bool dense = view == rl::View::kDense;
  std::vector<rl::ViewGap> gaps;
  for (size_t t = 0; t < tokens.size(); ++t) {
    gaps.push_back({.place = tokens[t].token->position - tokens[t].sequence->replay.prompt_tokens,
                    .acceptance = acceptance[t],
                    .dense_shadow = dense ? to[t] : from[t],
                    .shadow_dense = dense ? from[t] : to[t]});
  }
  return gaps;
}

// What the distillation adds to the loss of the tokens that it moves.
double Distil(const PassViews& views, const std::vector<TokenOutcome>& tokens,
              const model::RowDivergence& divergence, Pulled& pulled) {
  const at::Tensor& kl =
      views.distillation == rl::Distillation::kD1 ? divergence.to_other : divergence.from_other;
  std::vector<double> gradient;
  for (const TokenOutcome& t : tokens) gradient.push_back(views.coefficient * t.token->weight);
  pulled.Add(kl, gradient);
  const std::vector<double> values = Wide(kl);
  return std::inner_product(values.begin(), values.end(), gradient.begin(), 0.0);
}

// One micro-batch, stage by stage. Where the other view is only looked at, its rows come first and
// are constants; where it is the one that moves, it comes last, when the graph of the learner's
// view is gone: so no two graphs are ever held.
class Pass {
 public:
  Pass(const model::Decoder& decoder, const attention::ReplayOptions& options,
       std::span<const LossSequence* const> sequences, const PassViews& views, Clock& clock,
       const PromptPass* prompt)
      : decoder_(decoder),
        options_(options),
        sequences_(sequences),
        views_(views),
        clock_(clock),
        prompt_(prompt),
        compares_(views.compare || views.distillation != rl::Distillation::kNone),
        moves_other_(rl::Moves(views.distillation, rl::Other(views.learner))) {}

  absl::StatusOr<PassResult> Run(const LossFunction& loss) {
    std::vector<PredictingRows> rows;
    if (compares_ && !moves_other_) {
      ASSIGN_OR_RETURN(rows, LookAtOther());
    }
    RETURN_IF_ERROR(Learn(loss, rows));
    if (moves_other_) RETURN_IF_ERROR(MoveOther(rows));
    return std::move(result_);
  }

 private:
  absl::StatusOr<std::vector<PredictingRows>> LookAtOther() {
    const absl::Time start = clock_.Now();
    const c10::NoGradGuard no_grad;
    ASSIGN_OR_RETURN(Forward forward, RunForward(decoder_, options_, sequences_,
                                                 rl::Other(views_.learner), prompt_));
    result_.sums.rows += forward.batch->rows();
    result_.sums.other_view_seconds += absl::ToDoubleSeconds(clock_.Now() - start);
    return std::move(forward.rows);
  }

  // `rows`: in, those of the other view, if any; out, those of the learner's, constant.
  absl::Status Learn(const LossFunction& loss, std::vector<PredictingRows>& rows) {
    const absl::Time start = clock_.Now();
    ASSIGN_OR_RETURN(Forward forward,
                     RunForward(decoder_, options_, sequences_, views_.learner, prompt_));
    model::HeadTurn head(decoder_);
    Enter(head, forward);
    const auto [logprobs, entropies] = Score(decoder_, forward.rows);
    const std::vector<double> n = Wide(logprobs), h = Wide(entropies);
    const LossValue value = loss({forward.tokens, n, h, forward.sequences});
    Pulled pulled;
    pulled.Add(logprobs, value.of_logprobs);
    if (!value.of_entropies.empty()) pulled.Add(entropies, value.of_entropies);
    if (!rows.empty()) See(views_.learner, forward, rows, pulled);
    result_.sums.loss += value.loss;
    result_.sums.entropy_sum = std::accumulate(h.begin(), h.end(), 0.0);
    result_.sums.rows += forward.batch->rows();
    result_.sums.forward_seconds = absl::ToDoubleSeconds(clock_.Now() - start);

    const absl::Time turn = clock_.Now();
    head.Backward(pulled.values, pulled.gradients);
    result_.sums.backward_seconds = absl::ToDoubleSeconds(clock_.Now() - turn);
    rows = Constant(forward.rows);
    return absl::OkStatus();
  }

  absl::Status MoveOther(std::span<const PredictingRows> rows) {
    const absl::Time start = clock_.Now();
    const rl::View other = rl::Other(views_.learner);
    ASSIGN_OR_RETURN(Forward forward, RunForward(decoder_, options_, sequences_, other, prompt_));
    model::HeadTurn head(decoder_);
    Enter(head, forward);
    Pulled pulled;
    See(other, forward, rows, pulled);
    head.Backward(pulled.values, pulled.gradients);
    result_.sums.rows += forward.batch->rows();
    result_.sums.other_view_seconds += absl::ToDoubleSeconds(clock_.Now() - start);
    return absl::OkStatus();
  }

  // Compares the rows of `view` with those of the other one, which are constants.
  void See(rl::View view, const Forward& forward, std::span<const PredictingRows> rows,
           Pulled& pulled) {
    const model::RowDivergence divergence = Compare(decoder_, forward.rows, rows);
    result_.gaps = GapsOf(forward.tokens, divergence, view);
    if (!rl::Moves(views_.distillation, view)) return;
    result_.sums.distilled = Distil(views_, forward.tokens, divergence, pulled);
    result_.sums.loss += result_.sums.distilled;
  }

  const model::Decoder& decoder_;
  const attention::ReplayOptions& options_;
  const std::span<const LossSequence* const> sequences_;
  const PassViews& views_;
  Clock& clock_;
  const PromptPass* const prompt_;  // or null
  const bool compares_, moves_other_;
  PassResult result_;
};

}  // namespace

std::vector<bool> BackwardOfPasses(const PassViews& views) {
  const bool moves_other = rl::Moves(views.distillation, rl::Other(views.learner));
  if (moves_other) return {true, true};
  if (views.compare || views.distillation != rl::Distillation::kNone) return {false, true};
  return {true};
}

void PassSums::Add(const PassSums& other) {
  loss += other.loss;
  distilled += other.distilled;
  entropy_sum += other.entropy_sum;
  rows += other.rows;
  forward_seconds += other.forward_seconds;
  backward_seconds += other.backward_seconds;
  other_view_seconds += other.other_view_seconds;
}

absl::StatusOr<PassResult> RunPass(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences,
                                   const LossFunction& loss, Clock& clock, const PassViews& views,
                                   const PromptPass* prompt) {
  return Pass(decoder, options, sequences, views, clock, prompt).Run(loss);
}

absl::StatusOr<std::vector<double>> ReplayLogProbs(const model::Decoder& decoder,
                                                   const attention::ReplayOptions& options,
                                                   std::span<const LossSequence* const> sequences,
                                                   rl::View view, const PromptPass* prompt) {
  const c10::NoGradGuard no_grad;
  ASSIGN_OR_RETURN(const Forward forward, RunForward(decoder, options, sequences, view, prompt));
  return Wide(Score(decoder, forward.rows).first);
}

}  // namespace palimpsest::trainer

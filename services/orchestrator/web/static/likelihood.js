// How likely the sampled tokens were: when they were sampled, and when the trainer replayed them. No page in here.

// Bounds in nats between the shades of a page that is coloured by surprise, or by mismatch.
export const SURPRISES = [0.05, 0.5, 1.5, 3];
export const MISMATCHES = [1e-6, 1e-5, 1e-3, 1e-1];
const shadeOf = (size, bounds) => bounds.filter((bound) => size > bound).length;

// 0 to 4 by how unlikely a sampled token was; null for others.
export const surpriseOf = (logprob) => logprob === null ? null : shadeOf(-logprob, SURPRISES);

// Replayed minus sampled log-probability; null where nothing was sampled, or nothing replayed is kept.
export function mismatchOf({replayed, logprobs}, p) {
  return replayed === null || replayed[p] === null ? null : replayed[p] - logprobs[p];
}

// 0 to 4 by its size; 0 also where there is none.
export const gapOf = (mismatch) => shadeOf(Math.abs(mismatch ?? 0), MISMATCHES);

// The largest of a rollout, or null.
export function worstMismatch(rollout) {
  if (rollout.replayed === null) return null;
  return rollout.ids.reduce((worst, _, p) => Math.max(worst, Math.abs(mismatchOf(rollout, p) ?? 0)), 0);
}

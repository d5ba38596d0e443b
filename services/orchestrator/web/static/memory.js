// What attention still saw of each token, computed from a rollout's events. No page in here.

// After the first `n` events: of each position the share of KV heads that hold it, the event that
// first had it in its window (-1: none) and how many had.
export function memoryAfter(rollout, n) {
  const size = rollout.ids.length, all = rollout.layers * rollout.kv_heads;
  const share = new Float32Array(size).fill(1);
  const first = new Int32Array(size).fill(-1);
  const depth = new Int32Array(size);
  rollout.events_list.slice(0, n).forEach((event, e) => {
    event.kept_heads.forEach((heads, i) => {
      const p = event.window[0] + i;
      share[p] = heads / all;
      if (depth[p]++ === 0) first[p] = e;
    });
  });
  return {share, first, depth};
}

// 0: no head holds it; 1 to 3: some do; 4: all do.
export const inkOf = (share) => share <= 0 ? 0 : share >= 1 ? 4 : share <= 1 / 3 ? 1 : share <= 2 / 3 ? 2 : 3;

// The events that had position p in their window.
export const eventsOf = (rollout, p) => rollout.events_list.flatMap((event, e) =>
  event.window[0] <= p && p < event.window[1] ? [e] : []);

export function spanOf(rollout, p) {
  return rollout.spans.find((span) => span.begin <= p && p < span.end) ?? null;
}

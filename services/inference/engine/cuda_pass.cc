#include "services/inference/engine/cuda_pass.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/attention/cuda/chunks.h"
#include "common/attention/cuda/decode.h"
#include "common/attention/cuda/segments.h"
#include "common/model/cuda/row_copies.h"
#include "common/model/cuda/row_operations.h"
#include "services/inference/core/page_pool.h"

namespace palimpsest::inference {
namespace {

// Slots are rounded up to powers of two from here on: what one part of Decode holds.
constexpr int kLeastSlots = attention::kDecodeSlotsPerPart;

int PowerOfTwo(int x) { return static_cast<int>(std::bit_ceil(static_cast<unsigned>(x))); }

int32_t Longest(const StepRows& s) { return *std::max_element(s.lengths.begin(), s.lengths.end()); }

}  // namespace

template <class Stored>
DevicePool<Stored>::DevicePool(const model::ModelConfig& c, int64_t pages)
    : slots(pages * kPageSlots),
      row(int64_t{c.kv_heads} * c.head_dim),
      layers(c.layers),
      kv_heads(c.kv_heads),
      d(c.head_dim),
      k(sizeof(Stored) * layers * slots * row),
      v(sizeof(Stored) * layers * slots * row),
      bias(sizeof(float) * layers * slots * kv_heads) {}

template <class Stored>
attention::PagedCache<Stored> DevicePool<Stored>::Layer(int layer) const {
  return {.k = K(layer), .v = V(layer), .bias = Bias(layer), .kv_heads = kv_heads, .d = d};
}

// Prompt chunks of a pass, in device memory. C chunks, Q rows of the longest.
template <class Stored>
struct DevicePass<Stored>::Chunks {
  std::vector<int> sequences;  // indices
  int begin = 0, rows = 0;     // of the pass's rows
  int longest = 0, most_slots = 0, table_pages = 0;
  const int32_t* tables = nullptr;         // [C, table_pages]
  const int32_t* lengths = nullptr;        // [L, C, Hk] slots before
  const int32_t* counts = nullptr;         // [C, Hk] rows of each
  const int64_t* query_rows = nullptr;     // [C, Q] of the chunks' rows
  const int64_t* causal_offset = nullptr;  // [C] zeros
};

// What the kernels of a pass read, in device memory. R rows, of which the first S decode.
template <class Stored>
struct DevicePass<Stored>::Inputs {
  std::vector<int> decoding;  // indices of sequences
  Chunks chunks;
  bool captured = false;  // decode rows alone: padded to R = S
  int rows = 0, singles = 0, max_slots = 0, table_pages = 0;
  const int32_t* ids = nullptr;          // [R]
  const int32_t* positions = nullptr;    // [R]
  const int64_t* slots = nullptr;        // [L, R, Hk] where keys and values go
  Stored* const* ring_to = nullptr;      // [R] where queries are recorded
  const int64_t* ring_stride = nullptr;  // [R]
  const int32_t* seen = nullptr;         // [L, S, Hk]
  const int32_t* tables = nullptr;       // [S, table_pages]
};

template <class Stored>
DevicePass<Stored>::DevicePass(const model::ModelConfig& config, const DevicePool<Stored>& pool,
                               cuda::Stream stream, DeviceShelf& shelf)
    : config_(config),
      pool_(pool),
      stream_(stream),
      shelf_(shelf),
      products_(stream),
      inputs_(shelf),
      picks_(shelf) {}

// Who decodes, who is a chunk, and how large all is.
template <class Stored>
typename DevicePass<Stored>::Inputs DevicePass<Stored>::Plan(std::span<const StepRows> sequences) {
  Inputs in;
  Chunks& chunks = in.chunks;
  int seen = 0;
  for (int i = 0; i < std::ssize(sequences); ++i) {
    const StepRows& s = sequences[i];
    const int count = static_cast<int>(s.tokens.size());
    if (count == 1) {
      in.decoding.push_back(i);
      seen = std::max(seen, Longest(s) + 1);
      continue;
    }
    chunks.sequences.push_back(i);
    chunks.rows += count;
    chunks.longest = std::max(chunks.longest, count);
    chunks.most_slots = std::max(chunks.most_slots, Longest(s));
    chunks.table_pages = std::max(chunks.table_pages, static_cast<int>(s.table.size()));
  }
  in.captured = chunks.sequences.empty();
  in.singles = static_cast<int>(in.decoding.size());
  if (in.captured) in.singles = PowerOfTwo(in.singles);
  in.max_slots = PowerOfTwo(std::max(kLeastSlots, seen));
  in.table_pages = in.max_slots / kPageSlots;
  in.rows = in.singles + chunks.rows;
  chunks.begin = in.singles;
  return in;
}

template <class Stored>
size_t DevicePass<Stored>::UploadBytes(const Inputs& in) const {
  const size_t heads = static_cast<size_t>(config_.layers) * config_.kv_heads, rows = in.rows,
               singles = in.singles, chunks = in.chunks.sequences.size();
  return rows * (2 * sizeof(int32_t) + sizeof(void*) + sizeof(int64_t)) +
         heads * (rows * sizeof(int64_t) + (singles + chunks) * sizeof(int32_t)) +
         sizeof(int32_t) * (singles * in.table_pages + chunks * in.chunks.table_pages +
                            chunks * config_.kv_heads) +
         sizeof(int64_t) * chunks * (in.chunks.longest + 1) + 16 * DeviceUpload::kAlign;
}

// Rows [first, first + count) of a sequence become rows from `row` on of the pass.
template <class Stored>
void DevicePass<Stored>::FillRows(const StepRows& s, int row, int first, int count,
                                  std::span<int32_t> ids, std::span<int32_t> positions,
                                  std::span<int64_t> slots, std::span<Stored*> ring_to,
                                  std::span<int64_t> ring_stride, int rows) const {
  const auto* ring = static_cast<const DeviceRing<Stored>*>(s.ring);
  const int kv_heads = config_.kv_heads;
  for (int i = first; i < first + count; ++i, ++row) {
    ids[row] = s.tokens[i];
    positions[row] = s.position + i;
    const bool recorded = ring != nullptr && i >= s.skipped;
    ring_to[row] = recorded ? ring->At(s.position + i) : nullptr;
    ring_stride[row] = recorded ? ring->stride() : 0;
    for (int l = 0; l < config_.layers; ++l) {
      for (int h = 0; h < kv_heads; ++h) {
        slots[(int64_t{l} * rows + row) * kv_heads + h] =
            SlotAt(s.table, s.lengths[l * kv_heads + h] + i);
      }
    }
  }
}

template <class Stored>
void DevicePass<Stored>::Fill(std::span<const StepRows> sequences, Inputs& in) {
  const int layers = config_.layers, kv_heads = config_.kv_heads, rows = in.rows;
  std::span<int32_t> ids, positions, seen, tables;
  std::span<int64_t> slots, ring_stride;
  std::span<Stored*> ring_to;
  in.ids = inputs_.Put(rows, ids);
  in.positions = inputs_.Put(rows, positions);
  in.slots = inputs_.Put(size_t(layers) * rows * kv_heads, slots);
  in.ring_to = inputs_.Put(rows, ring_to);
  in.ring_stride = inputs_.Put(rows, ring_stride);
  in.seen = inputs_.Put(size_t(layers) * in.singles * kv_heads, seen);
  in.tables = inputs_.Put(size_t(in.singles) * in.table_pages, tables);
  // Rows that pad: token 0 at position 0, which sees nothing and goes nowhere.
  std::fill(ids.begin(), ids.end(), 0);
  std::fill(positions.begin(), positions.end(), 0);
  std::fill(slots.begin(), slots.end(), -1);
  std::fill(ring_to.begin(), ring_to.end(), nullptr);
  std::fill(seen.begin(), seen.end(), 0);
  const auto fill = [&](const StepRows& s, int row) {
    FillRows(s, row, 0, static_cast<int>(s.tokens.size()), ids, positions, slots, ring_to,
             ring_stride, rows);
  };
  for (int row = 0; row < std::ssize(in.decoding); ++row) {
    const StepRows& s = sequences[in.decoding[row]];
    fill(s, row);
    std::copy_n(s.table.begin(), std::min<size_t>(s.table.size(), in.table_pages),
                tables.begin() + int64_t{row} * in.table_pages);
    for (int l = 0; l < layers; ++l) {
      for (int h = 0; h < kv_heads; ++h)
        seen[(int64_t{l} * in.singles + row) * kv_heads + h] = s.lengths[l * kv_heads + h] + 1;
    }
  }
  int row = in.chunks.begin;
  for (const int i : in.chunks.sequences) {
    fill(sequences[i], row);
    row += static_cast<int>(sequences[i].tokens.size());
  }
  if (!in.chunks.sequences.empty()) FillChunks(sequences, in.chunks);
}

template <class Stored>
void DevicePass<Stored>::FillChunks(std::span<const StepRows> sequences, Chunks& chunks) {
  const size_t count = chunks.sequences.size(), kv_heads = config_.kv_heads;
  std::span<int32_t> tables, lengths, counts;
  std::span<int64_t> query_rows, causal_offset;
  chunks.tables = inputs_.Put(count * chunks.table_pages, tables);
  chunks.lengths = inputs_.Put(config_.layers * count * kv_heads, lengths);
  chunks.counts = inputs_.Put(count * kv_heads, counts);
  chunks.query_rows = inputs_.Put(count * chunks.longest, query_rows);
  chunks.causal_offset = inputs_.Put(count, causal_offset);
  std::fill(query_rows.begin(), query_rows.end(), -1);
  std::fill(causal_offset.begin(), causal_offset.end(), 0);
  int64_t row = 0;
  for (size_t c = 0; c < count; ++c) {
    const StepRows& s = sequences[chunks.sequences[c]];
    std::copy(s.table.begin(), s.table.end(), tables.begin() + c * chunks.table_pages);
    for (size_t i = 0; i < s.tokens.size(); ++i) query_rows[c * chunks.longest + i] = row++;
    for (size_t h = 0; h < kv_heads; ++h) {
      counts[c * kv_heads + h] = static_cast<int32_t>(s.tokens.size());
      for (int l = 0; l < config_.layers; ++l)
        lengths[(l * count + c) * kv_heads + h] = s.lengths[l * kv_heads + h];
    }
  }
}

// Room for all that a pass computes.
template <class Stored>
void DevicePass<Stored>::Reserve(const Inputs& in) {
  const model::ModelConfig& c = config_;
  const size_t d = c.head_dim, heads = c.heads * d, chunks = in.chunks.sequences.size(),
               kv_heads = c.kv_heads;
  const auto rows = [&](cuda::DeviceMemory& memory, size_t width) {
    Grow(memory, sizeof(Stored) * in.rows * width, shelf_);
  };
  rows(x_, c.hidden), rows(normed_, c.hidden), rows(add_, c.hidden);
  rows(qkv_, heads + 2 * kv_heads * d), rows(q_, heads), rows(mixed_, heads);
  rows(inner_, 2 * size_t(c.intermediate)), rows(gated_, c.intermediate);
  Grow(parts_,
       sizeof(float) * attention::DecodeScratch(in.singles, c.heads, c.head_dim, in.max_slots),
       shelf_);
  // These are in no graph.
  Grow(sums_, sizeof(float) * in.chunks.rows * heads, shelf_);
  Grow(lse_, sizeof(float) * in.chunks.rows * c.heads, shelf_);
  Grow(earlier_, sizeof(int64_t) * chunks * kv_heads * in.chunks.most_slots, shelf_);
  Grow(own_, sizeof(int64_t) * chunks * kv_heads * in.chunks.longest, shelf_);
}

template <class Stored>
void DevicePass<Stored>::Run(const DeviceWeights<Stored>& weights,
                             std::span<const StepRows> sequences) {
  for (const StepRows& s : sequences) {
    if (s.ring != nullptr) static_cast<DeviceRing<Stored>*>(s.ring)->HaveMemory();
  }
  Inputs in = Plan(sequences);
  inputs_.Begin(UploadBytes(in), stream_);
  Reserve(in);
  Fill(sequences, in);
  inputs_.Send(stream_);
  if (in.captured) {
    // All that Launch reads and writes, but for the pool, which never moves. Each is large enough
    // for this shape by now, so a graph of it is right wherever all of them stand as they did.
    std::vector<const void*> places = {weights.memory.template as<void>(), inputs_.place()};
    for (const auto* memory :
         {&x_, &normed_, &add_, &qkv_, &q_, &mixed_, &inner_, &gated_, &parts_})
      places.push_back(memory->template as<void>());
    graphs_.Run({in.singles, in.max_slots}, places, stream_, [&] { Launch(weights, in); });
  } else {
    Launch(weights, in);
  }
  std::vector<int32_t> place(sequences.size());
  for (size_t i = 0; i < in.decoding.size(); ++i) place[in.decoding[i]] = static_cast<int32_t>(i);
  int32_t next = in.chunks.begin;
  for (const int i : in.chunks.sequences) {
    place[i] = next;
    next += static_cast<int32_t>(sequences[i].tokens.size());
  }
  row_of_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    for (size_t j = 0; j < sequences[i].tokens.size(); ++j)
      row_of_.push_back(place[i] + static_cast<int32_t>(j));
  }
}

template <class Stored>
void DevicePass<Stored>::Multiply(const Stored* x, const Stored* w, const Stored* bias, int rows,
                                  int k, int n, Stored* y) {
  products_.Multiply(x, w, rows, k, n, y);
  if (bias != nullptr) cuda::Require(model::AddBias(bias, rows, n, y, stream_));
}

template <class Stored>
void DevicePass<Stored>::Launch(const DeviceWeights<Stored>& weights, const Inputs& in) {
  const model::ModelConfig& c = config_;
  const int rows = in.rows, width = c.heads * c.head_dim;
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const auto at = [](const cuda::DeviceMemory& memory) { return memory.as<Stored>(); };
  const auto norm = [&](const Stored* add, const Stored* weight) {
    cuda::Require(model::AddAndNorm<Stored>({.x = at(x_),
                                             .add = add,
                                             .weight = weight,
                                             .out = at(normed_),
                                             .rows = rows,
                                             .n = c.hidden,
                                             .eps = eps},
                                            stream_));
  };
  cuda::Require(model::TakeRows(weights.embedding, in.ids, rows, c.hidden, at(x_), stream_));
  for (int l = 0; l < c.layers; ++l) {
    const DeviceLayer<Stored>& layer = weights.layers[l];
    norm(l == 0 ? nullptr : at(add_), layer.input_norm);
    Multiply(at(normed_), layer.qkv, layer.qkv_bias, rows, c.hidden,
             width + 2 * c.kv_heads * c.head_dim, at(qkv_));
    cuda::Require(model::RotateAndCache<Stored>({.qkv = at(qkv_),
                                                 .q_norm = layer.q_norm,
                                                 .k_norm = layer.k_norm,
                                                 .positions = in.positions,
                                                 .frequencies = weights.frequencies,
                                                 .slots = in.slots + int64_t{l} * rows * c.kv_heads,
                                                 .q = at(q_),
                                                 .k_pool = pool_.K(l),
                                                 .v_pool = pool_.V(l),
                                                 .bias_pool = pool_.Bias(l),
                                                 .rows = rows,
                                                 .heads = c.heads,
                                                 .kv_heads = c.kv_heads,
                                                 .d = c.head_dim,
                                                 .eps = eps},
                                                stream_));
    cuda::Require(model::ScatterRows<Stored>({.from = at(q_),
                                              .to = in.ring_to,
                                              .stride = in.ring_stride,
                                              .rows = rows,
                                              .n = width,
                                              .layer = l},
                                             stream_));
    Attend(l, in);
    Multiply(at(mixed_), layer.output, layer.output_bias, rows, width, c.hidden, at(add_));
    norm(at(add_), layer.mlp_norm);
    Multiply(at(normed_), layer.gate_up, layer.gate_up_bias, rows, c.hidden, 2 * c.intermediate,
             at(inner_));
    cuda::Require(model::Gate<Stored>(at(inner_), rows, c.intermediate, at(gated_), stream_));
    Multiply(at(gated_), layer.down, layer.down_bias, rows, c.intermediate, c.hidden, at(add_));
  }
  norm(at(add_), weights.final_norm);
}

template <class Stored>
void DevicePass<Stored>::Attend(int layer, const Inputs& in) {
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim)));
  if (in.singles > 0) {
    cuda::Require(attention::Decode<Stored>(
        {.cache = pool_.Layer(layer),
         .q = q_.as<Stored>(),
         .o = mixed_.as<Stored>(),
         .tables = in.tables,
         .slots = in.seen + int64_t{layer} * in.singles * config_.kv_heads,
         .scratch = parts_.as<float>(),
         .rows = in.singles,
         .heads = config_.heads,
         .table_pages = in.table_pages,
         .max_slots = in.max_slots,
         .scale = scale},
        stream_));
  }
  if (!in.chunks.sequences.empty()) AttendChunks(layer, in);
}

// A chunk's rows see, as one segment, the slots before them and, as another, causally each other;
// both stand in the pool.
template <class Stored>
void DevicePass<Stored>::AttendChunks(int layer, const Inputs& in) {
  const Chunks& chunks = in.chunks;
  const int count = static_cast<int>(chunks.sequences.size()), kv_heads = config_.kv_heads;
  const int64_t width = int64_t{config_.heads} * config_.head_dim, first = chunks.begin * width;
  const attention::PagedCache<Stored> cache = pool_.Layer(layer);
  const attention::KernelOperands<Stored, float> operands{
      .q = q_.as<Stored>() + first,
      .k_compact = cache.k,
      .v_compact = cache.v,
      .bias = cache.bias,
      .heads = config_.heads,
      .kv_heads = kv_heads,
      .d = config_.head_dim,
      .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim)))};
  const int32_t* lengths = chunks.lengths + int64_t{layer} * count * kv_heads;
  const auto merge = [&](const int32_t* from, const int32_t* counts, int keys,
                         const int64_t* causal, int64_t* list) {
    if (keys == 0) return;
    cuda::Require(attention::ListSlots({.tables = chunks.tables,
                                        .first = from,
                                        .count = counts,
                                        .out = list,
                                        .chunks = count,
                                        .kv_heads = kv_heads,
                                        .keys = keys,
                                        .table_pages = chunks.table_pages},
                                       stream_));
    cuda::Require(attention::ForwardGroup<Stored>(operands,
                                                  {.segments = count,
                                                   .kv_heads = kv_heads,
                                                   .queries = chunks.longest,
                                                   .keys = keys,
                                                   .query_rows = chunks.query_rows,
                                                   .key_slots = list,
                                                   .causal_offset = causal},
                                                  sums_.as<float>(), lse_.as<float>(), stream_));
  };
  cuda::Require(attention::BeginRows(sums_.as<float>(), lse_.as<float>(), chunks.rows,
                                     config_.heads, config_.head_dim, stream_));
  merge(nullptr, lengths, chunks.most_slots, nullptr, earlier_.as<int64_t>());
  merge(lengths, chunks.counts, chunks.longest, chunks.causal_offset, own_.as<int64_t>());
  cuda::Require(attention::RoundRows(sums_.as<float>(), chunks.rows * width,
                                     mixed_.as<Stored>() + first, stream_));
}

template <class Stored>
std::span<const float> DevicePass<Stored>::Logits(const DeviceWeights<Stored>& weights,
                                                  std::span<const int32_t> rows) {
  if (rows.empty()) {
    cuda::Wait(stream_);
    return {};
  }
  const int count = static_cast<int>(rows.size());
  picks_.Begin(rows.size_bytes() + DeviceUpload::kAlign, stream_);
  std::span<int32_t> index;
  const int32_t* there = picks_.Put(rows.size(), index);
  std::transform(rows.begin(), rows.end(), index.begin(), [&](int32_t r) { return row_of_[r]; });
  picks_.Send(stream_);
  Grow(taken_, sizeof(Stored) * count * config_.hidden, shelf_);
  const size_t floats = rows.size() * config_.vocab;
  Grow(logits_, sizeof(float) * floats, shelf_);
  Grow(logits_here_, sizeof(float) * floats, shelf_);
  cuda::Require(model::TakeRows(normed_.as<Stored>(), there, count, config_.hidden,
                                taken_.as<Stored>(), stream_));
  products_.Multiply(taken_.as<Stored>(), weights.head, count, config_.hidden, config_.vocab,
                     logits_.as<float>());
  cuda::CopyFromDevice(logits_here_.as<float>(), logits_.as<float>(), sizeof(float) * floats,
                       stream_);
  cuda::Wait(stream_);
  return {logits_here_.as<float>(), floats};
}

template struct DevicePool<float>;
template struct DevicePool<BFloat16>;
template class DevicePass<float>;
template class DevicePass<BFloat16>;

}  // namespace palimpsest::inference

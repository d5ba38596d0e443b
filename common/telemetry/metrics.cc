#include "common/telemetry/metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace palimpsest {
namespace {

constexpr std::string_view kPrefix = "palimpsest_";
constexpr size_t kMaxLabels = 3;

[[noreturn]] void Bug(std::string_view name, const char* what) {
  std::fprintf(stderr, "metric %s: %s\n", std::string(name).c_str(), what);
  std::abort();
}

bool IsSnakeCase(std::string_view word) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !word.empty() && word[0] >= 'a' && word[0] <= 'z' &&
         std::all_of(word.begin(), word.end(), good);
}

void CheckSpec(const MetricSpec& spec, std::string_view type) {
  if (!IsSnakeCase(spec.name)) Bug(spec.name, "the name is not lower snake case");
  if (spec.name.starts_with(kPrefix)) Bug(spec.name, "the prefix is added by Metrics");
  if ((type == "counter") != spec.name.ends_with("_total")) {
    Bug(spec.name, "counters, and only they, end in _total");
  }
  if (spec.help.empty()) Bug(spec.name, "the help text is missing");
  if (spec.labels.size() > kMaxLabels) Bug(spec.name, "too many labels");
  for (const std::string& label : spec.labels) {
    if (!IsSnakeCase(label) || label == "le") Bug(spec.name, "a label is not lower snake case");
  }
}

template <class Handle>
struct Series;
template <>
struct Series<Counter> {
  using Type = prometheus::Counter;
  static constexpr std::string_view kName = "counter";
  static auto Build() { return prometheus::BuildCounter(); }
};
template <>
struct Series<Gauge> {
  using Type = prometheus::Gauge;
  static constexpr std::string_view kName = "gauge";
  static auto Build() { return prometheus::BuildGauge(); }
};
template <>
struct Series<Histogram> {
  using Type = prometheus::Histogram;
  static constexpr std::string_view kName = "histogram";
  static auto Build() { return prometheus::BuildHistogram(); }
};

// Bytes, from the second number of statm, which counts pages.
double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double size = 0;
  double resident = 0;
  statm >> size >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

template <class Handle>
struct MetricFamily<Handle>::State {
  using SeriesType = typename Series<Handle>::Type;

  MetricSpec spec;
  std::vector<double> buckets;  // of histograms
  prometheus::Family<SeriesType>* family = nullptr;
  absl::Mutex mu;
  std::map<std::vector<std::string>, SeriesType*> by_values ABSL_GUARDED_BY(mu);
};

template <class Handle>
Handle MetricFamily<Handle>::With(const std::vector<std::string>& label_values) const {
  const MetricSpec& spec = state_->spec;
  if (label_values.size() != spec.labels.size()) Bug(spec.name, "wrong number of label values");
  absl::MutexLock lock(&state_->mu);
  auto& by_values = state_->by_values;
  std::vector<std::string> values = label_values;
  if (!by_values.contains(values) && by_values.size() + 1 >= kMaxSeries) {
    values.assign(values.size(), "other");
  }
  auto [found, added] = by_values.try_emplace(values, nullptr);
  if (added) {
    std::map<std::string, std::string> labels;
    for (size_t i = 0; i < values.size(); ++i) labels[spec.labels[i]] = values[i];
    if constexpr (std::is_same_v<Handle, Histogram>) {
      found->second = &state_->family->Add(labels, state_->buckets);
    } else {
      found->second = &state_->family->Add(labels);
    }
  }
  return Handle(found->second);
}

template <class Handle>
const MetricFamily<Handle>& MetricFamily<Handle>::Begin(
    const std::vector<std::string>& values) const {
  for (const std::string& value : values) With({value});
  return *this;
}

template class MetricFamily<Counter>;
template class MetricFamily<Gauge>;
template class MetricFamily<Histogram>;

void Counter::Add(double amount) {
  if (amount > 0) series_->Increment(amount);
}
double Counter::Value() const { return series_->Value(); }
void Gauge::Set(double value) { series_->Set(value); }
void Gauge::Add(double amount) { series_->Increment(amount); }
double Gauge::Value() const { return series_->Value(); }
void Histogram::Observe(double value) { series_->Observe(value); }

std::vector<double> LatencyBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,  1,
          2.5,   5,      10,    30,   60,    120,  300, 600,  1800, 3600};
}

struct Metrics::Impl {
  template <class Handle>
  using States = std::map<std::string, std::unique_ptr<typename MetricFamily<Handle>::State>>;

  prometheus::Registry registry;
  mutable absl::Mutex mu;
  std::vector<CatalogueEntry> catalogue ABSL_GUARDED_BY(mu);
  std::tuple<States<Counter>, States<Gauge>, States<Histogram>> states ABSL_GUARDED_BY(mu);

  absl::Mutex scrape_mu;
  std::optional<Gauge> resident_bytes ABSL_GUARDED_BY(scrape_mu);
  std::optional<Counter> cpu_seconds ABSL_GUARDED_BY(scrape_mu);

  template <class Handle>
  MetricFamily<Handle> Declare(const MetricSpec& spec, std::vector<double> buckets) {
    CheckSpec(spec, Series<Handle>::kName);
    absl::MutexLock lock(&mu);
    States<Handle>& of_type = std::get<States<Handle>>(states);
    if (const auto found = of_type.find(spec.name); found != of_type.end()) {
      if (found->second->spec != spec || found->second->buckets != buckets) {
        Bug(spec.name, "declared twice with different words");
      }
      return MetricFamily<Handle>(found->second.get());
    }
    const std::string full_name = std::string(kPrefix) + spec.name;
    for (const CatalogueEntry& entry : catalogue) {
      if (entry.name == full_name) Bug(spec.name, "declared twice with different types");
    }
    catalogue.push_back({full_name, std::string(Series<Handle>::kName), spec.help, spec.labels});
    auto state = std::make_unique<typename MetricFamily<Handle>::State>();
    state->spec = spec;
    state->buckets = std::move(buckets);
    state->family = &Series<Handle>::Build().Name(full_name).Help(spec.help).Register(registry);
    return MetricFamily<Handle>((of_type[spec.name] = std::move(state)).get());
  }
};

Metrics::Metrics(std::string_view role, std::string_view version, Clock& clock)
    : impl_(std::make_unique<Impl>()) {
  AddGauge({"build_info", "Always 1; tells what runs.", {"role", "version"}})
      .With({std::string(role), std::string(version)})
      .Set(1);
  AddGauge({"process_start_time_seconds", "When the daemon started, Unix time."})
      .With({})
      .Set(absl::ToDoubleSeconds(clock.Now() - absl::UnixEpoch()));
  absl::MutexLock lock(&impl_->scrape_mu);
  impl_->resident_bytes =
      AddGauge({"process_resident_memory_bytes", "Memory in RAM, shared pages included."}).With({});
  impl_->cpu_seconds =
      AddCounter({"process_cpu_seconds_total", "CPU time of all threads, user and system."})
          .With({});
}

Metrics::~Metrics() = default;

MetricFamily<Counter> Metrics::AddCounter(const MetricSpec& spec) {
  return impl_->Declare<Counter>(spec, {});
}

MetricFamily<Gauge> Metrics::AddGauge(const MetricSpec& spec) {
  return impl_->Declare<Gauge>(spec, {});
}

MetricFamily<Histogram> Metrics::AddHistogram(const MetricSpec& spec, std::vector<double> buckets) {
  if (buckets.empty() || std::adjacent_find(buckets.begin(), buckets.end(),
                                            std::greater_equal<double>()) != buckets.end()) {
    Bug(spec.name, "buckets must ascend and be at least one");
  }
  return impl_->Declare<Histogram>(spec, std::move(buckets));
}

std::vector<CatalogueEntry> Metrics::Catalogue() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->catalogue;
}

std::string Metrics::Text() {
  {
    absl::MutexLock lock(&impl_->scrape_mu);
    impl_->resident_bytes->Set(ResidentBytes());
    impl_->cpu_seconds->Add(CpuSeconds() - impl_->cpu_seconds->Value());
  }
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace palimpsest

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "tools/eval/report.h"

namespace palimpsest::tools::eval {
namespace {

// Pixels. A policy has a slot of kSlot, in it two bars.
constexpr double kLeft = 60, kTop = 60, kHeight = 300, kSlot = 130, kBar = 40, kBelow = 80;
constexpr char kPassColour[] = "#4878a8", kRewardColour[] = "#c46a3a";

double Y(double share) { return kTop + kHeight * (1 - std::clamp(share, 0.0, 1.0)); }

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

std::string Words(double x, double y, const char* anchor, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                         Escape(text));
}

std::string Bar(double x, const std::optional<Estimate>& estimate, const char* colour) {
  if (!estimate) return Words(x + kBar / 2, Y(0) - 6, "middle", "-");
  const double middle = x + kBar / 2, top = Y(estimate->value), high = Y(estimate->high);
  return absl::StrFormat(
             "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n"
             "<path d=\"M%.1f %.1fV%.1fm-5 0h10M%.1f %.1fh10\" stroke=\"#222\" fill=\"none\"/>\n",
             x, top, kBar, Y(0) - top, colour, middle, Y(estimate->low), high, middle - 5,
             Y(estimate->low)) +
         Words(middle, std::min(top, high) - 6, "middle", absl::StrFormat("%.3f", estimate->value));
}

std::string Grid(double width) {
  std::string svg;
  for (int tenth = 0; tenth <= 10; tenth += 2) {
    const double y = Y(tenth / 10.0);
    svg +=
        absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                        kLeft, y, kLeft + width, y);
    svg += Words(kLeft - 8, y + 4, "end", absl::StrFormat("%.1f", tenth / 10.0));
  }
  return svg;
}

std::string Legend(double x, const char* colour, const std::string& text) {
  const double y = kTop + kHeight + 62;
  return absl::StrFormat("<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"8\" fill=\"%s\"/>\n", x,
                         y - 8, colour) +
         Words(x + 20, y, "start", text);
}

}  // namespace

std::string ReportPicture(const Summary& summary) {
  const double plot = std::max(3.0, static_cast<double>(summary.policies.size())) * kSlot;
  const double width = kLeft + plot + 20, height = kTop + kHeight + kBelow;
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 "
      "%.0f %.0f\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"%.0f\" height=\"%.0f\" fill=\"white\"/>\n",
      width, height, width, height, width, height);
  int64_t prompts = 0;
  for (const TaskShare& task : summary.plan.tasks) prompts += task.prompts;
  svg += Words(kLeft, 28, "start",
               absl::StrFormat("%d prompts, answers to each: %d, temperature %g; lines: 95 %% "
                               "intervals",
                               prompts, summary.plan.samples, summary.plan.temperature));
  svg += Grid(plot);
  double x = kLeft + kSlot / 2;
  for (const PolicySummary& policy : summary.policies) {
    svg += Bar(x - kBar - 1, policy.all.pass_1, kPassColour);
    svg += Bar(x + 1, policy.all.avg, kRewardColour);
    svg += Words(x, Y(0) + 20, "middle", policy.name);
    if (policy.missing > 0) {
      svg += Words(x, Y(0) + 36, "middle", absl::StrFormat("%d missing", policy.missing));
    }
    x += kSlot;
  }
  svg += Legend(kLeft, kPassColour, "pass@1");
  svg +=
      Legend(kLeft + 120, kRewardColour, absl::StrFormat("reward, avg@%d", summary.plan.samples));
  return svg + "</svg>\n";
}

}  // namespace palimpsest::tools::eval

#include "services/orchestrator/engine/curve_svg.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "services/orchestrator/engine/evaluation.h"
#include "services/orchestrator/engine/report.h"

namespace palimpsest::orchestrator {
namespace {

// The plot inside of the picture, in pixels.
constexpr double kLeft = 60, kTop = 50, kWidth = 630, kHeight = 300;
constexpr char kBatchColour[] = "#7a9cc6", kHeldoutColour[] = "#b5432a",
               kGreedyColour[] = "#2f6f4f";

struct Scale {
  double steps = 1;
  double X(double step) const { return kLeft + kWidth * step / steps; }
  double Y(double reward) const { return kTop + kHeight * (1 - std::clamp(reward, 0.0, 1.0)); }
};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

std::string Text(double x, double y, const char* anchor, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                         Escape(text));
}

// The smallest of 1, 2, 5 times a power of ten that gives at most eight intervals.
double Interval(double steps) {
  double base = std::pow(10, std::floor(std::log10(std::max(1.0, steps / 8))));
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    if (steps / (base * factor) <= 8) return base * factor;
  }
  return steps;
}

std::string Axes(const Scale& scale) {
  std::string svg;
  for (int tenth = 0; tenth <= 10; tenth += 2) {
    const double y = scale.Y(tenth / 10.0);
    svg +=
        absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                        kLeft, y, kLeft + kWidth, y);
    svg += Text(kLeft - 8, y + 4, "end", absl::StrFormat("%.1f", tenth / 10.0));
  }
  const double interval = Interval(scale.steps);
  for (double step = 0; step <= scale.steps + 1e-9; step += interval) {
    svg += Text(scale.X(step), kTop + kHeight + 18, "middle", absl::StrFormat("%g", step));
  }
  svg += absl::StrFormat(
      "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
      "stroke=\"#555\"/>\n",
      kLeft, kTop, kWidth, kHeight);
  svg += Text(kLeft + kWidth / 2, kTop + kHeight + 38, "middle", "step of RL");
  svg += absl::StrFormat(
      "<text x=\"18\" y=\"%.1f\" text-anchor=\"middle\" transform=\"rotate(-90 18 "
      "%.1f)\">reward</text>\n",
      kTop + kHeight / 2, kTop + kHeight / 2);
  return svg;
}

std::string Line(const Scale& scale, const std::vector<Curve::Point>& points, const char* colour,
                 double width) {
  std::string path;
  for (const Curve::Point& point : points) {
    path += absl::StrFormat("%.1f,%.1f ", scale.X(point.step), scale.Y(point.reward));
  }
  return absl::StrFormat(
      "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" points=\"%s\"/>\n", colour, width,
      path);
}

std::string Marks(const Scale& scale, const std::vector<Curve::Point>& points, const char* colour) {
  std::string svg = Line(scale, points, colour, 2);
  for (const Curve::Point& point : points) {
    svg += absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n",
                           scale.X(point.step), scale.Y(point.reward), colour);
    svg += Text(scale.X(point.step) + (point.step > 0 ? -8 : 8), scale.Y(point.reward) - 8,
                point.step > 0 ? "end" : "start", absl::StrFormat("%.3f", point.reward));
  }
  return svg;
}

std::string Legend(int place, const char* colour, const std::string& text) {
  const double x = kLeft + 210 * place;
  return absl::StrFormat("<rect x=\"%.1f\" y=\"400\" width=\"14\" height=\"6\" fill=\"%s\"/>\n", x,
                         colour) +
         Text(x + 20, 407, "start", text);
}

}  // namespace

Curve LearningCurve(const ReportFacts& facts) {
  Curve curve{.title = absl::StrFormat("%s, seed %d, context %s", facts.run.name, facts.run.seed,
                                       facts.context)};
  double step = 0;
  for (const StepRow& row : facts.steps) {
    if (row.reward.has_value()) curve.batches.push_back({++step, *row.reward});
  }
  const auto add = [&](double at, const HeldoutNumbers& numbers) {
    if (numbers.sampled.empty()) return;
    curve.heldout.push_back({at, MeanReward(numbers.sampled)});
    curve.greedy.push_back({at, MeanReward(numbers.greedy)});
  };
  add(0, facts.first);
  for (const HeldoutNumbers& numbers : facts.between) {
    add(std::stod(numbers.name.substr(numbers.name.find('-') + 1)), numbers);
  }
  add(step, facts.last);
  return curve;
}

std::string CurveSvg(const Curve& curve) {
  Scale scale;
  for (const auto* points : {&curve.batches, &curve.heldout}) {
    for (const Curve::Point& point : *points) scale.steps = std::max(scale.steps, point.step);
  }
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"420\" viewBox=\"0 0 720 "
      "420\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"720\" height=\"420\" "
      "fill=\"white\"/>\n";
  svg += Text(kLeft, 28, "start", curve.title);
  svg += Axes(scale);
  svg += Line(scale, curve.batches, kBatchColour, 1.5);
  svg += Marks(scale, curve.heldout, kHeldoutColour);
  svg += Marks(scale, curve.greedy, kGreedyColour);
  svg += Legend(0, kBatchColour, "batch, sampled");
  svg += Legend(1, kHeldoutColour, "held-out, T = 1");
  svg += Legend(2, kGreedyColour, "held-out, greedy");
  return svg + "</svg>\n";
}

}  // namespace palimpsest::orchestrator

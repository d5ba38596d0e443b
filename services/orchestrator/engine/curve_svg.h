#pragma once

#include <string>
#include <vector>

namespace palimpsest::orchestrator {

struct ReportFacts;

// Rewards over the steps of RL.
struct Curve {
  struct Point {
    double step = 0;
    double reward = 0;  // [0, 1]
  };
  std::string title;
  std::vector<Point> batches;  // of each batch, sampled
  std::vector<Point> heldout;  // T = 1
  std::vector<Point> greedy;   // held-out
};
Curve LearningCurve(const ReportFacts& facts);

// A picture of 720 x 420 with axes, grid, a line per batch and marks for held-out measurements.
std::string CurveSvg(const Curve& curve);

}  // namespace palimpsest::orchestrator

#pragma once

#include <vector>

namespace edgecompile {

struct Statistics {
  double min, p50, p90, p99, mean, stddev;
};

// Of at least one value. Percentiles are values that occurred (nearest rank); the deviation is the
// sample's, 0 for one value.
Statistics statistics_of(std::vector<double> values);

}  // namespace edgecompile

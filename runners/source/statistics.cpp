#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace edgecompile {

Statistics statistics_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double count = static_cast<double>(values.size());
  const auto percentile = [&](double share) {
    return values[static_cast<size_t>(std::max(std::ceil(share * count) - 1, 0.0))];
  };
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double stddev = values.size() > 1 ? std::sqrt(squares / (count - 1)) : 0;
  return {values.front(), percentile(0.5), percentile(0.9), percentile(0.99), mean, stddev};
}

}  // namespace edgecompile

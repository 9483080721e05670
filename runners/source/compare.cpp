#include "compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgecompile {

Closeness compare(const Tensor& output, const Tensor& expected) {
  const size_t element_bytes = dtype_size_bytes(expected.spec.dtype);
  const size_t count = expected.spec.size_bytes().value_or(0) / element_bytes;
  const auto* got_bytes = static_cast<const char*>(output.data);
  const auto* wanted_bytes = static_cast<const char*>(expected.data);
  Closeness closeness;
  double signal = 0, noise = 0;
  size_t equal = 0;
  for (size_t i = 0; i < count; ++i) {
    const double wanted = element(expected, i);
    if (std::isfinite(wanted)) signal += wanted * wanted;
    if (std::memcmp(got_bytes + i * element_bytes, wanted_bytes + i * element_bytes, element_bytes) == 0) {
      ++equal;
      continue;
    }
    const double error = std::abs(element(output, i) - wanted);
    closeness.max_abs_error = std::max(closeness.max_abs_error, std::isnan(error) ? INFINITY : error);
    noise += std::isnan(error) ? INFINITY : error * error;
  }
  if (count > 0) closeness.equal_share = static_cast<double>(equal) / static_cast<double>(count);
  closeness.sqnr_db = noise == 0 ? INFINITY : 10 * std::log10(signal / noise);
  return closeness;
}

}  // namespace edgecompile

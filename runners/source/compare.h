#pragma once

#include "tensor.h"

namespace edgecompile {

// How close an output is to what was expected.
struct Closeness {
  double max_abs_error = 0;
  double sqnr_db = 0;      // infinite where nothing differs
  double equal_share = 1;  // of the elements, equal to the bit
};

// Compares tensors of the same type and shape. An output that holds NaN where a number was expected is
// infinitely far away.
Closeness compare(const Tensor& output, const Tensor& expected);

}  // namespace edgecompile

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgecompile {

enum class Dtype { float32, float64, float16, bfloat16, int8, uint8, int16, int32, int64, boolean };

// The names are those of torch and numpy.
const char* dtype_name(Dtype dtype);
size_t dtype_size_bytes(Dtype dtype);
std::optional<Dtype> dtype_from_name(const std::string& name);

struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::float32;
  std::vector<int64_t> shape;  // -1: dynamic

  // Nothing where a dimension is negative or the product is beyond any real tensor.
  std::optional<size_t> size_bytes() const;
};

// A tensor in the memory of someone else, contiguous, in the order of its dimensions.
struct Tensor {
  TensorSpec spec;
  const void* data = nullptr;
};

// One element as a number, whatever its type.
double element(const Tensor& tensor, size_t index);

}  // namespace edgecompile

#include "tensor.h"

#include <cmath>
#include <cstring>

namespace edgecompile {
namespace {

struct DtypeRow {
  Dtype dtype;
  const char* name;
  size_t size_bytes;
};

constexpr DtypeRow dtype_rows[] = {
    {Dtype::float32, "float32", 4},   {Dtype::float64, "float64", 8}, {Dtype::float16, "float16", 2},
    {Dtype::bfloat16, "bfloat16", 2}, {Dtype::int8, "int8", 1},       {Dtype::uint8, "uint8", 1},
    {Dtype::int16, "int16", 2},       {Dtype::int32, "int32", 4},     {Dtype::int64, "int64", 8},
    {Dtype::boolean, "bool", 1},
};

constexpr size_t largest_tensor_bytes = size_t{1} << 34;

const DtypeRow& row_of(Dtype dtype) { return dtype_rows[static_cast<size_t>(dtype)]; }

template <typename T>
T read_as(const void* data, size_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * sizeof(T), sizeof(T));
  return value;
}

double from_float16(uint16_t bits) {
  const double sign = (bits & 0x8000) ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  if (exponent == 0x1f) return fraction ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(fraction + 1024, exponent - 25);
}

double from_bfloat16(uint16_t bits) {
  const uint32_t widened = static_cast<uint32_t>(bits) << 16;
  return read_as<float>(&widened, 0);
}

}  // namespace

const char* dtype_name(Dtype dtype) { return row_of(dtype).name; }

size_t dtype_size_bytes(Dtype dtype) { return row_of(dtype).size_bytes; }

std::optional<Dtype> dtype_from_name(const std::string& name) {
  for (const DtypeRow& row : dtype_rows) {
    if (name == row.name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<size_t> TensorSpec::size_bytes() const {
  size_t bytes = dtype_size_bytes(dtype);
  for (const int64_t size : shape) {
    if (size < 0 || static_cast<size_t>(size) > largest_tensor_bytes) return std::nullopt;
    bytes *= static_cast<size_t>(size);
    if (bytes > largest_tensor_bytes) return std::nullopt;
  }
  return bytes;
}

double element(const Tensor& tensor, size_t index) {
  switch (tensor.spec.dtype) {
    case Dtype::float32:
      return read_as<float>(tensor.data, index);
    case Dtype::float64:
      return read_as<double>(tensor.data, index);
    case Dtype::float16:
      return from_float16(read_as<uint16_t>(tensor.data, index));
    case Dtype::bfloat16:
      return from_bfloat16(read_as<uint16_t>(tensor.data, index));
    case Dtype::int8:
      return read_as<int8_t>(tensor.data, index);
    case Dtype::uint8:
    case Dtype::boolean:
      return read_as<uint8_t>(tensor.data, index);
    case Dtype::int16:
      return read_as<int16_t>(tensor.data, index);
    case Dtype::int32:
      return read_as<int32_t>(tensor.data, index);
    case Dtype::int64:
      return static_cast<double>(read_as<int64_t>(tensor.data, index));
  }
  return std::nan("");
}

}  // namespace edgecompile

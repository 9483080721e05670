#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "options.h"
#include "status.h"
#include "tensor.h"

namespace edgecompile {

// One set of inputs, in memory of its own. Moving it leaves the tensors valid.
struct Sample {
  std::vector<std::vector<std::byte>> buffers;
  std::vector<Tensor> inputs;
};

// Codes: "input-unreadable" (or a file of another size than its shape says).
Status read_samples(const Options& options, std::vector<Sample>& samples);

// The same for one file. Codes: `code`.
Status read_elements(const std::string& path, size_t size_bytes, const std::string& code,
                     std::vector<std::byte>& bytes);

// Code: "output-not-writable".
Status write_elements(const std::string& path, const void* data, size_t size_bytes);

}  // namespace edgecompile

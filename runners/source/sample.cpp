#include "sample.h"

#include <cerrno>
#include <cstring>
#include <fstream>

namespace edgecompile {
namespace {

// XNNPACK's kernels may read up to 128 bytes past the end of an input.
constexpr size_t readable_bytes_beyond = 128;

}  // namespace

Status read_elements(const std::string& path, size_t size_bytes, const std::string& code,
                     std::vector<std::byte>& bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff found = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (found < 0) return {code, "cannot read '" + path + "'"};
  if (static_cast<size_t>(found) != size_bytes) {
    return {code, "'" + path + "' has " + std::to_string(found) + " bytes, its shape and type need " +
                      std::to_string(size_bytes)};
  }
  bytes.resize(size_bytes + readable_bytes_beyond);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size_bytes));
  if (!file) return {code, "cannot read '" + path + "'"};
  return {};
}

Status read_samples(const Options& options, std::vector<Sample>& samples) {
  const size_t inputs = options.inputs.size() / static_cast<size_t>(options.samples);
  samples.resize(static_cast<size_t>(options.samples));
  for (size_t i = 0; i < options.inputs.size(); ++i) {
    const InputFile& input = options.inputs[i];
    Sample& sample = samples[i / inputs];
    std::vector<std::byte>& bytes = sample.buffers.emplace_back();
    Status status = read_elements(input.path, *input.spec.size_bytes(), "input-unreadable", bytes);
    if (!status.ok()) return status;
    sample.inputs.push_back({input.spec, bytes.data()});
  }
  return {};
}

Status write_elements(const std::string& path, const void* data, size_t size_bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size_bytes));
  file.close();
  if (!file) return {"output-not-writable", "cannot write '" + path + "': " + std::strerror(errno)};
  return {};
}

}  // namespace edgecompile

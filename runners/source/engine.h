#pragma once

#include <memory>
#include <string>
#include <vector>

#include "status.h"
#include "tensor.h"

namespace edgecompile {

struct LoadOptions {
  int threads = 1;
  bool precise = false;    // exact integer sums where the CPU's default saturates
  std::string trace_path;  // not empty: record the time of each operator, for `write_trace`
};

struct Description {
  std::string engine;
  std::string version;
  std::vector<TensorSpec> inputs;  // empty where the artifact does not tell
  std::vector<TensorSpec> outputs;
};

// A runtime that executes one artifact. Each binary holds exactly one: its file defines `make_engine`.
// No exception crosses this interface.
class Engine {
 public:
  virtual ~Engine() = default;

  // Codes: "load-failed", "option-unsupported".
  virtual Status load(const std::string& path, const LoadOptions& options) = 0;

  // Complete only after a load.
  virtual Description describe() const = 0;

  // Runs once. The outputs lie in the engine's memory and hold until the next run.
  // Codes: "input-mismatch", "run-failed".
  virtual Status run(const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) = 0;

  // Writes what was recorded to the path of the load options, in the engine's own format.
  // Codes: "output-not-writable", "run-failed".
  virtual Status write_trace() = 0;
};

std::unique_ptr<Engine> make_engine();

}  // namespace edgecompile

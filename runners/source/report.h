#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compare.h"
#include "engine.h"
#include "options.h"
#include "system.h"

namespace edgecompile {

struct Golden {
  int sample;
  int output;
  bool passed;
  Closeness closeness;
};

// Everything that one run of the program finds out. A run that fails leaves its later fields empty.
struct Report {
  Description description;
  Status status;
  std::optional<double> load_ms;
  std::optional<double> first_inference_ms;
  std::vector<double> latencies_ms;  // of the timed iterations, in order
  Memory before_load, after_load, after_run;
  CpuState cpu;  // right after the timed iterations
  std::vector<TensorSpec> outputs;
  std::vector<Golden> goldens;
};

std::string to_json(const Report& report, const Options& options);

}  // namespace edgecompile

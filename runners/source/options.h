#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine.h"
#include "status.h"

namespace edgecompile {

struct InputFile {
  TensorSpec spec;
  std::string path;
};

struct Options {
  std::string model_path;
  std::string sha256;  // empty: not checked
  std::vector<InputFile> inputs;
  std::vector<std::string> expected_paths;
  int samples = 1;  // the inputs, and the expected outputs, are split equally among them
  int warmup = 1;
  int iterations = 10;
  double seconds = 0;     // above 0: instead of iterations
  std::vector<int> cpus;  // empty: left as it is
  double tolerance = 0;
  std::optional<double> min_sqnr_db;
  std::string output_folder;
  std::string report_path;  // empty: stdout
  LoadOptions load;
};

extern const char* const usage;

// Code: "usage".
Status parse_options(int count, const char* const* arguments, Options& options);

}  // namespace edgecompile

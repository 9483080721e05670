#include "options.h"

#include <cctype>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>

namespace edgecompile {

const char* const usage = R"(Runs a model file and writes one JSON report.

  --model FILE          the artifact
  --sha256 HEX          refuse the artifact if its SHA-256 is another one
  --input DTYPE:SHAPE:FILE   raw little-endian elements, "float32:1x3x224x224:in.raw"; once for each
                        input, in the artifact's order, and so again for each further sample
  --expect FILE         raw elements of an output that is compared; in the same order as the outputs
  --samples N           how many sets of inputs and expected outputs there are (1)
  --tolerance T         largest absolute difference that an expected output may show (0)
  --min-sqnr-db D       compare by signal to noise ratio instead
  --output-dir DIR      write the outputs of every sample there: output_SAMPLE_INDEX.raw
  --warmup N            runs before the timed ones, after each sample has run once (1)
  --iterations N        timed runs, on the first sample (10)
  --seconds S           timed runs until this time is over, instead
  --threads N           threads of the engine (1)
  --cpus LIST           run on these CPUs only: "4,5"
  --precise             exact integer sums where the CPU's default saturates
  --per-op FILE         record the time of each operator, in the engine's own format
  --report FILE         where the report goes (standard output)
)";

namespace {

Status bad(const std::string& option, const std::string& value, const std::string& expected) {
  return {"usage", option + " '" + value + "': expected " + expected};
}

bool to_integer(const std::string& text, long low, long high, int& value) {
  char* end = nullptr;
  errno = 0;
  const long parsed = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || parsed < low || parsed > high) return false;
  value = static_cast<int>(parsed);
  return true;
}

bool to_number(const std::string& text, double& value) {
  char* end = nullptr;
  value = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0' && std::isfinite(value);
}

bool to_integers(const std::string& text, char separator, std::vector<int>& values) {
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, separator);) {
    if (!to_integer(part, 0, INT_MAX, values.emplace_back())) return false;
  }
  return text.empty() || text.back() != separator;
}

// Upper case is taken, too: hashes are compared in lower case.
bool to_sha256(const std::string& text, std::string& sha256) {
  for (const char digit : text) {
    if (!std::isxdigit(static_cast<unsigned char>(digit))) return false;
    sha256 += static_cast<char>(std::tolower(static_cast<unsigned char>(digit)));
  }
  return text.size() == 64;
}

// "float32:1x3x8x8:file"; the shape of a scalar is empty.
bool to_input(const std::string& text, InputFile& input) {
  const size_t first = text.find(':');
  const size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  if (second == std::string::npos) return false;
  const auto dtype = dtype_from_name(text.substr(0, first));
  std::vector<int> shape;
  if (!dtype || !to_integers(text.substr(first + 1, second - first - 1), 'x', shape)) return false;
  input.spec.dtype = *dtype;
  input.spec.shape.assign(shape.begin(), shape.end());
  input.path = text.substr(second + 1);
  return !input.path.empty() && input.spec.size_bytes().has_value();
}

Status check_together(const Options& options) {
  const auto samples = static_cast<size_t>(options.samples);
  if (options.model_path.empty()) return {"usage", "--model is required"};
  if (options.inputs.size() % samples != 0)
    return {"usage", "the inputs cannot be split equally among the samples"};
  if (options.expected_paths.size() % samples != 0)
    return {"usage", "the expected outputs cannot be split equally among the samples"};
  return {};
}

}  // namespace

Status parse_options(int count, const char* const* arguments, Options& options) {
  using Setter = std::function<bool(const std::string&)>;
  const auto text = [](std::string& field) -> Setter {
    return [&field](const std::string& value) { return !(field = value).empty(); };
  };
  const auto integer = [](int& field, long low) -> Setter {
    return [&field, low](const std::string& value) { return to_integer(value, low, 1'000'000, field); };
  };
  const auto number = [](double& field) -> Setter {
    return [&field](const std::string& value) { return to_number(value, field) && field >= 0; };
  };
  const std::map<std::string, std::pair<Setter, const char*>> setters = {
      {"--model", {text(options.model_path), "a file"}},
      {"--sha256",
       {[&](const std::string& value) { return to_sha256(value, options.sha256 = ""); },
        "64 hexadecimal digits"}},
      {"--input",
       {[&](const std::string& value) { return to_input(value, options.inputs.emplace_back()); },
        "DTYPE:SHAPE:FILE, as in float32:1x3x224x224:in.raw"}},
      {"--expect",
       {[&](const std::string& value) { return !options.expected_paths.emplace_back(value).empty(); },
        "a file"}},
      {"--samples", {integer(options.samples, 1), "a number from 1"}},
      {"--tolerance", {number(options.tolerance), "a number from 0"}},
      {"--min-sqnr-db",
       {[&](const std::string& value) { return to_number(value, options.min_sqnr_db.emplace()); },
        "a number"}},
      {"--output-dir", {text(options.output_folder), "a folder"}},
      {"--warmup", {integer(options.warmup, 0), "a number from 0"}},
      {"--iterations", {integer(options.iterations, 0), "a number from 0"}},
      {"--seconds", {number(options.seconds), "a number from 0"}},
      {"--threads", {integer(options.load.threads, 1), "a number from 1"}},
      {"--cpus",
       {[&](const std::string& value) { return to_integers(value, ',', options.cpus); },
        "numbers with commas between them"}},
      {"--per-op", {text(options.load.trace_path), "a file"}},
      {"--report", {text(options.report_path), "a file"}},
  };
  for (int i = 1; i < count; ++i) {
    const std::string option = arguments[i];
    if (option == "--precise") {
      options.load.precise = true;
      continue;
    }
    const auto found = setters.find(option);
    if (found == setters.end()) return {"usage", "there is no option '" + option + "'"};
    if (++i == count) return {"usage", option + " needs a value"};
    const auto& [set, expected] = found->second;
    if (!set(arguments[i])) return bad(option, arguments[i], expected);
  }
  return check_together(options);
}

}  // namespace edgecompile

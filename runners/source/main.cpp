// Runs one artifact and reports on it. Which engine it holds is decided at link time.
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>

#include "report.h"
#include "sample.h"
#include "sha256.h"

namespace edgecompile {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

Status check_hash(const Options& options) {
  if (options.sha256.empty()) return {};
  std::string found;
  Status status = sha256_of_file(options.model_path, found);
  if (status.ok() && found != options.sha256) {
    return {"hash-mismatch", "the model's SHA-256 is " + found + ", expected " + options.sha256};
  }
  return status;
}

Status compare_with_expected(const Options& options, int sample, const std::vector<Tensor>& outputs,
                             std::vector<Golden>& goldens) {
  const size_t expected = options.expected_paths.size() / static_cast<size_t>(options.samples);
  if (expected == 0) return {};
  if (expected != outputs.size()) {
    return {"golden-unreadable", "the model has " + std::to_string(outputs.size()) + " outputs, " +
                                     std::to_string(expected) + " are expected"};
  }
  for (size_t i = 0; i < expected; ++i) {
    const std::string& path = options.expected_paths[static_cast<size_t>(sample) * expected + i];
    std::vector<std::byte> bytes;
    Status status = read_elements(path, *outputs[i].spec.size_bytes(), "golden-unreadable", bytes);
    if (!status.ok()) {
      const std::string which = "output '" + outputs[i].spec.name + "' of sample " + std::to_string(sample);
      return {status.code, "what is expected of " + which + ": " + status.message};
    }
    const Closeness closeness = compare(outputs[i], {outputs[i].spec, bytes.data()});
    const bool passed = options.min_sqnr_db ? closeness.sqnr_db >= *options.min_sqnr_db
                                            : closeness.max_abs_error <= options.tolerance;
    goldens.push_back({sample, static_cast<int>(i), passed, closeness});
  }
  return {};
}

Status keep_outputs(const Options& options, int sample, const std::vector<Tensor>& outputs, Report& report) {
  report.outputs.clear();
  for (size_t i = 0; i < outputs.size(); ++i) {
    report.outputs.push_back(outputs[i].spec);
    if (options.output_folder.empty()) continue;
    const std::string name = "output_" + std::to_string(sample) + "_" + std::to_string(i) + ".raw";
    Status status =
        write_elements(options.output_folder + "/" + name, outputs[i].data, *outputs[i].spec.size_bytes());
    if (!status.ok()) return status;
  }
  return compare_with_expected(options, sample, outputs, report.goldens);
}

// Every sample once, for its outputs; the very first run is a number of its own.
Status run_samples(const Options& options, const std::vector<Sample>& samples, Engine& engine,
                   Report& report) {
  std::vector<Tensor> outputs;
  for (int i = 0; i < options.samples; ++i) {
    mark_phase(Phase::sample, static_cast<unsigned long>(i));
    const auto start = Clock::now();
    Status status = engine.run(samples[static_cast<size_t>(i)].inputs, outputs);
    if (!status.ok()) return status;
    if (i == 0) report.first_inference_ms = milliseconds_since(start);
    status = keep_outputs(options, i, outputs, report);
    if (!status.ok()) return status;
  }
  return {};
}

Status run_timed(const Options& options, const Sample& sample, Engine& engine, Report& report) {
  std::vector<Tensor> outputs;
  for (int i = 0; i < options.warmup; ++i) {
    mark_phase(Phase::warm_up, static_cast<unsigned long>(i));
    Status status = engine.run(sample.inputs, outputs);
    if (!status.ok()) return status;
  }
  const auto begin = Clock::now();
  const auto enough = [&](size_t done) {
    return options.seconds > 0 ? milliseconds_since(begin) >= 1000 * options.seconds
                               : done >= static_cast<size_t>(options.iterations);
  };
  report.latencies_ms.reserve(static_cast<size_t>(options.iterations));
  while (!enough(report.latencies_ms.size())) {
    mark_phase(Phase::iteration, report.latencies_ms.size());
    const auto start = Clock::now();
    Status status = engine.run(sample.inputs, outputs);
    if (!status.ok()) return status;
    report.latencies_ms.push_back(milliseconds_since(start));
  }
  mark_phase(Phase::end, 0);
  report.cpu = read_cpu_state();
  return {};
}

Status judge(const std::vector<Golden>& goldens) {
  size_t failed = 0;
  for (const Golden& golden : goldens) failed += !golden.passed;
  if (failed == 0) return {};
  return {"golden-mismatch", std::to_string(failed) + " of " + std::to_string(goldens.size()) +
                                 " outputs differ from what is expected"};
}

Status run(const Options& options, Engine& engine, Report& report) {
  Status status = check_hash(options);
  if (!status.ok()) return status;
  std::vector<Sample> samples;
  status = read_samples(options, samples);
  if (!status.ok()) return status;
  if (!options.cpus.empty()) status = set_affinity(options.cpus);
  if (!status.ok()) return status;

  report.before_load = read_memory();
  mark_phase(Phase::load, 0);
  const auto start = Clock::now();
  status = engine.load(options.model_path, options.load);
  report.description = engine.describe();
  if (!status.ok()) return status;
  report.load_ms = milliseconds_since(start);
  report.after_load = read_memory();

  status = run_samples(options, samples, engine, report);
  if (!status.ok()) return status;
  status = run_timed(options, samples.front(), engine, report);
  if (!status.ok()) return status;
  report.after_run = read_memory();
  if (!options.load.trace_path.empty()) status = engine.write_trace();
  return status.ok() ? judge(report.goldens) : status;
}

// 1 is left to the system's loader and 70 to what nobody foresaw.
int exit_code(const Status& status) {
  static const std::map<std::string, int> codes = {
      {"", 0},
      {"usage", 2},
      {"option-unsupported", 2},
      {"affinity-failed", 2},
      {"model-unreadable", 3},
      {"hash-mismatch", 3},
      {"golden-mismatch", 4},
      {"load-failed", 5},
      {"input-mismatch", 6},
      {"run-failed", 6},
      {"input-unreadable", 7},
      {"golden-unreadable", 7},
      {"output-not-writable", 7},
  };
  const auto found = codes.find(status.code);
  return found == codes.end() ? 70 : found->second;
}

Status write_report(const Options& options, const Report& report) {
  const std::string text = to_json(report, options);
  if (!options.report_path.empty()) return write_elements(options.report_path, text.data(), text.size());
  const bool written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  return written ? Status{} : Status{"output-not-writable", "cannot write the report"};
}

int main_guarded(int count, const char* const* arguments) {
  if (count == 2 && std::string(arguments[1]) == "--help") {
    std::fputs(usage, stdout);
    return 0;
  }
  Options options;
  Report report;
  report.status = parse_options(count, arguments, options);
  const std::unique_ptr<Engine> engine = make_engine();
  report.description = engine->describe();
  if (report.status.ok()) {
    try {
      report.status = run(options, *engine, report);
    } catch (const std::exception& error) {
      report.status = {"internal", error.what()};
    }
  }
  if (!report.status.ok()) {
    std::fprintf(stderr, "error[%s]: %s\n", report.status.code.c_str(), report.status.message.c_str());
  }
  const Status written = write_report(options, report);
  if (!written.ok()) std::fprintf(stderr, "error[%s]: %s\n", written.code.c_str(), written.message.c_str());
  return exit_code(report.status.ok() ? written : report.status);
}

}  // namespace
}  // namespace edgecompile

int main(int count, char** arguments) { return edgecompile::main_guarded(count, arguments); }

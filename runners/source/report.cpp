#include "report.h"

#include "json.h"
#include "statistics.h"

namespace edgecompile {
namespace {

using json::number;
using json::Object;
using json::text;

const std::string null = "null";

std::string optional_number(const std::optional<double>& value) { return value ? number(*value) : null; }

std::string memory(const Memory& memory) {
  return Object()
      .member("resident", std::to_string(memory.resident_bytes))
      .member("peak", std::to_string(memory.peak_bytes))
      .end();
}

std::string tensors(const std::vector<TensorSpec>& specs) {
  return json::array(specs, [](const TensorSpec& spec) {
    return Object()
        .member("name", text(spec.name))
        .member("dtype", text(dtype_name(spec.dtype)))
        .member("shape", json::array(spec.shape, [](int64_t size) { return std::to_string(size); }))
        .end();
  });
}

std::string latency(const std::vector<double>& latencies_ms) {
  if (latencies_ms.empty()) return null;
  const Statistics statistics = statistics_of(latencies_ms);
  return Object()
      .member("min", number(statistics.min))
      .member("p50", number(statistics.p50))
      .member("p90", number(statistics.p90))
      .member("p99", number(statistics.p99))
      .member("mean", number(statistics.mean))
      .member("stddev", number(statistics.stddev))
      .end();
}

std::string cpu(const CpuState& state) {
  return Object()
      .member("features", json::array(cpu_features(), text))
      .member("frequencies_khz",
              json::array(state.frequencies_khz, [](uint64_t khz) { return std::to_string(khz); }))
      .member("governor", state.governor.empty() ? null : text(state.governor))
      .member("temperature_celsius", optional_number(state.temperature_celsius))
      .end();
}

std::string goldens(const std::vector<Golden>& goldens) {
  return json::array(goldens, [](const Golden& golden) {
    return Object()
        .member("sample", std::to_string(golden.sample))
        .member("output", std::to_string(golden.output))
        .member("passed", golden.passed ? "true" : "false")
        .member("max_abs_error", number(golden.closeness.max_abs_error))
        .member("sqnr_db", number(golden.closeness.sqnr_db))
        .member("equal_share", number(golden.closeness.equal_share))
        .end();
  });
}

std::string error(const Status& status) {
  if (status.ok()) return null;
  return Object().member("code", text(status.code)).member("message", text(status.message)).end();
}

}  // namespace

std::string to_json(const Report& report, const Options& options) {
  const Object memory_bytes = Object()
                                  .member("before_load", memory(report.before_load))
                                  .member("after_load", memory(report.after_load))
                                  .member("after_run", memory(report.after_run));
  return Object()
             .member("schema_version", "1")
             .member("engine", text(report.description.engine))
             .member("engine_version", text(report.description.version))
             .member("error", error(report.status))
             .member("threads", std::to_string(options.load.threads))
             .member("cpus", json::array(options.cpus, [](int cpu) { return std::to_string(cpu); }))
             .member("load_ms", optional_number(report.load_ms))
             .member("first_inference_ms", optional_number(report.first_inference_ms))
             .member("warmup", std::to_string(options.warmup))
             .member("iterations", std::to_string(report.latencies_ms.size()))
             .member("latency_ms", latency(report.latencies_ms))
             .member("latencies_ms", json::array(report.latencies_ms, number))
             .member("memory_bytes", memory_bytes.end())
             .member("cpu", cpu(report.cpu))
             .member("inputs", tensors(report.description.inputs))
             .member("outputs", tensors(report.outputs))
             .member("goldens", goldens(report.goldens))
             .end() +
         "\n";
}

}  // namespace edgecompile

// ExecuTorch: runs the method `forward` of a .pte file with the optimized and quantized CPU kernels and
// the XNNPACK delegate, which the build links whole.
#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>

#include <cstdlib>

#include "engine.h"
#include "sample.h"

// The package exports the thread pool but ships no header for it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t thread_count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace edgecompile {
namespace {

using executorch::aten::ScalarType;
using executorch::etdump::ETDumpGen;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Program;

struct TypeRow {
  Dtype dtype;
  ScalarType type;
};

constexpr TypeRow type_rows[] = {
    {Dtype::float32, ScalarType::Float}, {Dtype::float64, ScalarType::Double},
    {Dtype::float16, ScalarType::Half},  {Dtype::bfloat16, ScalarType::BFloat16},
    {Dtype::int8, ScalarType::Char},     {Dtype::uint8, ScalarType::Byte},
    {Dtype::int16, ScalarType::Short},   {Dtype::int32, ScalarType::Int},
    {Dtype::int64, ScalarType::Long},    {Dtype::boolean, ScalarType::Bool},
};

ScalarType type_of(Dtype dtype) { return type_rows[static_cast<size_t>(dtype)].type; }

bool dtype_of(ScalarType type, Dtype& dtype) {
  for (const TypeRow& row : type_rows) {
    if (row.type != type) continue;
    dtype = row.dtype;
    return true;
  }
  return false;
}

Status failure(const char* code, const std::string& action, Error error) {
  return {code, "ExecuTorch could not " + action + ": " + executorch::runtime::to_string(error)};
}

// Reads what a method tells of its inputs or outputs; what is no tensor is left out.
template <typename Meta>
std::vector<TensorSpec> specs_of(size_t count, const std::string& kind, Meta meta) {
  std::vector<TensorSpec> specs;
  for (size_t i = 0; i < count; ++i) {
    const auto info = meta(i);
    TensorSpec spec;
    if (!info.ok() || !dtype_of(info->scalar_type(), spec.dtype)) continue;
    spec.name = kind + "_" + std::to_string(i);
    spec.shape.assign(info->sizes().begin(), info->sizes().end());
    specs.push_back(std::move(spec));
  }
  return specs;
}

class ExecutorchEngine final : public Engine {
 public:
  Status load(const std::string& path, const LoadOptions& options) override {
    namespace threadpool = executorch::extension::threadpool;
    threadpool::ThreadPool* pool = threadpool::get_threadpool();
    if (pool == nullptr || !pool->_unsafe_reset_threadpool(static_cast<uint32_t>(options.threads))) {
      return {"load-failed", "ExecuTorch could not start its threads"};
    }
    trace_path_ = options.trace_path;
    module_ = std::make_unique<Module>(path, Module::LoadMode::Mmap,
                                       trace_path_.empty() ? nullptr : std::make_unique<ETDumpGen>());
    // The whole verification: a damaged file is to end in an error, not in a crash.
    Error error = module_->load(Program::Verification::InternalConsistency);
    if (error != Error::Ok) return failure("load-failed", "load the program", error);
    error = module_->load_method("forward");
    if (error != Error::Ok) return failure("load-failed", "load the method 'forward'", error);
    return {};
  }

  Description describe() const override {
    Description description{"executorch", EDGECOMPILE_ENGINE_VERSION, {}, {}};
    if (!module_ || !module_->is_method_loaded("forward")) return description;
    const auto meta = module_->method_meta("forward");
    if (!meta.ok()) return description;
    description.inputs =
        specs_of(meta->num_inputs(), "input", [&](size_t i) { return meta->input_tensor_meta(i); });
    description.outputs =
        specs_of(meta->num_outputs(), "output", [&](size_t i) { return meta->output_tensor_meta(i); });
    return description;
  }

  Status run(const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) override {
    const auto meta = module_->method_meta("forward");
    if (meta.ok() && meta->num_inputs() != inputs.size()) {
      return {"input-mismatch", "the model has " + std::to_string(meta->num_inputs()) + " inputs, " +
                                    std::to_string(inputs.size()) + " were given"};
    }
    std::vector<executorch::extension::TensorPtr> tensors;
    std::vector<EValue> values;
    for (const Tensor& input : inputs) {
      std::vector<executorch::aten::SizesType> sizes(input.spec.shape.begin(), input.spec.shape.end());
      tensors.push_back(executorch::extension::from_blob(const_cast<void*>(input.data), std::move(sizes),
                                                         type_of(input.spec.dtype)));
      values.emplace_back(tensors.back());
    }
    Error error = values.empty() ? Error::Ok : module_->set_inputs("forward", values);
    if (error != Error::Ok) return failure("input-mismatch", "take the inputs", error);
    const auto results = module_->execute("forward", std::vector<EValue>{});
    if (!results.ok()) return failure("run-failed", "run the method", results.error());
    return view(*results, outputs);
  }

  Status write_trace() override {
    auto* tracer = static_cast<ETDumpGen*>(module_->event_tracer());
    const auto dump = tracer->get_etdump_data();
    if (dump.buf == nullptr) return {"run-failed", "ExecuTorch recorded nothing"};
    Status status = write_elements(trace_path_, dump.buf, dump.size);
    std::free(dump.buf);
    return status;
  }

 private:
  static Status view(const std::vector<EValue>& results, std::vector<Tensor>& outputs) {
    outputs.clear();
    for (const EValue& result : results) {
      if (!result.isTensor()) return {"run-failed", "an output of the model is no tensor"};
      const auto& tensor = result.toTensor();
      Tensor output;
      if (!dtype_of(tensor.scalar_type(), output.spec.dtype)) {
        return {"run-failed", "an output of the model has an unknown type"};
      }
      const auto order = tensor.dim_order();
      for (size_t i = 0; i < order.size(); ++i) {
        if (order[i] != i) return {"run-failed", "an output's dimensions are not in their default order"};
      }
      output.spec.name = "output_" + std::to_string(outputs.size());
      output.spec.shape.assign(tensor.sizes().begin(), tensor.sizes().end());
      output.data = tensor.const_data_ptr();
      outputs.push_back(std::move(output));
    }
    return {};
  }

  std::unique_ptr<Module> module_;
  std::string trace_path_;
};

}  // namespace

std::unique_ptr<Engine> make_engine() { return std::make_unique<ExecutorchEngine>(); }

}  // namespace edgecompile

// TorchScript Lite: runs .ptl files in PyTorch's lite interpreter with QNNPACK kernels.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/mobile/import.h>
#include <torch/csrc/jit/mobile/module.h>

#include <optional>

#include "engine.h"

namespace edgecompile {
namespace {

struct TypeRow {
  Dtype dtype;
  at::ScalarType type;
};

constexpr TypeRow type_rows[] = {
    {Dtype::float32, at::kFloat},     {Dtype::float64, at::kDouble}, {Dtype::float16, at::kHalf},
    {Dtype::bfloat16, at::kBFloat16}, {Dtype::int8, at::kChar},      {Dtype::uint8, at::kByte},
    {Dtype::int16, at::kShort},       {Dtype::int32, at::kInt},      {Dtype::int64, at::kLong},
    {Dtype::boolean, at::kBool},
};

at::ScalarType type_of(Dtype dtype) { return type_rows[static_cast<size_t>(dtype)].type; }

bool dtype_of(at::ScalarType type, Dtype& dtype) {
  for (const TypeRow& row : type_rows) {
    if (row.type != type) continue;
    dtype = row.dtype;
    return true;
  }
  return false;
}

// PyTorch's messages go on for pages of C++ frames.
std::string first_line(const char* message) {
  const std::string text = message;
  return text.substr(0, text.find('\n'));
}

class TorchscriptLiteEngine final : public Engine {
 public:
  Status load(const std::string& path, const LoadOptions& options) override {
    if (!options.trace_path.empty()) {
      return {"option-unsupported", "TorchScript Lite records no operators"};
    }
    try {
      at::set_num_threads(options.threads);
      // Before the file is read: its weights are packed for the engine that is set then.
      at::globalContext().setQEngine(at::QEngine::QNNPACK);
      const c10::InferenceMode guard;
      module_ = torch::jit::_load_for_mobile(path);
      module_->eval();
    } catch (const std::exception& error) {
      return {"load-failed", "TorchScript Lite could not load the model: " + first_line(error.what())};
    }
    return {};
  }

  Description describe() const override { return {"torchscript-lite", EDGECOMPILE_ENGINE_VERSION, {}, {}}; }

  Status run(const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) override {
    try {
      const c10::InferenceMode guard;
      std::vector<c10::IValue> values;
      for (const Tensor& input : inputs) {
        values.emplace_back(at::from_blob(const_cast<void*>(input.data), input.spec.shape,
                                          at::TensorOptions(type_of(input.spec.dtype))));
      }
      return view(module_->forward(std::move(values)), outputs);
    } catch (const std::exception& error) {
      return {"run-failed", "TorchScript Lite could not run the model: " + first_line(error.what())};
    }
  }

  Status write_trace() override { return {}; }

 private:
  Status view(const c10::IValue& result, std::vector<Tensor>& outputs) {
    results_.clear();
    if (result.isTensor()) results_.push_back(result.toTensor());
    if (result.isTensorList()) results_ = result.toTensorVector();
    if (result.isTuple()) {
      for (const c10::IValue& part : result.toTupleRef().elements()) results_.push_back(part.toTensor());
    }
    if (results_.empty()) return {"run-failed", "the model's output is no tensor"};
    outputs.clear();
    for (at::Tensor& tensor : results_) {
      tensor = tensor.contiguous();
      Tensor output;
      if (!dtype_of(tensor.scalar_type(), output.spec.dtype)) {
        return {"run-failed", "an output of the model has an unknown type"};
      }
      output.spec.name = "output_" + std::to_string(outputs.size());
      output.spec.shape = tensor.sizes().vec();
      output.data = tensor.const_data_ptr();
      outputs.push_back(std::move(output));
    }
    return {};
  }

  std::optional<torch::jit::mobile::Module> module_;
  std::vector<at::Tensor> results_;
};

}  // namespace

std::unique_ptr<Engine> make_engine() { return std::make_unique<TorchscriptLiteEngine>(); }

}  // namespace edgecompile

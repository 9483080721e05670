// ONNX Runtime: runs .onnx files on its CPU provider.
#include <stdlib.h>

#include <cstdio>

#include "engine.h"
#include "onnxruntime_api.h"

namespace edgecompile {
namespace {

struct TypeRow {
  Dtype dtype;
  int element_type;  // ONNX's TensorProto.DataType
};

constexpr TypeRow type_rows[] = {
    {Dtype::float32, 1}, {Dtype::float64, 11}, {Dtype::float16, 10}, {Dtype::bfloat16, 16},
    {Dtype::int8, 3},    {Dtype::uint8, 2},    {Dtype::int16, 5},    {Dtype::int32, 6},
    {Dtype::int64, 7},   {Dtype::boolean, 9},
};

int element_type_of(Dtype dtype) { return type_rows[static_cast<size_t>(dtype)].element_type; }

bool dtype_of(int element_type, Dtype& dtype) {
  for (const TypeRow& row : type_rows) {
    if (row.element_type != element_type) continue;
    dtype = row.dtype;
    return true;
  }
  return false;
}

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

class OnnxruntimeEngine final : public Engine {
 public:
  Status load(const std::string& path, const LoadOptions& options) override {
    api_ = OrtGetApiBase()->api(ort::version);
    if (api_ == nullptr) return {"load-failed", "this ONNX Runtime is too old"};
    trace_path_ = options.trace_path;
    // Else the library writes an identifier into the home folder and sends events over the network.
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    env_ = {nullptr, api_->release_env};
    session_ = {nullptr, api_->release_session};
    memory_ = {nullptr, api_->release_memory_info};
    Owned<ort::SessionOptions> settings(nullptr, api_->release_session_options);
    const bool created = make(env_, api_->create_env, ort::logging_fatal, "edgecompile") &&
                         make(settings, api_->create_session_options) && configure(*settings, options) &&
                         make(session_, api_->create_session, env_.get(), path.c_str(), settings.get()) &&
                         make(memory_, api_->create_cpu_memory, ort::arena_allocator, ort::default_memory) &&
                         succeeded(api_->default_allocator(&allocator_)) && read_specs();
    if (!created) return {"load-failed", "ONNX Runtime could not load the model: " + error_};
    return {};
  }

  Description describe() const override {
    return {"onnxruntime", OrtGetApiBase()->version_text(), inputs_, outputs_};
  }

  Status run(const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) override {
    if (inputs.size() != inputs_.size()) {
      return {"input-mismatch", "the model has " + std::to_string(inputs_.size()) + " inputs, " +
                                    std::to_string(inputs.size()) + " were given"};
    }
    std::vector<Owned<ort::Value>> values;
    for (const Tensor& input : inputs) {
      Owned<ort::Value>& value = values.emplace_back(nullptr, api_->release_value);
      if (!make(value, api_->create_tensor, memory_.get(), const_cast<void*>(input.data),
                *input.spec.size_bytes(), input.spec.shape.data(), input.spec.shape.size(),
                element_type_of(input.spec.dtype))) {
        return {"input-mismatch", "ONNX Runtime could not take the inputs: " + error_};
      }
    }
    const auto input_names = names_of(inputs_), output_names = names_of(outputs_);
    std::vector<const ort::Value*> arguments;
    for (const auto& value : values) arguments.push_back(value.get());
    std::vector<ort::Value*> results(outputs_.size(), nullptr);
    const bool ran =
        succeeded(api_->run(session_.get(), nullptr, input_names.data(), arguments.data(), arguments.size(),
                            output_names.data(), output_names.size(), results.data()));
    results_.clear();
    for (ort::Value* result : results) results_.emplace_back(result, api_->release_value);
    if (!ran || !view(outputs)) return {"run-failed", "ONNX Runtime could not run the model: " + error_};
    return {};
  }

  Status write_trace() override {
    char* written = nullptr;
    if (!succeeded(api_->end_profiling(session_.get(), allocator_, &written))) return {"run-failed", error_};
    const std::string path = written;
    free_text(written);
    // ONNX Runtime adds the time of day to the name that it was given.
    if (std::rename(path.c_str(), trace_path_.c_str()) != 0) {
      return {"output-not-writable", "cannot write '" + trace_path_ + "'"};
    }
    return {};
  }

 private:
  bool succeeded(ort::Status* status) {
    if (status == nullptr) return true;
    error_ = api_->get_error_message(status);
    api_->release_status(status);
    return false;
  }

  // Calls a function whose last argument takes what it makes.
  template <typename T, typename Function, typename... Arguments>
  bool make(Owned<T>& owner, Function function, Arguments... arguments) {
    T* made = nullptr;
    if (!succeeded(function(arguments..., &made))) return false;
    owner.reset(made);
    return true;
  }

  void free_text(char* text) { succeeded(api_->free_with(allocator_, text)); }

  bool configure(ort::SessionOptions& settings, const LoadOptions& options) {
    if (!succeeded(api_->set_intra_op_threads(&settings, options.threads))) return false;
    if (!succeeded(api_->set_inter_op_threads(&settings, 1))) return false;
    if (options.precise && !succeeded(api_->set_option(&settings, "session.x64quantprecision", "1"))) {
      return false;
    }
    return trace_path_.empty() || succeeded(api_->enable_profiling(&settings, trace_path_.c_str()));
  }

  bool read_specs() {
    return read_specs(api_->input_count, api_->input_name, api_->input_type, inputs_) &&
           read_specs(api_->output_count, api_->output_name, api_->output_type, outputs_);
  }

  template <typename Count, typename Name, typename Type>
  bool read_specs(Count count_of, Name name_of, Type type_of, std::vector<TensorSpec>& specs) {
    size_t count = 0;
    if (!succeeded(count_of(session_.get(), &count))) return false;
    for (size_t i = 0; i < count; ++i) {
      TensorSpec& spec = specs.emplace_back();
      char* name = nullptr;
      if (!succeeded(name_of(session_.get(), i, allocator_, &name))) return false;
      spec.name = name;
      free_text(name);
      Owned<ort::TypeInfo> type(nullptr, api_->release_type);
      const ort::TensorInfo* info = nullptr;
      if (!make(type, type_of, session_.get(), i)) return false;
      if (!succeeded(api_->as_tensor_type(type.get(), &info)) || !read_spec(info, spec)) return false;
    }
    return true;
  }

  bool read_spec(const ort::TensorInfo* info, TensorSpec& spec) {
    if (info == nullptr) return refuse("'" + spec.name + "' is no tensor");
    int element_type = 0;
    size_t dimensions = 0;
    if (!succeeded(api_->element_type(info, &element_type))) return false;
    if (!dtype_of(element_type, spec.dtype)) return refuse("'" + spec.name + "' has an unsupported type");
    if (!succeeded(api_->dimension_count(info, &dimensions))) return false;
    spec.shape.resize(dimensions);
    return succeeded(api_->dimensions(info, spec.shape.data(), dimensions));
  }

  bool view(std::vector<Tensor>& outputs) {
    outputs.clear();
    for (size_t i = 0; i < results_.size(); ++i) {
      Tensor output;
      output.spec.name = outputs_[i].name;
      Owned<ort::TensorInfo> info(nullptr, api_->release_tensor_info);
      void* data = nullptr;
      if (!make(info, api_->tensor_type, results_[i].get()) || !read_spec(info.get(), output.spec))
        return false;
      if (!succeeded(api_->tensor_data(results_[i].get(), &data))) return false;
      output.data = data;
      outputs.push_back(std::move(output));
    }
    return true;
  }

  bool refuse(const std::string& reason) {
    error_ = reason;
    return false;
  }

  static std::vector<const char*> names_of(const std::vector<TensorSpec>& specs) {
    std::vector<const char*> names;
    for (const TensorSpec& spec : specs) names.push_back(spec.name.c_str());
    return names;
  }

  const ort::Api* api_ = nullptr;
  ort::Allocator* allocator_ = nullptr;  // the library's own, never released
  Owned<ort::Env> env_{nullptr, nullptr};
  Owned<ort::Session> session_{nullptr, nullptr};
  Owned<ort::MemoryInfo> memory_{nullptr, nullptr};
  std::vector<Owned<ort::Value>> results_;
  std::vector<TensorSpec> inputs_, outputs_;
  std::string trace_path_, error_;
};

}  // namespace

std::unique_ptr<Engine> make_engine() { return std::make_unique<OnnxruntimeEngine>(); }

}  // namespace edgecompile

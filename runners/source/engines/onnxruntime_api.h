// The part of ONNX Runtime's C API that the runner calls, declared by hand: the package that holds the
// library ships no header. `OrtApi` is a table of functions that is only ever appended to, so a place in
// it holds for every later release; `version` asks for the oldest table that has all of these.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t version = 16;

struct Env;
struct Status;
struct Session;
struct SessionOptions;
struct RunOptions;
struct MemoryInfo;
struct TypeInfo;
struct TensorInfo;
struct Value;
struct Allocator;

enum LoggingLevel { logging_fatal = 4 };
enum AllocatorType { arena_allocator = 1 };
enum MemoryType { default_memory = 0 };

template <size_t Count>
using Unused = void* [Count];

// The numbers are the places in the table.
struct Api {
  Unused<2> unused_0;
  const char* (*get_error_message)(const Status*);                     // 2
  Status* (*create_env)(LoggingLevel, const char* log_id, Env** out);  // 3
  Unused<3> unused_4;
  Status* (*create_session)(const Env*, const char* path, const SessionOptions*, Session** out);  // 7
  Status* (*create_session_from_array)(const Env*, const void* data, size_t size_bytes, const SessionOptions*,
                                       Session** out);  // 8
  Status* (*run)(Session*, const RunOptions*, const char* const* input_names, const Value* const* inputs,
                 size_t input_count, const char* const* output_names, size_t output_count,
                 Value** outputs);                          // 9
  Status* (*create_session_options)(SessionOptions** out);  // 10
  Unused<3> unused_11;
  Status* (*enable_profiling)(SessionOptions*, const char* path_prefix);  // 14
  Unused<9> unused_15;
  Status* (*set_intra_op_threads)(SessionOptions*, int threads);  // 24
  Status* (*set_inter_op_threads)(SessionOptions*, int threads);  // 25
  Unused<4> unused_26;
  Status* (*input_count)(const Session*, size_t* out);   // 30
  Status* (*output_count)(const Session*, size_t* out);  // 31
  Unused<1> unused_32;
  Status* (*input_type)(const Session*, size_t index, TypeInfo** out);   // 33
  Status* (*output_type)(const Session*, size_t index, TypeInfo** out);  // 34
  Unused<1> unused_35;
  Status* (*input_name)(const Session*, size_t index, Allocator*, char** out);   // 36
  Status* (*output_name)(const Session*, size_t index, Allocator*, char** out);  // 37
  Unused<11> unused_38;
  Status* (*create_tensor)(const MemoryInfo*, void* data, size_t size_bytes, const int64_t* shape,
                           size_t dimensions, int element_type, Value** out);  // 49
  Unused<1> unused_50;
  Status* (*tensor_data)(Value*, void** out);  // 51
  Unused<3> unused_52;
  Status* (*as_tensor_type)(const TypeInfo*, const TensorInfo** out);  // 55
  Unused<4> unused_56;
  Status* (*element_type)(const TensorInfo*, int* out);                           // 60
  Status* (*dimension_count)(const TensorInfo*, size_t* out);                     // 61
  Status* (*dimensions)(const TensorInfo*, int64_t* out, size_t out_dimensions);  // 62
  Unused<2> unused_63;
  Status* (*tensor_type)(const Value*, TensorInfo** out);  // 65
  Unused<3> unused_66;
  Status* (*create_cpu_memory)(AllocatorType, MemoryType, MemoryInfo** out);  // 69
  Unused<6> unused_70;
  Status* (*free_with)(Allocator*, void* memory);  // 76
  Unused<1> unused_77;
  Status* (*default_allocator)(Allocator** out);  // 78
  Unused<13> unused_79;
  void (*release_env)(Env*);                 // 92
  void (*release_status)(Status*);           // 93
  void (*release_memory_info)(MemoryInfo*);  // 94
  void (*release_session)(Session*);         // 95
  void (*release_value)(Value*);             // 96
  Unused<1> unused_97;
  void (*release_type)(TypeInfo*);                   // 98
  void (*release_tensor_info)(TensorInfo*);          // 99
  void (*release_session_options)(SessionOptions*);  // 100
  Unused<9> unused_101;
  Status* (*end_profiling)(Session*, Allocator*, char** path);  // 110
  Unused<19> unused_111;
  Status* (*set_option)(SessionOptions*, const char* key, const char* value);  // 130
};

static_assert(offsetof(Api, input_count) == 30 * sizeof(void*));
static_assert(offsetof(Api, tensor_type) == 65 * sizeof(void*));
static_assert(offsetof(Api, release_session_options) == 100 * sizeof(void*));
static_assert(offsetof(Api, set_option) == 130 * sizeof(void*));

struct ApiBase {
  const Api* (*api)(uint32_t version);  // nullptr where the library is older
  const char* (*version_text)();
};

}  // namespace ort

extern "C" const ort::ApiBase* OrtGetApiBase();

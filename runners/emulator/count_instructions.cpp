// A plugin of QEMU's user mode that counts the guest's executed instructions between the phases that a
// runner marks (`mark_phase` in source/system_linux.cpp). No distribution packages QEMU's plugin header,
// so what is used of it is declared here: version 1 of the interface, docs/devel/tcg-plugins.rst in QEMU.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
using qemu_plugin_id_t = uint64_t;
struct qemu_plugin_tb;
struct qemu_info_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb* block);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(qemu_plugin_tb*, qemu_plugin_op, void* counter, uint64_t added);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t,
                                          void (*)(qemu_plugin_id_t, unsigned cpu, int64_t number, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void*), void*);
}

namespace {

constexpr int64_t prctl_number = 167;          // on arm64
constexpr uint64_t phase_option = 0x65646765;  // as in system_linux.cpp
constexpr char out_argument[] = "out=";

struct Mark {
  uint64_t phase, index, executed;
};

// Not atomic: counts are exact for a guest of one thread, which is what they are offered for.
uint64_t executed = 0;
std::vector<Mark> marks;
std::string out_path;

void on_translation(qemu_plugin_id_t, qemu_plugin_tb* block) {
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &executed,
                                           qemu_plugin_tb_n_insns(block));
}

void on_system_call(qemu_plugin_id_t, unsigned, int64_t number, uint64_t option, uint64_t phase,
                    uint64_t index, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  if (number == prctl_number && option == phase_option) marks.push_back({phase, index, executed});
}

void on_exit(qemu_plugin_id_t, void*) {
  FILE* file = std::fopen(out_path.c_str(), "w");
  if (file == nullptr) return;  // whoever wants the counts finds no file
  for (const Mark& mark : marks) {
    std::fprintf(file, "%llu %llu %llu\n", static_cast<unsigned long long>(mark.phase),
                 static_cast<unsigned long long>(mark.index), static_cast<unsigned long long>(mark.executed));
  }
  std::fclose(file);
}

}  // namespace

extern "C" {
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t*,
                                                               int count, char** arguments) {
  if (count != 1 || std::strncmp(arguments[0], out_argument, sizeof out_argument - 1) != 0) {
    std::fprintf(stderr, "count_instructions: expected the argument out=FILE\n");
    return 1;
  }
  out_path = arguments[0] + sizeof out_argument - 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_system_call);
  qemu_plugin_register_atexit_cb(id, on_exit, nullptr);
  return 0;
}
}

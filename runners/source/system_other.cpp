// Where the system has neither /proc nor affinity (iOS, macOS): the report says so with zeros.
#include "system.h"

namespace edgecompile {

Memory read_memory() { return {}; }

CpuState read_cpu_state() { return {}; }

Status set_affinity(const std::vector<int>&) {
  return {"affinity-failed", "this system has no CPU affinity"};
}

void mark_phase(Phase, unsigned long) {}

}  // namespace edgecompile

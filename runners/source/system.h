#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "status.h"

namespace edgecompile {

// The memory of this process that is resident, in bytes; 0 where the system does not tell.
struct Memory {
  uint64_t resident_bytes = 0;
  uint64_t peak_bytes = 0;
};

struct CpuState {
  std::vector<uint64_t> frequencies_khz;      // one for each CPU; empty where the system does not tell
  std::string governor;                       // of the first CPU
  std::optional<double> temperature_celsius;  // of the hottest zone
};

// What a run is doing, for a tool that watches system calls and counts what lies between two of them.
enum class Phase : unsigned long { load = 1, sample = 2, warm_up = 3, iteration = 4, end = 5 };

Memory read_memory();
CpuState read_cpu_state();
Status set_affinity(const std::vector<int>& cpus);  // code: "affinity-failed"
void mark_phase(Phase phase, unsigned long index);
std::vector<std::string> cpu_features();

}  // namespace edgecompile

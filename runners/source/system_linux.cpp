#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "system.h"

namespace edgecompile {
namespace {

// "edge": no option of Linux, which answers EINVAL and does nothing. Only a watcher makes use of it.
constexpr int phase_option = 0x65646765;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string frequency_folder(size_t cpu) {
  return "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/";
}

}  // namespace

Memory read_memory() {
  Memory memory;
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    const auto bytes = [&] { return std::strtoull(line.c_str() + colon + 1, nullptr, 10) * 1024; };
    if (line.compare(0, colon, "VmRSS") == 0) memory.resident_bytes = bytes();
    if (line.compare(0, colon, "VmHWM") == 0) memory.peak_bytes = bytes();
  }
  return memory;
}

CpuState read_cpu_state() {
  CpuState state;
  for (size_t cpu = 0;; ++cpu) {
    const std::string khz = first_line(frequency_folder(cpu) + "scaling_cur_freq");
    if (khz.empty()) break;
    state.frequencies_khz.push_back(std::strtoull(khz.c_str(), nullptr, 10));
  }
  state.governor = first_line(frequency_folder(0) + "scaling_governor");
  for (size_t zone = 0;; ++zone) {
    const std::string path = "/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/temp";
    const std::string millidegrees = first_line(path);
    if (millidegrees.empty()) break;
    const double celsius = std::strtod(millidegrees.c_str(), nullptr) / 1000;
    state.temperature_celsius = std::max(state.temperature_celsius.value_or(celsius), celsius);
  }
  return state;
}

Status set_affinity(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu >= CPU_SETSIZE) return {"affinity-failed", "there is no CPU " + std::to_string(cpu)};
    CPU_SET(static_cast<size_t>(cpu), &set);
  }
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    return {"affinity-failed", std::string("the system refuses these CPUs: ") + std::strerror(errno)};
  }
  return {};
}

void mark_phase(Phase phase, unsigned long index) {
  prctl(phase_option, static_cast<unsigned long>(phase), index, 0UL, 0UL);
}

}  // namespace edgecompile

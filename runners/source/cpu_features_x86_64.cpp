#include <cpuid.h>

#include "system.h"

namespace edgecompile {

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  if (__builtin_cpu_supports("fma")) names.push_back("fma");
  if (__builtin_cpu_supports("avx2")) names.push_back("avx2");
  if (__builtin_cpu_supports("avx512f")) names.push_back("avx512f");
  if (__builtin_cpu_supports("avx512vnni")) names.push_back("avx512_vnni");
  // Not every compiler knows AVX-VNNI by name. It needs of the system what AVX2 needs.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool answered = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0;
  if (answered && (eax >> 4 & 1) && __builtin_cpu_supports("avx2")) names.push_back("avx_vnni");
  return names;
}

}  // namespace edgecompile

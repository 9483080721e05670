#include <sys/auxv.h>

#include "system.h"

namespace edgecompile {
namespace {

struct Feature {
  const char* name;
  unsigned long vector;  // of the auxiliary vector
  int bit;
};

// The kernel's numbers (arch/arm64/include/uapi/asm/hwcap.h): older headers lack the newer names.
constexpr Feature known_features[] = {
    {"fp16", AT_HWCAP, 10},  {"dotprod", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},  {"sve2", AT_HWCAP2, 1},
    {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},   {"sme", AT_HWCAP2, 23},
};

}  // namespace

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const Feature& feature : known_features) {
    if (getauxval(feature.vector) >> feature.bit & 1) names.push_back(feature.name);
  }
  return names;
}

}  // namespace edgecompile

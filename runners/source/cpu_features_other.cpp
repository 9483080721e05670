#include "system.h"

namespace edgecompile {

std::vector<std::string> cpu_features() { return {}; }

}  // namespace edgecompile

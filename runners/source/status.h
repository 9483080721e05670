#pragma once

#include <string>

namespace edgecompile {

// What an operation came to. The code is stable and kebab-case: whoever started the runner reads it.
struct Status {
  std::string code;  // empty: all went well
  std::string message;

  bool ok() const { return code.empty(); }
};

}  // namespace edgecompile

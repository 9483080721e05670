#pragma once

#include <string>

#include "status.h"

namespace edgecompile {

// The SHA-256 of a file in lower-case hexadecimal (FIPS 180-4). Code: "model-unreadable".
Status sha256_of_file(const std::string& path, std::string& hexadecimal);

}  // namespace edgecompile

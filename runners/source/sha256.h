#pragma once

#include <cstddef>
#include <string>

#include "status.h"

namespace edgecompile {

// The SHA-256 of a file in lower-case hexadecimal (FIPS 180-4). Code: "model-unreadable".
Status sha256_of_file(const std::string& path, std::string& hexadecimal);

// The same of memory.
std::string sha256_of(const void* data, size_t size);

}  // namespace edgecompile

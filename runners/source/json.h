#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace edgecompile::json {

inline std::string text(const std::string& value) {
  std::string quoted = "\"";
  for (const char character : value) {
    if (character == '"' || character == '\\') {
      quoted += '\\';
      quoted += character;
    } else if (static_cast<unsigned char>(character) < 0x20 || static_cast<unsigned char>(character) > 0x7e) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned char>(character));
      quoted += escaped;  // bytes above ASCII are read as Latin-1, so that any bytes give valid JSON
    } else {
      quoted += character;
    }
  }
  return quoted + '"';
}

// JSON has neither NaN nor infinity: null stands for them.
inline std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  return digits;
}

template <typename Items, typename Write>
std::string array(const Items& items, Write write) {
  std::string joined;
  for (const auto& item : items) joined += (joined.empty() ? "" : ", ") + write(item);
  return "[" + joined + "]";
}

// An object, written member by member.
class Object {
 public:
  Object& member(const std::string& name, const std::string& json) {
    members_ += (members_.empty() ? "" : ", ") + text(name) + ": " + json;
    return *this;
  }

  std::string end() const { return "{" + members_ + "}"; }

 private:
  std::string members_;
};

}  // namespace edgecompile::json

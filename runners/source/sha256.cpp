#include "sha256.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>

namespace edgecompile {
namespace {

constexpr std::array<uint32_t, 64> round_constants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr size_t block_bytes = 64;

uint32_t rotated(uint32_t value, int bits) { return (value >> bits) | (value << (32 - bits)); }

class Sha256 {
 public:
  void update(const char* data, size_t size) {
    total_bytes_ += size;
    while (size > 0) {
      const size_t part = std::min(size, block_bytes - filled_);
      std::memcpy(block_.data() + filled_, data, part);
      filled_ += part;
      data += part;
      size -= part;
      if (filled_ == block_bytes) compress();
    }
  }

  std::string finish() {
    const uint64_t total_bits = total_bytes_ * 8;
    const char one = static_cast<char>(0x80), zero = 0;
    update(&one, 1);
    while (filled_ != block_bytes - 8) update(&zero, 1);
    for (int shift = 56; shift >= 0; shift -= 8) {
      const char byte = static_cast<char>(total_bits >> shift);
      update(&byte, 1);
    }
    std::string text;
    for (const uint32_t word : state_) {
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15];
    }
    return text;
  }

 private:
  void compress() {
    std::array<uint32_t, 64> words;
    for (size_t i = 0; i < 16; ++i) {
      const uint8_t* byte = block_.data() + 4 * i;
      words[i] = uint32_t{byte[0]} << 24 | uint32_t{byte[1]} << 16 | uint32_t{byte[2]} << 8 | byte[3];
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t a = words[i - 15], b = words[i - 2];
      words[i] = words[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ (a >> 3)) + words[i - 7] +
                 (rotated(b, 17) ^ rotated(b, 19) ^ (b >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                             round_constants[i] + words[i];
      const uint32_t second =
          (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::array<uint32_t, 8> added = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state_[i] += added[i];
    filled_ = 0;
  }

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, block_bytes> block_;
  size_t filled_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace

std::string sha256_of(const void* data, size_t size) {
  Sha256 hash;
  hash.update(static_cast<const char*>(data), size);
  return hash.finish();
}

Status sha256_of_file(const std::string& path, std::string& hexadecimal) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return {"model-unreadable", "cannot open '" + path + "'"};
  Sha256 hash;
  std::array<char, 1 << 16> part;
  while (file.read(part.data(), part.size()) || file.gcount() > 0) {
    hash.update(part.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad() || !file.eof()) return {"model-unreadable", "cannot read '" + path + "'"};
  hexadecimal = hash.finish();
  return {};
}

}  // namespace edgecompile

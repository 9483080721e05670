#!/usr/bin/env bash
# Compiles two real models for android-arm64 in every format, validates and shows them.
# `make demo` calls it with edgecompile on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
  printf '\n$ %s\n' "$*"
  "$@"
}

for model in mobilenet_v2 digits; do
  source=examples/$model.py
  step edgecompile build "$source:model" --target android-arm64 \
    --calibration "$source:calibration" --evaluation "$source:evaluation" --output "build/$model"
  step edgecompile validate "build/$model/android-arm64"
  step edgecompile inspect "build/$model/android-arm64"
  # The arm64 runner needs a cross compiler and QEMU: `make demo` installs both where it may.
  if command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-g++ >/dev/null; then
    step edgecompile validate "build/$model/android-arm64" --no-layers --on emulator --device pixel-6
  else
    printf '\n(no cross compiler or QEMU for arm64: the emulator is left out)\n'
  fi
done

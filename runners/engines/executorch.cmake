# A cross-compiling toolchain looks for packages in its own root only; this one lies elsewhere.
find_package(executorch REQUIRED CONFIG
  COMPONENTS kernels_optimized kernels_quantized backend_xnnpack threadpool etdump
  PATHS "${EDGECOMPILE_ENGINE_ROOT}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH
)
target_link_libraries(${runner} PRIVATE
  executorch::runtime
  executorch::kernels_optimized
  executorch::kernels_quantized
  executorch::backend_xnnpack
  executorch::threadpool
  executorch::etdump
)

# A cross-compiling toolchain looks for packages in its own root only; this one lies elsewhere.
find_package(executorch REQUIRED CONFIG
  COMPONENTS kernels_optimized kernels_quantized backend_xnnpack threadpool etdump
  PATHS "${EDGECOMPILE_ENGINE_ROOT}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH
)
# The package adds where it lies on this machine to each runner's run path, which a runner must not tell.
foreach(part runtime kernels_optimized kernels_quantized backend_xnnpack threadpool etdump)
  get_target_property(link_options executorch::${part} INTERFACE_LINK_OPTIONS)
  list(FILTER link_options EXCLUDE REGEX "^LINKER:-rpath,[^@]")
  set_target_properties(executorch::${part} PROPERTIES INTERFACE_LINK_OPTIONS "${link_options}")
endforeach()

target_link_libraries(${runner} PRIVATE
  executorch::runtime
  executorch::kernels_optimized
  executorch::kernels_quantized
  executorch::backend_xnnpack
  executorch::threadpool
  executorch::etdump
)

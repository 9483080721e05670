file(GLOB library
  "${EDGECOMPILE_ENGINE_ROOT}/capi/libonnxruntime.so.*"
  "${EDGECOMPILE_ENGINE_ROOT}/capi/libonnxruntime.*.dylib"
)
list(LENGTH library found)
if(NOT found EQUAL 1)
  message(FATAL_ERROR "expected one libonnxruntime in ${EDGECOMPILE_ENGINE_ROOT}/capi, found ${found}")
endif()
target_link_libraries(${runner} PRIVATE "${library}")

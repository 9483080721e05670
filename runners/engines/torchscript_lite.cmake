# The headers of PyTorch need C++20; the lite interpreter lives in the same library as all the rest.
target_compile_features(${runner} PRIVATE cxx_std_20)
target_include_directories(${runner} SYSTEM PRIVATE "${EDGECOMPILE_ENGINE_ROOT}/include")
target_link_directories(${runner} PRIVATE "${EDGECOMPILE_ENGINE_ROOT}/lib")
# Operators register themselves when the library is loaded: it must not be dropped as unused.
target_link_options(${runner} PRIVATE "LINKER:--no-as-needed")
target_link_libraries(${runner} PRIVATE torch_cpu c10)

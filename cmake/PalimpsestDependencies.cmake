# All third-party libraries: Debian packages, and libtorch from PyPI's wheel (see deploy/setup.sh).
find_package(Threads REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(GTest CONFIG REQUIRED)
find_package(benchmark CONFIG REQUIRED)
find_package(ICU REQUIRED COMPONENTS uc i18n data)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(HTTPLIB REQUIRED IMPORTED_TARGET cpp-httplib)

# libtorch: the wheel's own find_package asks for a whole CUDA toolkit, so the target is made here.
# Its include folder carries other versions of protobuf and fmt: never link it together with those in one
# target that includes them; `torch` is given only to targets that need it, and PRIVATE.
if(DEFINED ENV{PALIMPSEST_TORCH})
  set(_torch_default $ENV{PALIMPSEST_TORCH})
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(_torch_default $ENV{XDG_CACHE_HOME}/palimpsest/torch-2.11.0)
else()
  set(_torch_default $ENV{HOME}/.cache/palimpsest/torch-2.11.0)
endif()
set(PALIMPSEST_TORCH ${_torch_default} CACHE PATH "Folder with the unpacked torch wheel")
if(NOT EXISTS ${PALIMPSEST_TORCH}/torch/lib/libtorch_cpu.so)
  message(FATAL_ERROR "libtorch not found in PALIMPSEST_TORCH=${PALIMPSEST_TORCH}; run deploy/setup.sh")
endif()
add_library(palimpsest_torch INTERFACE)
target_include_directories(palimpsest_torch SYSTEM INTERFACE
  ${PALIMPSEST_TORCH}/torch/include ${PALIMPSEST_TORCH}/torch/include/torch/csrc/api/include)
target_link_directories(palimpsest_torch INTERFACE ${PALIMPSEST_TORCH}/torch/lib)
target_link_libraries(palimpsest_torch INTERFACE
  -Wl,--no-as-needed torch_cpu -Wl,--as-needed c10 -Wl,-rpath,${PALIMPSEST_TORCH}/torch/lib)
# at::parallel_for stands in a header: without this it is a plain loop. The threads are those of torch's own libgomp, which
# clang's code cannot call: what clang builds (the fuzzers) computes on one thread.
target_compile_options(palimpsest_torch INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fopenmp>)
target_link_libraries(palimpsest_torch INTERFACE $<$<CXX_COMPILER_ID:GNU>:${PALIMPSEST_TORCH}/torch/lib/libgomp.so.1>)

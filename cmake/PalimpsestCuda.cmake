# Kernels for GPUs. Under the preset cuda nvcc compiles them; under every other one the C++ compiler does, over the
# emulation of common/cuda, so that their tests run on machines without a GPU and without CUDA.
option(PALIMPSEST_CUDA "Compile kernels by nvcc" OFF)

if(PALIMPSEST_CUDA)
  find_program(PALIMPSEST_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(NOT PALIMPSEST_NVCC)
    message(FATAL_ERROR "the preset cuda needs nvcc of CUDA 13 (in PATH, CUDA_HOME or /usr/local/cuda) and found none; the other presets need no CUDA")
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${PALIMPSEST_NVCC})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # named in palimpsest_cuda_library
  enable_language(CUDA)
  # CMake 3.25.1 does not know that nvcc speaks C++20.
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  find_package(CUDAToolkit REQUIRED)
endif()

# palimpsest_cuda_library(NAME SRCS .. [DEPS ..]): kernels of one room.
function(palimpsest_cuda_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(PALIMPSEST_CUDA)
    add_library(${name} STATIC ${ARG_SRCS})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
      -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -Werror=all-warnings -Xptxas=-v>)
    target_link_libraries(${name} PUBLIC common_cuda ${ARG_DEPS})
  else()
    set_source_files_properties(${ARG_SRCS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-Wno-unknown-pragmas")
    palimpsest_library(${name} APART SRCS ${ARG_SRCS} DEPS common_cuda ${ARG_DEPS})
  endif()
endfunction()

# palimpsest_cuda_binary(NAME SRCS .. DEPS ..): needs nothing but glibc and the driver, so that it can be carried to a machine
# with a GPU. The preset cuda only.
function(palimpsest_cuda_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE palimpsest_options gpu_testing ${ARG_DEPS} -static-libstdc++ -static-libgcc)
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX EXCLUDE_FROM_ALL ON)
endfunction()

# palimpsest_cuda_test(NAME SRCS .. DEPS ..): tests of kernels: on a GPU under the preset cuda, else emulated.
function(palimpsest_cuda_test name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(PALIMPSEST_CUDA)
    palimpsest_cuda_binary(${name} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gtest GTest::gtest_main)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS gpu)
  elseif(NOT PALIMPSEST_SANITIZE)  # the sanitizers do not follow fibers
    palimpsest_test(${name} APART SRCS ${ARG_SRCS} DEPS gpu_testing ${ARG_DEPS} LABELS emulated TIMEOUT 300)
  endif()
endfunction()

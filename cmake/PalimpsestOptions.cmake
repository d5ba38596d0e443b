# Language, warnings and sanitizers: one INTERFACE target that every own target links privately.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

set(PALIMPSEST_SANITIZE "" CACHE STRING "Sanitizers to build with: empty, address,undefined or thread")
set(PALIMPSEST_MARCH "x86-64-v3" CACHE STRING "Value of -march; empty for the compiler's default")

option(PALIMPSEST_TOGETHER "Compile files of a target ten at a time, and without ccache" OFF)
find_program(PALIMPSEST_CCACHE ccache)
if(PALIMPSEST_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER AND NOT PALIMPSEST_TOGETHER)
  # A base folder and no folder hash: every checkout of the project shares one cache.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${PALIMPSEST_CCACHE})
endif()
find_program(PALIMPSEST_LLD ld.lld)
if(PALIMPSEST_LLD)
  add_link_options(-fuse-ld=lld)
endif()

add_library(palimpsest_options INTERFACE)
target_compile_options(palimpsest_options INTERFACE
  -Wall -Wextra -Wno-missing-field-initializers -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror)
if(PALIMPSEST_MARCH)
  # add_compile_options: one ABI and one floating-point contract for all targets.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-march=${PALIMPSEST_MARCH}> $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
endif()
if(PALIMPSEST_SANITIZE)
  # What a sanitizer inserts makes GCC 12 take sound optionals for uninitialized.
  add_compile_options(-fsanitize=${PALIMPSEST_SANITIZE} -fno-omit-frame-pointer $<$<CXX_COMPILER_ID:GNU>:-Wno-error=maybe-uninitialized>)
  add_link_options(-fsanitize=${PALIMPSEST_SANITIZE})
endif()

# palimpsest_add_rooms(FOLDER...): adds each folder that has a CMakeLists.txt.
function(palimpsest_add_rooms)
  foreach(room IN LISTS ARGN)
    if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${room}/CMakeLists.txt)
      add_subdirectory(${room})
    endif()
  endforeach()
endfunction()

# PALIMPSEST_TOGETHER: files of a target are compiled ten at a time, as one, so that the headers of others, most of what is compiled,
# are parsed a tenth as often. For builds from nothing (deploy/build.sh); where ccache has something to give it is off.
# APART keeps files of a target alone: private names of theirs are the same, or somebody links some of them only.
function(_palimpsest_together name apart)
  if(PALIMPSEST_TOGETHER AND NOT apart)
    set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 10)
    target_compile_options(${name} PRIVATE -Wno-subobject-linkage)  # a private name of a file is now one of a header
  endif()
endfunction()

# palimpsest_library(NAME [APART] SRCS .. [DEPS ..] [PRIVATE ..]): a static library of one room.
#   DEPS appear in our headers (PUBLIC); PRIVATE is what only the .cc files see (torch, yaml-cpp, ...).
# Includes are written from the repository root: #include "common/base/clock.h".
function(palimpsest_library name)
  cmake_parse_arguments(ARG "APART" "" "SRCS;DEPS;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE palimpsest_options ${ARG_PRIVATE})
  _palimpsest_together(${name} ${ARG_APART})
endfunction()

# palimpsest_binary(NAME SRCS .. DEPS ..)
function(palimpsest_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE palimpsest_options ${ARG_DEPS})
  palimpsest_visible_locks(${name})
endfunction()

# palimpsest_test(NAME [APART] SRCS .. DEPS .. [LABELS ..] [TIMEOUT s]): one gtest binary, registered with ctest as one test.
function(palimpsest_test name)
  cmake_parse_arguments(ARG "APART" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE palimpsest_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  palimpsest_visible_locks(${name})
  _palimpsest_together(${name} ${ARG_APART})
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    # Tests run side by side: threads that spin while they wait would starve each other.
    ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
  palimpsest_sanitized(${name} ${ARG_TIMEOUT} ${ARG_LABELS})
endfunction()

# palimpsest_long_test(NAME SECONDS COMMAND..): a test of `tests/run.sh --long` alone, killed after SECONDS. The lines
# that it prints with "long: " before it stand in docs/results/long.md.
function(palimpsest_long_test name seconds)
  add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds} LABELS long
    ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
endfunction()

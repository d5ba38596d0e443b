# cmake -DFILES="a;b" -DOUT=assets.cc -P embed.cmake: the files as a C++ source that defines Assets() of asset.h.
set(types html text/html css text/css js text/javascript)
set(arrays "")
set(rows "")
set(number 0)
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME)
  get_filename_component(extension ${file} LAST_EXT)
  string(SUBSTRING ${extension} 1 -1 extension)
  list(FIND types ${extension} place)
  math(EXPR place "${place} + 1")
  list(GET types ${place} type)
  if(name STREQUAL index.html)
    set(name "")
  endif()
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "constexpr unsigned char kFile${number}[] = {${bytes}};\n")
  string(APPEND rows "    {\"/${name}\", \"${type}; charset=utf-8\", Text(kFile${number})},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUT} "#include \"services/orchestrator/web/asset.h\"

namespace palimpsest::orchestrator {
namespace {

${arrays}
template <std::size_t n>
std::string_view Text(const unsigned char (&bytes)[n]) {
  return {reinterpret_cast<const char*>(bytes), n};
}

}  // namespace

std::span<const Asset> Assets() {
  static const Asset kAssets[] = {
${rows}  };
  return kAssets;
}

}  // namespace palimpsest::orchestrator
")

# Sourced from the repository's root by the scripts that need a build: defines build_release [TARGET..].

# One job per core, and 2 GB of memory for each: files that include torch take up to that.
build_jobs() {
  local cores memory_gb by_memory
  cores=$(nproc)
  memory_gb=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
  by_memory=$((memory_gb / 2))
  [ "$by_memory" -ge 1 ] || by_memory=1
  if [ "$by_memory" -lt "$cores" ]; then echo "$by_memory"; else echo "$cores"; fi
}

# Whether ccache holds more than a few builds of single files leave there.
cache_is_warm() {
  [ -z "${CCACHE_DISABLE:-}" ] && [ "$(ccache --print-stats | awk '$1 == "files_in_cache" {print $2}')" -gt 300 ]
}

# Without arguments: everything, tests included. What a folder was built with is kept; a new one is built from nothing at once
# (PALIMPSEST_TOGETHER, which fills no cache) or with what ccache has.
build_release() {
  deploy/setup.sh
  if [ -f build/release/CMakeCache.txt ] || cache_is_warm; then
    cmake --preset release
  else
    cmake --preset release -DPALIMPSEST_TOGETHER=ON
  fi
  if [ $# -gt 0 ]; then
    cmake --build build/release -j "$(build_jobs)" --target "$@"
  else
    cmake --build build/release -j "$(build_jobs)"
  fi
}

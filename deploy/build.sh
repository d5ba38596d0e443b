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

# Without arguments: everything, tests included.
build_release() {
  deploy/setup.sh
  cmake --preset release
  if [ $# -gt 0 ]; then
    cmake --build build/release -j "$(build_jobs)" --target "$@"
  else
    cmake --build build/release -j "$(build_jobs)"
  fi
}

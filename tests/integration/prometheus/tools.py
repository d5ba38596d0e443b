"""Where prometheus and promtool are: in PATH, or where `deploy/setup.sh --prometheus` puts them."""
import os
import pathlib
import shutil
import sys

SKIPPED = 77  # what ctest takes for "not run"


def find(name):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folders = os.pathsep.join([os.environ.get("PATH", ""), str(cache / "palimpsest/prometheus/usr/bin")])
    found = shutil.which(name, path=folders)
    if found is None:
        print(f"SKIPPED: there is no {name}, so this was not tested; `deploy/setup.sh --prometheus` brings it")
        sys.exit(SKIPPED)
    return found

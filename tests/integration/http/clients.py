"""Goes on in the Python environment that `deploy/setup.sh --python-clients` makes."""
import hashlib
import os
import pathlib
import sys

SKIPPED = 77  # what ctest takes for "not run"


def enter():
    """Starts this script again there, once. Ends it as skipped where there is no such environment."""
    name = "clients-" + hashlib.sha256(pathlib.Path("deploy/clients.txt").read_bytes()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "palimpsest" / name
    if pathlib.Path(sys.prefix) == folder:
        return
    python = folder / "bin/python"
    if not python.exists():
        print(f"SKIPPED: there is no {folder}, so this was not tested; `deploy/setup.sh --python-clients` brings it")
        sys.exit(SKIPPED)
    os.execv(python, [python, *sys.argv])

"""python -m palimpsest_env MODULE OPTIONS: serves what MODULE.environments(**OPTIONS) gives, over descriptor 3.

MODULE is a name or a path that ends with .py; OPTIONS a JSON object of texts. palimpsest-env starts this.
"""
import importlib
import importlib.util
import json
import os
import pathlib
import socket
import sys

from palimpsest_env.worker import Tasks, serve

CHANNEL = 3  # a Unix socket that is already connected


def load(name: str):
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = pathlib.Path(name).resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main(module: str, options: str) -> None:
    channel = socket.socket(fileno=os.dup(CHANNEL))
    os.close(CHANNEL)  # the copy is not inherited by what an environment starts
    serve(Tasks(load(module).environments(**json.loads(options))), channel.makefile("rwb"))


main(*sys.argv[1:])

"""The program of a llama.cpp server: a process of its own, which ends when its standard input does.

`lms.llama` starts it by this file's path. It reads settings (JSON) from its first line of input and writes one line:
the address it listens on, always 127.0.0.1 and a free port. A model that cannot be loaded ends it with exit code 1;
llama.cpp's own words are on its standard error. It imports nothing of this package.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def start(settings: Mapping[str, Any]) -> Any:
    """Load a model and listen; the server stops when it is deleted.

    Args:
        settings: model (a path), name (what it is called over HTTP), key, n_ctx (tokens of each slot), slots,
            n_threads, cache_mib (memory for prompts that no slot holds any more) and verbosity (1 to 4).

    Raises:
        RuntimeError: the model cannot be loaded.
    """
    xllamacpp: Any = import_module("xllamacpp")  # compiled and untyped
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = [settings["name"]]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [settings["key"]]
    params.endpoint_slots = params.ui = False
    params.offline = True
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["n_ctx"] * settings["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["n_threads"]
    params.cache_ram_mib = settings["cache_mib"]
    params.warmup = False
    params.verbosity = settings["verbosity"]
    return xllamacpp.Server(params)


def main() -> None:
    """Serve until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    server = start(json.loads(sys.stdin.buffer.readline()))
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    # Not by way of the server's destructor: llama.cpp waits in it for answers that nobody wants any more.
    os._exit(0)


if __name__ == "__main__":
    main()

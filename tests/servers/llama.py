"""llama.cpp's own HTTP server on loopback, with the tiny random model of `tiny_gguf`.

A real server: chat templates, JSON-schema decoding, logprobs, seeds. It runs in threads of this process, on
one core. Give every schema bounds and enums, and every request max_tokens: a random model does not stop
by itself. It knows nothing of answers that make sense; `openai_mock` gives those.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.servers.tiny_gguf import write_tiny_gguf

MODEL_NAME = "tiny"
"""The model id the server answers to."""


@contextmanager
def llama_server(folder: Path, *, n_slots: int = 4) -> Iterator[str]:
    """Serve the tiny model, written into `folder`; yields the base URL, ending in /v1.

    Args:
        folder: an existing directory for the model file (about 0.5 MB).
        n_slots: requests decoded at the same time; each slot holds 4,096 tokens.
    """
    xllamacpp: Any = import_module("xllamacpp")  # compiled and untyped
    model = write_tiny_gguf(folder / f"{MODEL_NAME}.gguf")
    server = xllamacpp.Server(_settings(xllamacpp.CommonParams(), model, n_slots))
    try:
        yield f"{server.listening_address}/v1"
    finally:
        # The wheel has no stop(): the destructor joins the server's threads and closes the port.
        del server
        gc.collect()


def _settings(settings: Any, model: Path, n_slots: int) -> Any:
    settings.model.path = str(model)
    settings.model_alias = [MODEL_NAME]
    settings.hostnames = ["127.0.0.1"]
    settings.port = 0
    settings.n_parallel = n_slots
    settings.n_ctx = 4096 * n_slots
    settings.cpuparams.n_threads = 1
    settings.cpuparams_batch.n_threads = 1
    settings.n_gpu_layers = 0
    settings.offline = True
    settings.warmup = False
    settings.ui = False
    settings.verbosity = 0
    return settings

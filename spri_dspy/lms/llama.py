"""A GGUF file as an LM: llama.cpp's own server on this machine, one for all roles that name the same file.

    gguf/models/smollm2.gguf?n_ctx=8192&n_threads=4&slots=2     (or the file's path alone, if it ends in .gguf)

The server is started by the first call, on a free port of 127.0.0.1, with a key that only this process knows. It is a
process of its own that ends with this one, however that ends: inside this one, llama.cpp deadlocks or crashes when it
is stopped while it answers. Forked children share it.

Answers are held to a JSON schema unless `format` says otherwise: small models lose themselves in a frame of headings
and never come to the score, and a schema leaves them nothing else to write. Prompts of one stage begin alike, so the
calls of a stage go to the slots that know that beginning (`Slots`); prompts that fell out of their slot wait in memory.
It knows files, processes and requests; it knows no prompt and no task.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dspy.lm15 import (
    AccessPolicy,
    EndpointSupport,
    InvalidRequestError,
    OpenAIChatCompat,
    ProviderDefinition,
    Request,
    Response,
    RouterConfig,
)

from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.gguf import read_gguf
from spri_dspy.lms.native import MOST_CONNECTIONS, AsyncNativeEngine, NativeEngine, Route
from spri_dspy.lms.spec import CALL, DEFAULTS, LMSpec

logger = logging.getLogger(__name__)

N_CTX = 8192
"""Tokens of a prompt and its answer together, unless the string states them or the model was trained on fewer."""

SLOTS = 4
"""Calls that are answered at the same time."""

TIMEOUT = 3600.0
"""Seconds for one answer: on a CPU it may take long, and a server on this machine does not lose calls."""

CACHE_MIB = 2048
"""Memory for the state of prompts that no slot holds any more."""

_PROVIDER, _MODEL = "llama-cpp", "model"
_SAMPLING = ("temperature", "max_tokens", "top_p", "seed", "presence_penalty", "frequency_penalty")
_EXTRA = {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}
_CAPABILITIES = {
    "supports_function_calling": False,
    "supports_reasoning": False,
    "supports_response_schema": True,
    "supported_params": {*_SAMPLING, "stop", "response_format", "logprobs", "top_logprobs"},
}


@dataclass(frozen=True)
class Settings:
    """What makes two LMs share a server; see `llama_server.start`."""

    model: str
    n_ctx: int
    n_threads: int
    slots: int


def llama_lm(spec: LMSpec) -> ScopedLM:
    """The LM of a GGUF file. Its header is read; the server starts with the first call.

    Raises:
        UsageError: the file is missing, damaged or no model that answers, or was trained on fewer tokens than n_ctx.
        PrerequisiteError: xllamacpp is not installed.
    """
    path = spec.path
    model = read_gguf(path)
    if model.unfit:
        raise UsageError(f"{path} cannot answer: {model.unfit}")
    if find_spec("xllamacpp") is None:
        raise PrerequisiteError(f'{spec.model} needs llama.cpp: pip install "spri-dspy[local]"')
    trained = model.context_tokens or N_CTX
    n_ctx = spec.options.get("n_ctx", min(N_CTX, trained))
    if model.context_tokens and n_ctx > model.context_tokens:
        raise UsageError(
            f"n_ctx={n_ctx} is more than the {model.context_tokens} tokens that {path} was trained on"
        )
    settings = Settings(
        str(path.absolute()),
        n_ctx,
        spec.options.get("n_threads", available_cores()),
        spec.options.get("slots", SLOTS),
    )
    extra = {name: spec.options[option] for option, name in _EXTRA.items() if option in spec.options}
    timeout = spec.options.get("timeout", TIMEOUT)
    connection = {
        "max_connections": MOST_CONNECTIONS,
        "pool_timeout": None,
        "trust_env": False,
        "read_timeout": timeout,
    }
    route = LlamaRoute(
        _PROVIDER, _MODEL, RouterConfig(), connection, str(spec), settings, extra, model.context_tokens
    )
    sampling = {k: v for k, v in {**DEFAULTS, **spec.options}.items() if k in _SAMPLING}
    lm = ScopedLM(
        spec.model,
        engine=LlamaEngine(route, _CAPABILITIES),
        async_engine=AsyncLlamaEngine(route, _CAPABILITIES),
        cache=False,
        num_retries=0,
        **sampling,
    )
    lm.timeout, lm.most_calls = timeout, settings.slots
    return lm


def available_cores() -> int:
    """Physical cores that this process may use: two threads of one core do not compute faster than one."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set[str]()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        with suppress(OSError):
            cores.add(siblings.read_text())
    with suppress(OSError, ValueError):  # a container's share; "max" is no number
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(len(cores) or 1, int(quota) // int(period)))
    return len(cores) or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class LlamaRoute(Route):
    """The way to a server that may not have been started yet.

    Attributes:
        settings: of the server.
        extra: options that llama.cpp knows and DSPy's client does not.
        trained_on: tokens that the model was trained on at most, None where its file does not say.
    """

    settings: Settings
    extra: Mapping[str, Any]
    trained_on: int | None

    def client(self, router: type[Any], transport: type[Any]) -> Any:
        """A client of the server, which is started if need be."""
        server = running(self.settings)
        access = AccessPolicy(
            provider=self.provider,
            supports=EndpointSupport(complete=True, stream=True),
            auth_modes=("bearer",),
            base_url=f"{server.ready.result()}/v1",
        )
        definition = ProviderDefinition.chat(
            access, compat=OpenAIChatCompat.preset("vllm"), placeholder_key=server.key
        )
        config = RouterConfig(env={}, providers=(definition,), transport=transport(**self.connection))
        return router(config).lm(f"{self.provider}:{self.model}")

    def to_wire(self, request: Request) -> Request:
        """The request with llama.cpp's own options."""
        slot = _SLOT.get()
        given = {} if slot is None else {"id_slot": slot}
        config = replace(
            request.config, extensions={**(request.config.extensions or {}), **self.extra, **given}
        )
        return replace(request, model=self.model, config=config)


_SLOT: ContextVar[int | None] = ContextVar("spri_llama_slot", default=None)
"""The slot of the call in progress; None lets llama.cpp choose the one that knows the most of its prompt."""

SPREAD_AFTER = 4
"""Calls of a stage for each slot that it may use: a new slot has to read the beginning that all its prompts share,
which takes about as long as a call. Left to itself, llama.cpp has every slot read it at the start."""


class Slots:
    """Which slot answers a call: one that knows the prompts of its stage.

    A stage has one slot at first, and one more for every SPREAD_AFTER calls, taken when its own are busy: a short run
    reads the beginning of its prompts once a stage, a long one uses all slots at the same time. Stages may share slots.

    Args:
        count: of slots.
    """

    def __init__(self, count: int) -> None:
        self._busy, self._of, self._made = [0] * count, dict[str, list[int]](), Counter[str]()
        self._lock = threading.Lock()

    @contextmanager
    def of(self, stage: str) -> Generator[int]:
        """The slot for a call of this stage, busy until the block ends."""
        with self._lock:
            own = self._of.setdefault(stage, [])
            others = [slot for slot in range(len(self._busy)) if slot not in own]
            may_grow = len(own) <= self._made[stage] // SPREAD_AFTER and all(self._busy[slot] for slot in own)
            if others and (not own or may_grow):
                taken = Counter(slot for slots in self._of.values() for slot in slots)
                own.append(min(others, key=lambda slot: (self._busy[slot], taken[slot], slot)))
            chosen = min(own, key=lambda slot: self._busy[slot])
            self._busy[chosen] += 1
            self._made[stage] += 1
        try:
            yield chosen
        finally:
            with self._lock:
                self._busy[chosen] -= 1


class _OneServer(NativeEngine):
    """What both engines do to reach the server that runs now."""

    _server: LlamaServer | None = None
    route: LlamaRoute

    def _connected(self) -> Any:
        server = running(self.route.settings)
        if server is not self._server:  # the first, or the one before has ended
            self._client, self._clients, self._server = None, {}, server
        return super()._connected()

    @contextmanager
    def _prepared(self) -> Generator[None]:
        """The call in progress has its slot, and errors say what to do."""
        call, settings = CALL.get(), self.route.settings
        with ExitStack() as stack:
            if call is not None and call.stage:
                slots = _slots.setdefault(settings, Slots(settings.slots))
                token = _SLOT.set(stack.enter_context(slots.of(call.stage)))
                stack.callback(_SLOT.reset, token)
            with self._clear_errors():
                yield

    @contextmanager
    def _clear_errors(self) -> Generator[None]:
        try:
            yield
        except InvalidRequestError as error:
            found = _OVERFLOW.search(str(error))
            if found is None:
                raise
            needed, n_ctx = (int(number) for number in found.groups())
            # Room for an answer, in steps that are easy to type.
            better, trained = -(-needed // 1024) * 1024 + 1024, self.route.trained_on
            mend = f"write n_ctx={better} into the LM string {self.route.lm_string}"
            if trained is not None and better > trained:
                mend = f"the model was trained on {trained} at most, so take another one"
            raise CallError(
                f"the prompt has {needed} tokens and n_ctx is {n_ctx}: {mend}, or show fewer seeds"
            ) from error


_OVERFLOW = re.compile(r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)")


class LlamaEngine(_OneServer):
    """Answers requests through the server, one attempt each."""

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        with self._prepared():
            return super().complete(request)


class AsyncLlamaEngine(_OneServer, AsyncNativeEngine):
    """The same without blocking, the start of the server included."""

    _is_short = False

    async def complete(self, request: Request) -> Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer one request."""
        await asyncio.shield(asyncio.wrap_future(running(self.route.settings).ready))
        with self._prepared():
            return await AsyncNativeEngine.complete(self, request)


_ERROR = re.compile(r"[\d.]+ E ")
"""How llama.cpp's log marks an error, behind the time."""


class LlamaServer:
    """A llama.cpp server, being started.

    Attributes:
        key: what its clients show.
        ready: its address, once the model is loaded; a UsageError if that fails.
    """

    def __init__(self, settings: Settings) -> None:
        self.key, self.ready = secrets.token_urlsafe(24), Future[str]()
        self._model, self._owner = settings.model, os.getpid()
        self._errors = deque[str](maxlen=20)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("llama_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )
        told = {**asdict(settings), "name": _MODEL, "key": self.key, "cache_mib": CACHE_MIB}
        told["verbosity"] = 3 if logger.isEnabledFor(logging.DEBUG) else 1
        assert self._process.stdin
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        self._process.stdin.flush()
        threading.Thread(target=self._listen, name="llama.cpp", daemon=True).start()

    def _listen(self) -> None:
        """Wait for the address, then take down what the process writes until it ends."""
        assert self._process.stdout
        assert self._process.stderr
        address = self._process.stdout.readline().decode().strip()
        if address:
            self.ready.set_result(address)
        for line in self._process.stderr:
            said = line.decode(errors="replace").strip()
            logger.debug("llama.cpp: %s", said)
            if _ERROR.match(said):
                self._errors.append(_ERROR.sub("", said))
        if not address:
            self._process.wait()
            self.ready.set_exception(UsageError(f"llama.cpp cannot load {self._model}: {self.last_words}"))

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone. A forked child cannot tell, and takes it for running."""
        return os.getpid() == self._owner and self._process.poll() is not None

    @property
    def last_words(self) -> str:
        """The first of the errors that its process wrote lately, and how it ended."""
        code = self._process.poll() or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{self._errors[0] if self._errors else 'it gave no reason'} ({how})"

    def stop(self) -> None:
        """End its process, if this one started it."""
        if os.getpid() == self._owner:
            with self._process:
                self._process.kill()


_servers: dict[Settings, LlamaServer] = {}
_slots: dict[Settings, Slots] = {}
_starting = threading.Lock()


def running(settings: Settings) -> LlamaServer:
    """The server with these settings: the one that runs, else a new one, whose model is being loaded."""
    with _starting:
        server = _servers.get(settings)
        if server is not None and server.has_ended:
            if not server.ready.exception():
                logger.warning("llama.cpp has ended and is started again: %s", server.last_words)
            server.stop()
            server = None
        if server is None:
            server = _servers[settings] = LlamaServer(settings)
        return server


@atexit.register
def _stop_all() -> None:
    for server in _servers.values():
        server.stop()
    _servers.clear()

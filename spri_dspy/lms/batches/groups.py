"""Which batches the calls of an LM go into: one model at one address with one key is a group, and has one batch API.

Address and key are those of the LM that the user names, or the address is that of `--batch`. A run directory may be
somebody else's: what it says of a batch is compared with these, and never decides where a key goes.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from spri_dspy.lms.batches.anthropic_api import AnthropicAPI
from spri_dspy.lms.batches.api import BatchAPI
from spri_dspy.lms.batches.settings import BatchSettings, Target
from spri_dspy.lms.batches.store import Batch
from spri_dspy.lms.native import AsyncNativeEngine
from spri_dspy.lms.scope import POST, Scope, use_scope

_APIS = {"openai": BatchAPI, "anthropic": AnthropicAPI}


class Group(NamedTuple):
    """Calls that may be in one batch.

    Attributes:
        name: the same for the same model, address, key and batch API in every process.
        api: where its batches go.
        about: what its batches are told of themselves, see `store.Batch`.
    """

    name: str
    api: BatchAPI
    about: dict[str, Any]


def group_of(lm: Any, request: Any, target: Target) -> Group:
    """The group of an LM's calls.

    Args:
        lm: which is asked.
        request: one of its own, as its client sends it: with its address, its key and other headers.
        target: where its batches go.
    """
    what = f"{lm.spec.model} {lm.spec.options.get('key_env')} {request.url} {target}"
    name = hashlib.sha256(what.encode()).hexdigest()[:12]
    kept = {k: v for k, v in request.headers if k.lower() not in ("content-type", "content-length")}
    api = _APIS[target.dialect]((target.url or _base(request)).rstrip("/"), kept)
    about = {"dialect": target.dialect, "url": target.url, "model": lm.spec.model, "group": name}
    return Group(name, api, {**about, "endpoint": _endpoint(request)})


def group_of_batch(batch: Batch, lm: Any, request: Any, settings: BatchSettings | None) -> Group | None:
    """The group that a batch of an earlier start is of, None if its calls are not this LM's, or it is elsewhere.

    Args:
        batch: as the run directory has it.
        lm: one that the user names.
        request: one of its own.
        settings: of `--batch`. Without it a batch is known that is at the LM's own address.
    """
    if batch.model != lm.spec.model:
        return None
    if settings is not None:
        target = settings.target_of(lm.spec)
    elif batch.url is None or batch.url.rstrip("/") == _base(request).rstrip("/"):
        target = Target(batch.dialect, batch.url)
    else:
        return None
    group = group_of(lm, request, target)
    return group if group.name == batch.group else None


async def request_of(lm: Any) -> Any:
    """A request of an LM as its client would send it; nothing is sent. None of an LM that no batch carries."""
    seen: list[Any] = []

    async def keep(request: Any) -> tuple[int, bytes]:
        seen.append(request)
        return 400, b"{}"

    if not isinstance(getattr(lm, "_async_engine_spec", None), AsyncNativeEngine):
        return None
    token = POST.set(keep)
    try:
        with use_scope(Scope()), contextlib.suppress(Exception):  # the refusal that `keep` answers
            await lm._ask(None, [{"role": "user", "content": "?"}], {})
    finally:
        POST.reset(token)
    return seen[0] if seen else None


def _base(request: Any) -> str:
    """The address that an LM's paths begin behind, such as http://HOST/v1."""
    return request.url[: request.url.rindex(_endpoint(request)[3:])]


def _endpoint(request: Any) -> str:
    """The path of a request as the file of a batch names it: /v1/chat/completions, wherever the server has it."""
    path = urlsplit(request.url).path.rstrip("/")
    known = ("/chat/completions", "/responses", "/messages")
    return "/v1" + next((end for end in known if path.endswith(end)), f"/{path.rpartition('/')[2]}")

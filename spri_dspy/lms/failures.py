"""What a failed call means: try again, stop the run, or fail this one example."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from dspy.utils.exceptions import (
    LMError,
    LMProviderError,
    LMStreamAssemblyError,
    LMUnexpectedError,
    is_retryable_lm_error,
)

from spri_dspy.errors import PrerequisiteError, SpriError

Failure = Literal["transient", "fatal", "call"]

_FATAL = {
    "LMAuthError",
    "LMBillingError",
    "LMNotConfiguredError",
    "LMConfigurationError",
    "LMUnsupportedModelError",
}


def failure_kind(error: BaseException) -> Failure:
    """What a failed call means: try again, stop the run, or fail this one example.

    A server that answers 404, or a client error about the model, will do so for every example, so it is fatal;
    a body that makes no sense, or a stream without its end, may be a broken proxy, so it is transient.
    """
    if isinstance(error, TimeoutError):
        return "transient"
    if isinstance(error, PrerequisiteError):
        return "fatal"
    if not isinstance(error, LMError):
        return "call"
    if type(error).__name__ in _FATAL or getattr(error, "status", None) in (401, 403, 404):
        return "fatal"
    may_pass = (LMUnexpectedError, LMProviderError, LMStreamAssemblyError)
    if is_retryable_lm_error(error) or type(error) in may_pass:
        return "transient"
    return "call"


def no_connection(error: BaseException) -> str | None:
    """Why no connection came about (refused, no such host, no TLS); None if one did, or the failure is another."""
    found = None
    for each in chain(error):
        if any(kind.__name__ == "ConnectError" for kind in type(each).__mro__):  # lm15's, and that of httpx
            found = str(each)
        if (
            found and isinstance(each, OSError) and each.strerror
        ):  # asyncio words its own: the system's are known
            found = os.strerror(each.errno) if each.errno and each.errno > 0 else each.strerror
    return found


def name_model(error: Exception, name: str) -> None:
    """Let an LM's error say the model as the user wrote it; LiteLLM is told another name of a server of one's own."""
    if isinstance(error, LMError) and error.model not in (None, name):
        error.args = (str(error).replace(f"[{error.model}]", f"[{name}]", 1),)
        error.model = name


def own_error(error: BaseException | None) -> SpriError | None:
    """The error of ours that an engine or a client wrapped, if there is one."""
    return next((each for each in chain(error) if isinstance(each, SpriError)), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__

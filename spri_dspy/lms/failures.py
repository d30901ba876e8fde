"""What a failed call means: try again, stop the run, or fail this one example."""

from __future__ import annotations

from typing import Literal

from dspy.utils.exceptions import (
    LMError,
    LMProviderError,
    LMStreamAssemblyError,
    LMUnexpectedError,
    is_retryable_lm_error,
)

from spri_dspy.errors import SpriError

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
    if not isinstance(error, LMError):
        return "call"
    if type(error).__name__ in _FATAL or getattr(error, "status", None) in (401, 403, 404):
        return "fatal"
    may_pass = (LMUnexpectedError, LMProviderError, LMStreamAssemblyError)
    if is_retryable_lm_error(error) or type(error) in may_pass:
        return "transient"
    return "call"


def name_model(error: Exception, name: str) -> None:
    """Let an LM's error say the model as the user wrote it; LiteLLM is told another name of a server of one's own."""
    if isinstance(error, LMError) and error.model not in (None, name):
        error.args = (str(error).replace(f"[{error.model}]", f"[{name}]", 1),)
        error.model = name


def own_error(error: BaseException | None) -> SpriError | None:
    """The error of ours that an engine or a client wrapped, if there is one."""
    for _ in range(20):
        if error is None or isinstance(error, SpriError):
            return error
        error = error.__cause__ or error.__context__
    return None

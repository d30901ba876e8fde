"""The calls that a run kept: prompt and answer of each, as they went over the line. It knows calls.jsonl and rich."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError
from spri_dspy.report.terminal import as_text, block
from spri_dspy.runs import CALLS, RunDir
from spri_dspy.strict_json import from_text

if TYPE_CHECKING:
    from rich.console import RenderableType


def kept_calls(run: RunDir, example_id: str | None = None) -> Iterator[dict[str, Any]]:
    """The calls of an example, or all, in the order in which they ended; a line that cannot be read is passed over.

    Raises:
        DataError: the run kept none, or none of this example.
    """
    path, found = run.path / CALLS, False
    if not path.is_file():
        raise DataError(f"{run.path} kept no calls; run it with --keep-calls to have them")
    with path.open("rb") as lines:
        for line in lines:
            try:
                call = from_text(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(call, dict) and example_id in (None, call.get("example")):
                found = True
                yield call
    if not found:
        of = "" if example_id is None else f" of {example_id!r}"
        raise DataError(
            f"{run.path} kept no call{of}: what finished before --keep-calls was given is not run again"
        )


def shown(call: Mapping[str, Any]) -> Iterator[RenderableType]:
    """One call: which it was, its messages, its answer, and what it took."""
    from rich.rule import Rule

    attempt = f", sample {call['attempt'] + 1}" if isinstance(call.get("attempt"), int) else ""
    title = f"{call.get('example') or ''} · {call.get('stage') or 'a call'}{attempt} · {call.get('lm') or ''}"
    yield Rule(as_text((title, "bold")))
    messages: Any = call.get("messages")
    for message in messages if isinstance(messages, list) else []:
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, dict) else ("", message)
        )
        yield block(str(role), content if isinstance(content, str) else json.dumps(content), "cyan")
    if call.get("error"):
        yield block("error", str(call["error"]), "red")
    if call.get("answer") is not None:
        yield block("answer", str(call["answer"]), "green")
    usage: Any = call.get("usage")
    used = usage if isinstance(usage, dict) else {}
    ended = f"ended by {call['finish_reason']} · " if call.get("finish_reason") else ""
    took = "from the cache" if call.get("cached") else f"{call.get('seconds')} s"
    tokens = f"{used.get('input_tokens', '?')} tokens in, {used.get('output_tokens', '?')} out"
    yield as_text((f"{ended}{tokens} · {took}", "dim"))

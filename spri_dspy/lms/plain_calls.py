"""Calls of plain text to a server of OpenAI's chat dialect, for little CPU time.

lm15 makes one request of an LM; in its body the messages are one piece, and all around it stays the same. Every
further request is that one with other messages: the bytes that lm15 would send. An answer that is a text, why it
ended and three counts of tokens is read here; any other one, and every error, is read by lm15. It knows requests and
answers of lm15; it knows no prompt, no retry and no limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson
from dspy._vendor.lm15.errors import ProviderError
from dspy._vendor.lm15.errors import TransportError as LM15TransportError
from dspy._vendor.lm15.providers.async_base import AsyncOpenAIChatLM
from dspy._vendor.lm15.providers.base import HttpResponse, _attach_error_metadata
from dspy._vendor.lm15.transports import TransportError
from dspy._vendor.lm15.transports._http11 import build_request_head
from dspy._vendor.lm15.transports._url import ParsedURL, parse_url
from dspy.lm15 import Message, Request, Response

from spri_dspy.lms.bodies import MAX_BODY, sound
from spri_dspy.lms.http_transport import Answer, Connections

_PROBE = [{"role": role, "content": f"the {role}'s"} for role in ("system", "user", "assistant", "user")]
_USER_AGENT = "lm15/stdlib"


class Said(NamedTuple):
    """What DSPy makes of an answer: its outputs, and its usage as DSPy's trackers take it."""

    outputs: list[Any]
    usage: dict[str, Any]
    finish_reason: str


@dataclass(frozen=True)
class PlainForm:
    """A request of lm15's without its messages.

    Attributes:
        url: where it goes.
        head: before and behind the length of the body.
        body: before and behind the messages.
        request: as lm15 has it, with messages that nobody sends.
    """

    url: ParsedURL
    head: tuple[bytes, bytes]
    body: tuple[bytes, bytes]
    request: Request

    @classmethod
    def of(cls, client: Any, request: Request) -> PlainForm | None:
        """The form of a client's requests.

        Args:
            client: lm15's, of one provider.
            request: with the settings of the calls.

        Returns:
            None where requests are more than a form: another dialect, a key that changes, settings that lm15 adapts.
        """
        if type(client) is not AsyncOpenAIChatLM or callable(client._inner.api_key):
            return None
        system, *turns = _PROBE
        said = {"user": Message.user, "assistant": Message.assistant}
        messages = tuple(said[turn["role"]](turn["content"]) for turn in turns)
        probe = replace(request, system=system["content"], messages=messages)
        made, adaptations = client._inner._build(probe, stream=False, policy=client.adaptations)
        before, found, after = made.body.partition(orjson.dumps(_PROBE))
        if adaptations or not found or request.config.response_format:
            return None
        url = parse_url(made.url)
        head = build_request_head(
            method=made.method,
            target=url.target,
            host=url.host,
            port=url.port,
            is_tls=url.is_tls,
            headers=made.headers,
            body_length=0,
            user_agent=_USER_AGENT,
        )
        first, length, last = head.partition(b"\r\nContent-Length: 0\r\n")
        return cls(url, (first, last), (before, after), request) if length else None

    def to_wire(self, messages: Sequence[Mapping[str, Any]]) -> bytes:
        """The request with these messages, of roles and texts, in that order."""
        said = orjson.dumps(messages)
        (first, last), (before, after) = self.head, self.body
        length = b"%d" % (len(before) + len(said) + len(after))
        return b"".join((first, b"\r\nContent-Length: ", length, b"\r\n", last, before, said, after))

    async def ask(
        self,
        client: Any,
        connections: Connections,
        messages: Sequence[Mapping[str, Any]],
        timeout: float | None = None,
    ) -> Said | Response:
        """Send messages and read the answer.

        Raises:
            TimeoutError: there was none within so many seconds.
            LM15Error: as lm15 says what went wrong.
            CallError, UsageError: see `Connections.post`.
        """
        try:
            answer = await connections.post(self.to_wire(messages), MAX_BODY.get(), timeout)
        except TransportError as error:
            raise LM15TransportError(str(error)) from error
        said = _plain(answer.body) if answer.status == 200 else None
        return _by_lm15(client, self.request, answer) if said is None else said


def _by_lm15(client: Any, request: Request, answer: Answer) -> Response:
    """What lm15 makes of an answer."""
    inner, head, status, body = client._inner, answer.head, answer.status, answer.body
    headers, version, reason = head.headers, head.http_version, head.reason
    if not any(name.lower() == "content-type" and "text/event-stream" in said for name, said in headers):
        status, body = sound(status, body)
    response = HttpResponse(status, reason, headers, body, version, client.provider)
    if status >= 400:
        raise inner._http_error(response)
    try:
        return inner._finish_response(request, inner.parse_response(request, response), ())
    except ProviderError as error:
        _attach_error_metadata(error, headers)
        raise


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_USAGE, _MESSAGE = frozenset(_COUNTS), frozenset(("role", "content"))


def _says_no_more(part: Mapping[str, Any], known: Set[str]) -> bool:
    return part.keys() == known or not any(value for name, value in part.items() if name not in known)


def _plain(body: bytes) -> Said | None:
    """An answer that says nothing but a text, why it ended and how many tokens it took; None of any other."""
    try:
        answer = orjson.loads(body)
        (choice,) = answer["choices"]
        message, usage, finish_reason = choice["message"], answer["usage"], choice["finish_reason"]
        text, counts = message["content"], [usage[name] for name in _COUNTS]
        is_plain = (
            type(text) is str
            and text != ""
            and finish_reason in ("stop", "length")
            and all(type(count) is int and 0 <= count < 2**53 for count in counts)
            and not answer.get("error")
            and choice.get("logprobs") is None
            and _says_no_more(message, _MESSAGE)
            and _says_no_more(usage, _USAGE)
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not is_plain:
        return None
    details = {"prompt_tokens_details": None, "completion_tokens_details": None}
    return Said([text], dict(zip(_COUNTS, counts, strict=True)) | details, finish_reason)

"""A server that answers a chat request in every wrong way, one way an address.

`python -m benchmarks.hostile_server` prints its port and serves on loopback until its standard input closes:
POST /MODE/v1/chat/completions is answered as MODE says, GET /modes lists the modes, GET /stats counts requests by
mode and what reached the target of redirects. It speaks HTTP by hand, because no HTTP library sends what is wrong.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

Mode = Callable[[asyncio.StreamWriter, str], Awaitable[None]]
"""Writes one answer; is given the request's Authorization header."""

GOOD = "".join(
    f"[[ ## {name} ## ]]\nName what happened, then one step.\n\n"
    for name in ("principles", "improved_principles", "response", "improved_response")
)
GOOD += "[[ ## feedback ## ]]\nSound.\n\n[[ ## score ## ]]\n4\n\n[[ ## completed ## ]]"
SLOW_SECONDS = 30.0
"""How long the slow modes go on at most, if nobody hangs up."""


def completion(
    content: Any = GOOD, *, finish: Any = "stop", usage: Any = None, **choice: Any
) -> dict[str, Any]:
    """The body of a chat completion; `content` may be of any type."""
    counts = {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460} if usage is None else usage
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "finish_reason": finish, "message": message, **choice}]
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": choices,
        "usage": counts,
    }


def reply(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP answer; underscores in header names become dashes."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, "Connection: close", "", ""])).encode("latin-1") + body


def as_json(value: Any, status: int = 200, **headers: str) -> bytes:
    """A JSON answer."""
    return reply(json.dumps(value).encode(), status, **headers)


async def send(writer: asyncio.StreamWriter, _: str, data: bytes) -> None:
    """Write fixed bytes."""
    writer.write(data)
    await writer.drain()


async def drip(writer: asyncio.StreamWriter, _: str, head: bytes, piece: bytes, pause: float) -> None:
    """Write a head, then one piece after another."""
    writer.write(head)
    for _n in range(int(SLOW_SECONDS / pause)):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)


async def flood(writer: asyncio.StreamWriter, _: str, head: bytes, piece: bytes, most: int) -> None:
    """Write pieces as fast as they are read, `most` bytes at the most."""
    writer.write(head)
    for _n in range(most // len(piece)):
        writer.write(piece)
        await writer.drain()


async def echo_key(writer: asyncio.StreamWriter, key: str, status: int, is_html: bool) -> None:
    """Repeat the client's key in an error, as real servers do."""
    said = f"Incorrect API key provided: {key.removeprefix('Bearer ')}."
    page = f"<html><body><pre>Authorization: {key}</pre><p>{said}</p></body></html>"
    error = {"error": {"message": said, "type": "invalid_request_error", "code": "invalid_api_key"}}
    writer.write(reply(page.encode(), status, "text/html") if is_html else as_json(error, status))
    await writer.drain()


async def silence(_: asyncio.StreamWriter, __: str) -> None:
    """Say nothing until the client leaves."""
    await asyncio.sleep(SLOW_SECONDS)


async def abort(writer: asyncio.StreamWriter, _: str, data: bytes = b"") -> None:
    """Reset the connection, after some bytes."""
    writer.write(data)
    await writer.drain()
    writer.transport.abort()


def fixed_bytes() -> dict[str, bytes]:
    """Modes that are one answer each, by name."""
    good = json.dumps(completion()).encode()
    found = {"good": reply(good)}
    for status in (201, 202, 204, 206, 300, 304, 400, 402, 403, 404, 405, 408, 409, 413, 415, 422, 425, 451):
        found[f"status_{status}"] = as_json({"error": {"message": "no", "type": "x"}}, status)
    for status in (500, 501, 502, 503, 504, 505, 507, 511, 520, 599, 600, 999):
        found[f"status_{status}"] = as_json({"error": {"message": "broken", "type": "x"}}, status)
    for status in (301, 302, 303, 307, 308):
        found[f"redirect_{status}"] = reply(b"", status, Location="/redirected/v1/chat/completions")
    waits = (
        "0",
        "-1",
        "soon",
        "1e9",
        "99999999999999999999",
        "Wed, 21 Oct 2099 07:28:00 GMT",
        "NaN",
        "",
        "0.01",
    )
    for number, wait in enumerate(waits):
        found[f"retry_after_{number}"] = as_json({"error": {"message": "too many"}}, 429, Retry_After=wait)
    errors = (
        "text",
        ["list"],
        None,
        3,
        {"message": None},
        {"message": {"a": 1}},
        {"message": ["\x1b[2J"]},
        {},
    )
    for number, error in enumerate(errors):
        found[f"error_200_{number}"] = as_json({"error": error})
        found[f"error_400_{number}"] = as_json({"error": error}, 400)
    hostile_words = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m[/red][bold]" + "x" * 1_000_000
    found["error_hostile_words"] = as_json({"error": {"message": hostile_words}}, 400)
    found |= {f"body_{name}": reply(body) for name, body in _bodies(good).items()}
    found |= {f"choices_{n}": as_json(completion() | {"choices": c}) for n, c in enumerate(_choices())}
    found |= {
        f"finish_{n}": as_json(completion(finish=f)) for n, f in enumerate((None, 5, "banana", "length", []))
    }
    usages = ({}, "many", -1, [], {"prompt_tokens": "x"}, {"prompt_tokens": -5}, {"prompt_tokens": 1e30})
    usages += (
        {"prompt_tokens": float("nan"), "completion_tokens": None},
        {"total_tokens": True},
        {"details": {}},
    )
    found |= {f"usage_{n}": as_json(completion(usage=u)) for n, u in enumerate(usages)}
    logprobs = ("x", [], {"content": None}, {"content": [None]}, {"content": [{"token": 3, "logprob": "y"}]})
    found |= {f"logprobs_{n}": as_json(completion(logprobs=p)) for n, p in enumerate(logprobs)}
    return found | {f"http_{name}": data for name, data in _broken_http(good).items()}


def _bodies(good: bytes) -> dict[str, bytes]:
    cuts = {f"cut_{at}": good[:at] for at in (1, 20, len(good) // 2, len(good) - 1)}
    return cuts | {
        "empty": b"",
        "null": b"null",
        "list": b"[]",
        "text": b'"text"',
        "number": b"1e999",
        "object": b"{}",
        "two_objects": good + good,
        "bad_utf8": good[:40] + b"\xff\xfe" + good[40:],
        "utf16": good.decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + good,
        "nan": good.replace(b"400", b"NaN"),
        "huge_number": good.replace(b"400", b"1" + b"0" * 5000),
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "deep_objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "nulls": good.replace(b"Sound", b"\\u0000\\u0000"),
        "half_surrogate": good.replace(b"Sound", b"\\ud800"),
        "html": b"<html>502 Bad Gateway</html>",
        "event_stream": b"data: {}\n\ndata: [DONE]\n\n",
        "spaces": b" " * 100_000 + good,
        "duplicate_keys": b'{"choices": [], ' + good[1:],
    }


def _choices() -> list[Any]:
    made = [None, [], {}, "x", [None], [{}], [[]], [{"message": None}], [{"message": "x"}], [{"message": {}}]]
    contents = [
        None,
        3,
        [],
        {},
        True,
        "",
        " \n",
        [{"type": "text", "text": "x"}],
        [{"type": "image_url"}],
        [None],
    ]
    made += [completion(content)["choices"] for content in contents]
    calls = [{"id": "1", "type": "function", "function": {"name": "rm", "arguments": "{"}}]
    message = {"role": "assistant", "content": None}
    made.append([{"index": 0, "message": {**message, "tool_calls": calls}, "finish_reason": "tool_calls"}])
    made.append(
        [{"index": 0, "message": {**message, "refusal": "I will not."}, "finish_reason": "content_filter"}]
    )
    texts = ["[#] " * 50_000, "\x1b[2J\u202e" + GOOD, "{improved_response}", "[[ ## " * 20_000, "(" * 200_000]
    texts += ['{"principles":' * 20_000, "Score: " + "9" * 5000, "\n" * 200_000, "a" * 1_000_000, GOOD * 200]
    texts += ["[[ ## score ## ]]\n4", GOOD.replace("4", "4.5"), GOOD.replace("\n4\n", f"\n{10**400}\n")]
    return made + [completion(text)["choices"] for text in texts]


def _broken_http(good: bytes) -> dict[str, bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    whole = reply(good)
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    zipped = head + b"Content-Encoding: gzip\r\nConnection: close\r\n"
    bomb = gzip.compress(b" " * 200_000_000 + good, 9)
    sized = lambda body, size: head + b"Content-Length: " + size + b"\r\nConnection: close\r\n\r\n" + body  # noqa: E731
    return {
        "no_status": good,
        "garbage": bytes(range(256)) * 20,
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        "http09": b"<html>",
        "http99": whole.replace(b"HTTP/1.1", b"HTTP/9.9", 1),
        "status_text": whole.replace(b" 200 ", b" ok ", 1),
        "continue_first": b"HTTP/1.1 100 Continue\r\n\r\n" + whole,
        "early_hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + whole,
        "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "length_short": sized(good, b"10"),
        "length_long": sized(good, b"999999"),
        "length_negative": sized(good, b"-5"),
        "length_text": sized(good, b"many"),
        "length_twice": head + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + good,
        "chunk_bad_size": chunked + b"zz\r\n" + good,
        "chunk_huge_size": chunked + b"ffffffffffffffff\r\n" + good,
        "chunk_no_end": chunked + f"{len(good):x}\r\n".encode() + good + b"\r\n",
        "gzip": zipped + b"\r\n" + gzip.compress(good),
        "gzip_cut": zipped + b"\r\n" + gzip.compress(good)[:60],
        "gzip_false": zipped + b"\r\n" + good,
        "gzip_bomb": zipped + b"\r\n" + bomb,
        "encoding_unknown": head + b"Content-Encoding: banana\r\nConnection: close\r\n\r\n" + good,
        "many_headers": head + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n" + good,
        "long_header": head + b"X-Long: " + b"y" * 1_000_000 + b"\r\n\r\n" + good,
        "header_break": head + b"X-Bad\r\n :::\r\n\r\n" + good,
        "cut_headers": whole[:30],
        "latin_headers": head + b"X-Name: \xe9\xff\r\nContent-Length: %d\r\n\r\n" % len(good) + good,
    }


def modes() -> dict[str, Mode]:
    """Every mode by name."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    good = json.dumps(completion()).encode()
    found: dict[str, Mode] = {name: partial(send, data=data) for name, data in fixed_bytes().items()}
    for status in (400, 401, 403, 429, 500):
        found[f"echo_key_{status}"] = partial(echo_key, status=status, is_html=False)
        found[f"echo_key_html_{status}"] = partial(echo_key, status=status, is_html=True)
    found["silence"] = silence
    found["reset"] = abort
    found["reset_mid_body"] = partial(abort, data=head + b"\r\n" + good[:50])
    found["drip_headers"] = partial(drip, head=head, piece=b"X-A: b\r\n", pause=0.1)
    found["drip_body"] = partial(drip, head=head + b"\r\n", piece=b" ", pause=0.1)
    found["endless_body"] = partial(flood, head=head + b"\r\n", piece=b" " * 65536, most=2 * 2**30)
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    found["endless_chunks"] = partial(flood, head=chunked, piece=chunk, most=2 * 2**30)
    found["endless_headers"] = partial(flood, head=head, piece=b"X-A: b\r\n" * 8192, most=2 * 2**30)
    return found


async def serve() -> None:
    """Serve until standard input closes."""
    known, seen = modes(), Counter[str]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            given = {name.lower(): value for name, value in headers.items()}
            await reader.readexactly(int(given.get("content-length", "0")))
            mode = head.split(" ", 2)[1].strip("/").partition("/")[0]
            if mode in ("modes", "stats"):
                writer.write(as_json(sorted(known) if mode == "modes" else dict(seen)))
            else:
                seen[mode] += 1
                await known.get(mode, known["good"])(writer, given.get("authorization", ""))
            await writer.drain()
        with suppress(ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**24)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())

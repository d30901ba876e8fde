"""The batches of a run on disk: what was sent, under which id, and what came back; a restart goes on from there.

    RUN/batches/0001.json            the batch: its tag, its id at the provider, how far it is
    RUN/batches/0001.input.jsonl     its requests, written whole before anything is sent
    RUN/batches/0001.results.jsonl   what came back, there whole or not at all
    RUN/batches/NAME.partial         a file that is being written; of no use to a restart

A request's custom id is the batch's tag and the key of its call, so whatever comes back finds its call, and no other
run's. Requests and results are deleted once all answers are in the run's cache; the small JSON file stays. It knows
files and keys; it makes no request.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from spri_dspy.durable import write_whole
from spri_dspy.errors import DataError, UsageError
from spri_dspy.lms.batches.api import Answer, BatchAPI, Busy, is_id

LONGEST_LINE = 16_000_000
"""Bytes of one line of a result; a longer one is passed over, and its request is asked again."""

_TAG_LENGTH = 20


def custom_id(tag: str, key: str) -> str:
    """A request's id within its batch: 64 letters, digits, - and _, as both dialects take them.

    Args:
        tag: the batch's.
        key: the call's, in hexadecimal.
    """
    return f"{tag}-{base64.urlsafe_b64encode(bytes.fromhex(key)).decode().rstrip('=')}"


def key_of(tag: str, found: str) -> str | None:
    """The call's key in a custom id, None if that is of another batch."""
    if not found.startswith(f"{tag}-"):
        return None
    try:
        return base64.urlsafe_b64decode(found[_TAG_LENGTH + 1 :] + "=").hex()
    except ValueError:
        return None


@dataclass
class Batch:
    """One batch of a run.

    Attributes:
        number: from 1, in the order of sending.
        tag: what tells it from all others.
        group: of LMs that are asked with one key at one address, as `collector` names it.
        model: for people to read.
        dialect, url: the batch API, as `settings.Target` has them.
        endpoint: the path that its requests are for.
        n: requests.
        began: when it was put together, in seconds since 1970; `sent` when its creation was asked for; `ended` when its
            results were here.
        file_id, batch_id: at the provider.
        cancelled: it ended so, and what is not answered was not tried.
        answered, tokens_in, tokens_out: of the results.
        stored: every answer is in the run's cache.
        deleted: after that, no file of it is left at the provider, or the provider deletes none.
    """

    number: int
    tag: str
    group: str
    model: str
    dialect: str
    url: str | None
    endpoint: str
    n: int
    began: float
    sent: float | None = None
    ended: float | None = None
    file_id: str | None = None
    batch_id: str | None = None
    answered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    stored: bool = False
    cancelled: bool = False
    deleted: bool = False


@dataclass
class Spool:
    """The requests of the next batch of one group, written as they come."""

    path: Path
    tag: str
    out: IO[bytes]
    keys: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, api: BatchAPI, key: str, endpoint: str, body: bytes) -> None:
        """Write one request."""
        line = api.line(custom_id(self.tag, key), endpoint, body)
        try:
            self.out.write(line)
        except OSError as error:
            raise _full(self.path, error) from None
        self.size += len(line)
        self.keys.append(key)

    def discard(self) -> None:
        """Throw its requests away."""
        self.out.close()
        self.path.unlink(missing_ok=True)


class BatchStore:
    """The folder of a run's batches; made when the first one is put together.

    Args:
        folder: RUN/batches.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[Batch] = []
        for path in sorted(folder.glob("*.json")):
            self.batches.append(_read(path))
        known = {f"{batch.number:04d}" for batch in self.batches}
        for path in folder.glob("*.jsonl"):  # put together, and never sent
            if path.name.partition(".")[0] not in known:
                path.unlink()
        for path in folder.glob("*.partial"):
            path.unlink()

    def path(self, batch: Batch, kind: str) -> Path:
        """The file of a batch: "json", "input.jsonl" or "results.jsonl"."""
        return self.folder / f"{batch.number:04d}.{kind}"

    def spool(self, group: str) -> Spool:
        """Begin the requests of a batch."""
        try:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"{group}.partial"
            return Spool(path, secrets.token_hex(_TAG_LENGTH // 2), path.open("wb"))
        except OSError as error:
            raise _full(self.folder, error) from None

    def take(self, spool: Spool, **about: Any) -> Batch:
        """Make a batch of the requests that were written; from now on a restart knows it."""
        number = max((batch.number for batch in self.batches), default=0) + 1
        batch = Batch(number=number, tag=spool.tag, n=len(spool.keys), began=time.time(), **about)
        try:
            spool.out.close()
            spool.path.rename(self.path(batch, "input.jsonl"))
        except OSError as error:
            raise _full(spool.path, error) from None
        self.save(batch)
        self.batches.append(batch)
        return batch

    def save(self, batch: Batch) -> None:
        """Write what is known of a batch."""
        try:
            write_whole(self.path(batch, "json"), json.dumps(asdict(batch), indent=1) + "\n")
        except OSError as error:
            raise _full(self.path(batch, "json"), error) from None

    def keys(self, batch: Batch) -> Iterator[str]:
        """The keys of the calls that a batch holds."""
        with self.path(batch, "input.jsonl").open("rb") as lines:
            for line in lines:  # either dialect's begins with {"custom_id":"
                key = key_of(batch.tag, line[14:78].decode("ascii", "replace"))
                if key is not None:
                    yield key

    def receive(self, batch: Batch, api: BatchAPI, files: tuple[str, ...]) -> None:
        """Fetch the results of an ended batch line by line, and count what they took."""
        path = self.path(batch, "results.jsonl")
        partial = path.with_name(
            f"{path.name}.{secrets.token_hex(4)}.partial"
        )  # an interrupted start may still write
        batch.answered = batch.tokens_in = batch.tokens_out = 0
        left = 2 * batch.n + 1000  # lines: an endless file ends here
        try:
            with partial.open("wb") as out:
                for file in api.fetch(files):
                    with file:
                        for line in _lines(file):
                            left -= 1
                            if left < 0:
                                break
                            out.write(line.rstrip(b"\r\n") + b"\n")
                            self._count(batch, api.read(line))
                        if left >= 0 and getattr(file, "length", None):
                            raise Busy("the results broke off")
            partial.rename(path)
        except OSError as error:
            if getattr(error, "filename", None) is None:  # the connection, not the file
                raise
            raise _full(path, error) from None
        except http.client.HTTPException as error:
            raise Busy(f"the results broke off: {error!r}") from None
        batch.ended = time.time()
        self.save(batch)

    def _count(self, batch: Batch, answer: Answer | None) -> None:
        if answer is None or answer.status != 200:
            return
        try:
            usage = json.loads(answer.body).get("usage") or {}
            given = usage.get("prompt_tokens", usage.get("input_tokens")) or 0
            got = usage.get("completion_tokens", usage.get("output_tokens")) or 0
            batch.tokens_in, batch.tokens_out = batch.tokens_in + int(given), batch.tokens_out + int(got)
        except (AttributeError, TypeError, ValueError):
            pass
        batch.answered += 1

    def results(self, batch: Batch, api: BatchAPI) -> Iterator[tuple[str, int, Answer]]:
        """Key, place in the file and answer of each line that belongs to the batch."""
        with self.path(batch, "results.jsonl").open("rb") as lines:
            place = 0
            for line in lines:
                answer = api.read(line)
                key = key_of(batch.tag, answer.custom_id) if answer else None
                if answer is not None and key is not None:
                    yield key, place, answer
                place += len(line)

    def result_at(self, batch: Batch, api: BatchAPI, place: int) -> Answer | None:
        """The answer that begins at a place of the results."""
        with self.path(batch, "results.jsonl").open("rb") as lines:
            lines.seek(place)
            return api.read(lines.readline())

    def settle(self, batch: Batch) -> None:
        """Every answer of a batch is in the cache: its requests and results go."""
        batch.stored = True
        self.save(batch)
        for kind in ("input.jsonl", "results.jsonl"):
            self.path(batch, kind).unlink(missing_ok=True)

    def drop(self, batch: Batch) -> None:
        """Forget a batch of which nothing is to come: its calls are asked again."""
        for kind in (
            "json",
            "input.jsonl",
            "results.jsonl",
        ):  # a restart removes the others without the first
            self.path(batch, kind).unlink(missing_ok=True)
        self.batches.remove(batch)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, those over LONGEST_LINE left out."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            continue
        if line.strip():
            yield line


def _read(path: Path) -> Batch:
    try:
        said = json.loads(path.read_bytes())
        batch = Batch(**{f.name: said[f.name] for f in fields(Batch) if f.name in said})
        if not isinstance(batch.number, int) or len(batch.tag) != _TAG_LENGTH:
            raise ValueError("its number or its tag is none")
        if batch.dialect not in ("openai", "anthropic"):
            raise ValueError(f"its dialect is {batch.dialect!r}")
        if not all(given is None or is_id(given) for given in (batch.file_id, batch.batch_id)):
            raise ValueError("an id of it is none")
        return batch
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}); mend it, or remove that batch's files: its calls are asked again"
        ) from None


def _full(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be written: {error.strerror or error}; mend that and start the same command again, finished "
        "examples are kept"
    )

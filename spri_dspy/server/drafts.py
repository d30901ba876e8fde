"""Candidates as an LM writes them: out of the raw answers that DSPy streams, the text of the field that is asked for.

It knows prompt styles and DSPy's stream; it knows no HTTP. DSPy's own `StreamListener` refuses the adapters of this
package, and gives texts of JSON answers with their escapes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import jiter
from anyio.streams.memory import MemoryObjectStreamStatistics
from dspy.streaming import StreamListener

from spri_dspy.adapters import ResultTagStyle
from spri_dspy.lms.spec import CALL

Heard = Callable[[str, str], Awaitable[None]]
"""Takes a stage and the next piece of what it writes."""


class Drafts:
    """The stream that DSPy sends the answers of one request to; every candidate's text goes on as it comes.

    Candidates are the answers of predictors that write one field: drafts and refinements of principles and response.
    Critiques are not among them.

    Args:
        program: whose LMs stream; those that cannot stay silent until their answer is there.
        heard: gets the pieces. It is waited for, so a client that reads slowly slows its LM.
    """

    def __init__(self, program: dspy.Module, heard: Heard) -> None:
        self._heard = heard
        self._fields: dict[int, str] = {}
        self.listeners: list[StreamListener] = []
        for name, predictor in program.named_predictors():
            signature: Any = predictor.signature  # a class; DSPy declares an instance
            fields = list(signature.output_fields)
            if len(fields) == 1 and getattr(predictor, "role", "base") == "base":
                self._fields[id(predictor)] = fields[0]
                self.listeners.append(StreamListener(fields[0], predict=predictor, predict_name=name))
        self._reader: FieldReader | None = None

    def begin(self) -> None:
        """Another answer begins: that of the next call, or of the same one if it broke off."""
        self._reader = None

    async def send(self, chunk: Any) -> None:
        """Take a piece of an answer; this is the interface of DSPy's streams."""
        field, call = self._fields.get(getattr(chunk, "predict_id", 0)), CALL.get()
        choices = getattr(chunk, "choices", None)
        if field is None or call is None or not choices:
            return
        if self._reader is None:
            self._reader = FieldReader(field, is_plain=isinstance(dspy.settings.adapter, ResultTagStyle))
        content, is_last = getattr(choices[0].delta, "content", None), bool(choices[0].finish_reason)
        piece = self._reader.push(content or "", is_last=is_last)
        if piece:
            await self._heard(call.stage, piece)

    def statistics(self) -> MemoryObjectStreamStatistics:
        """Nothing waits here, see `lms.streaming.room_in_stream`."""
        return MemoryObjectStreamStatistics(0, 1, 1, 1, 0, 0)


class FieldReader:
    """Reads one field out of an answer that comes in pieces: sections, JSON, or plain text.

    What it gave stays right whatever follows: half a header is held back until it is known for one. An answer in no
    known form gives nothing.
    """

    def __init__(self, field: str, *, is_plain: bool = False) -> None:
        self._field, self._is_plain = field, is_plain
        self._header = re.compile(rf"\[\[ ## {re.escape(field)} ## \]\]")
        self._answer = ""  # until the field begins
        self._held: str | None = None  # of the field, and not given yet
        self._json: list[str] = []  # the whole answer, where it is JSON
        self._n_given = self._n_json = self._n_read = 0
        self._is_over = False

    def push(self, piece: str, *, is_last: bool = False) -> str:
        """What of the field's text is new with this piece of the answer."""
        if self._is_over:
            return ""
        if self._held is not None:
            self._held += piece
            return self._released()
        if self._json:
            return self._of_json(piece, is_last)
        self._answer += piece
        start = self._answer.lstrip()
        if start.startswith("<think"):
            _, is_thought, start = start.partition("</think>")
            if not is_thought:
                return ""
            self._answer = start
        header = self._header.search(start)
        if header or (self._is_plain and start and not "<think".startswith(start)):
            self._held, self._answer = start[header.end() :] if header else start, ""
            return self._released()
        return self._of_json(start[start.index("{") :], is_last) if _JSON.match(start) else ""

    def _released(self) -> str:
        """What no header can begin in any more, and no white space in front of one."""
        held = (self._held or "").lstrip() if not self._n_given else self._held or ""
        text, *rest = _NEXT_HEADER.split(held, maxsplit=1)
        if rest:
            self._is_over = True
        else:
            tail = _TAIL.search(held, max(0, len(held) - _LONGEST_TAIL))
            text = held[: tail.start()] if tail else held
        self._held = held[len(text) :]
        self._n_given += len(text)
        return text

    def _of_json(self, piece: str, is_last: bool) -> str:
        """New text of the field in an object that has no end yet; a long one is not read anew for every piece."""
        self._json.append(piece)
        self._n_json += len(piece)
        if self._n_json < self._n_read * 1.02 and not is_last:
            return ""
        self._n_read = self._n_json
        raw = "".join(self._json).encode("utf-8", "replace")
        try:
            value = jiter.from_json(raw, partial_mode="trailing-strings").get(self._field)
        except ValueError:  # in the middle of a name or an escape, or behind the object's end
            return ""
        new = value[self._n_given :] if isinstance(value, str) else ""
        self._n_given += len(new)
        return new


_NEXT_HEADER = re.compile(r"\s*\[\[ ## \w+ ## \]\]")
_JSON = re.compile(r"\s*(?:```(?:json)?\s*)?\{")
_TAIL = re.compile(r"\s*(?:\[(?:\[[^\]\n]{0,60}\]?)?)?\Z")
_LONGEST_TAIL = 100

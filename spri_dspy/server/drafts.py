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
        piece = self._reader.push(getattr(choices[0].delta, "content", None) or "")
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
        self._header = re.compile(rf"\[\[ ## {re.escape(field)} ## \]\]\s*")
        self._answer, self._n_given = "", 0

    def push(self, piece: str) -> str:
        """What of the field's text is new with this piece of the answer."""
        self._answer += piece
        text = self._value()
        new = text[self._n_given :]
        self._n_given = max(self._n_given, len(text))
        return new

    def _value(self) -> str:
        answer = self._answer.rpartition("</think>")[2]
        if answer.lstrip().startswith("<think"):
            return ""
        header = self._header.search(answer)
        if header:
            return _whole(_NEXT_HEADER.split(answer[header.end() :], maxsplit=1)[0])
        if _JSON.match(answer):
            return _in_json(answer[answer.index("{") :], self._field)
        return _whole(answer.lstrip()) if self._is_plain else ""


_NEXT_HEADER = re.compile(r"\s*\[\[ ## \w+ ## \]\]")
_JSON = re.compile(r"\s*(?:```(?:json)?\s*)?\{")
_TAIL = re.compile(r"\s*(?:\[(?:\[[^\]\n]{0,60}\]?)?)?\Z")
_LONGEST_TAIL = 100


def _whole(text: str) -> str:
    """The text without what may yet turn out to be a header, or white space in front of one."""
    tail = _TAIL.search(text[-_LONGEST_TAIL:])
    return text[: len(text) - len(tail[0])] if tail else text


def _in_json(answer: str, field: str) -> str:
    try:
        found = jiter.from_json(answer.encode("utf-8", "replace"), partial_mode="trailing-strings")
    except ValueError:  # in the middle of a name or an escape, or behind the object's end
        return ""
    value = found.get(field)
    return value if isinstance(value, str) else ""

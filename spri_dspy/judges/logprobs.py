"""The expected score from the log probabilities of one completion.

The token that decided is found by trying: a number in the completion is the score if the reader of the prompt
style reads another score once that number is another. Then the probabilities of all scores at that place are
renormalised over the scale. No probability is made up: where the token or its alternatives cannot be told, the
answer says so and the plain score stands.

It knows tokens and numbers; what a completion looks like is the reader's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_TRIED = 40
"""Numbers of a completion that are tried, from its end; a verdict with more of them is no verdict."""

_ALONE = re.compile(r"[\s\"'(\[*_:]{0,6}([0-9]{1,2})[\s\"')\]}*_,;:/]{0,6}")


class Expected(NamedTuple):
    """An expected score.

    Attributes:
        value: within the scale, None if there is none.
        mass: the share of all probability at that place that belongs to the scale, in [0, 1]. It is small where
            a server decodes by a schema and reports what the model would have liked.
        note: why there is no value, None if there is one.
    """

    value: float | None
    mass: float = 0.0
    note: str | None = None


class _Token(NamedTuple):
    text: str
    top: Mapping[str, float]  # text -> probability, the sampled token included


def expected_score(
    logprobs: Any, score: int, scale: tuple[int, int], read: Callable[[str], int | None]
) -> Expected:
    """The expected score of a completion that was read as `score`.

    Args:
        logprobs: as OpenAI's API gives them: `content`, a list of `token`, `logprob`, `top_logprobs`. Two quirks
            of servers are expected: the tokens may hold a code fence that the answer's text lacks, and the sampled
            token may be missing from its own alternatives.
        score: the score as it was read.
        scale: lowest and highest score.
        read: reads the score of a completion's text, None if it states none.
    """
    tokens = _tokens(logprobs)
    if not tokens:
        return Expected(None, note="the LM gave no logprobs")
    text = "".join(token.text for token in tokens)
    place = _place(text, score, scale, read)
    if place is None:
        return Expected(None, note="the score's token was not found")
    index, start = 0, 0
    while start + len(tokens[index].text) <= place:
        start += len(tokens[index].text)
        index += 1
    ends_inside = place + len(str(score)) <= start + len(tokens[index].text)
    weights = _weights(tokens[index:], score, scale, is_whole=ends_inside)
    mass = math.fsum(weights.values())
    if mass <= 0:
        return Expected(None, note="no score had a probability")
    value = math.fsum(number * weight for number, weight in weights.items()) / mass
    return Expected(round(value, 6), round(min(mass, 1.0), 6))


def _place(text: str, score: int, scale: tuple[int, int], read: Callable[[str], int | None]) -> int | None:
    """Where the number stands that decides the score, None if no single one does."""
    if read(text) != score:
        return None
    other = scale[0] if score != scale[0] else scale[1]
    found = list(re.finditer(rf"(?<![0-9]){score}(?![0-9])", text))
    for match in reversed(found[-_TRIED:]):
        if read(f"{text[: match.start()]}{other}{text[match.end() :]}") == other:
            return match.start()
    return None


def _weights(
    tokens: Sequence[_Token], score: int, scale: tuple[int, int], *, is_whole: bool
) -> dict[int, float]:
    """Probability of each score at the first of these tokens.

    Scores of two digits may be one token or two. Where they are two, "1" may be the start of "10": if it is the
    sampled token, the next token's alternatives tell; if it is not, nobody can tell, and it is left out.
    """
    low, high = scale
    first = tokens[0]
    weights: dict[int, float] = {}
    for text, probability in first.top.items():
        number = _number(text)
        if text == first.text:
            number = score if is_whole else int(str(score)[0])
        if number is not None:
            weights[number] = weights.get(number, 0.0) + probability
    for start in {number // 10 for number in range(max(low, 10), high + 1)}:
        if any(number // 10 == start for number in weights) or start not in weights:
            continue
        shared = weights.pop(start)
        if str(score)[0] == str(start):
            second = _second_digits(tokens[1:])
            weights[start] = shared * (1 - math.fsum(second.values()))
            weights |= {10 * start + digit: shared * share for digit, share in second.items()}
    return {number: weight for number, weight in weights.items() if low <= number <= high and weight > 0}


def _second_digits(rest: Sequence[_Token]) -> dict[int, float]:
    """Probability that the number goes on with each digit."""
    found: dict[int, float] = {}
    for text, probability in rest[0].top.items() if rest else ():
        if text[:1].isdecimal() and text[:1].isascii():
            found[int(text[0])] = found.get(int(text[0]), 0.0) + probability
    total = math.fsum(found.values())
    return {digit: share / max(total, 1.0) for digit, share in found.items()}


def _number(text: str) -> int | None:
    match = _ALONE.fullmatch(text)
    return int(match[1]) if match else None


def _tokens(logprobs: Any) -> list[_Token]:
    return [
        _Token(str(_of(entry, "token")), _alternatives(entry))
        for entry in _of(logprobs, "content") or ()
        if _of(entry, "token") is not None
    ]


def _alternatives(entry: Any) -> dict[str, float]:
    """The sampled token and its alternatives, each text once."""
    found: dict[str, float] = {}
    for item in (*(_of(entry, "top_logprobs") or ()), entry):
        text, logprob = _of(item, "token"), _of(item, "logprob")
        if (
            isinstance(logprob, int | float) and logprob == logprob
        ):  # not nan; math.isnan takes no huge whole number
            found.setdefault(str(text), math.exp(max(min(logprob, 0), -1000)))
    return found


def _of(value: Any, name: str) -> Any:
    """A field of a dict, or of one of LiteLLM's objects."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)

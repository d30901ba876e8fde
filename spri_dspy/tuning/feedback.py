"""What an LM that rewrites instructions is told about one example: how far off it was, why, and what was missed.

The figures are the example's own; the reasons are the judge's; what was missed are lines of the data's standards,
expert principles or rubric that the program's principles say nothing of, told by shared words. Only training examples
are ever told about. It knows Scores, labels and texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from spri_dspy.metrics.columns import group_of

if TYPE_CHECKING:
    from spri_dspy.metrics import Metric
    from spri_dspy.records import Score
    from spri_dspy.tuning.surrogate import Moments, Surrogate

SOURCES = {
    "standards": "the standards that results are judged by",
    "oracle_principles": "the principles that experts wrote for this",
    "rubric": "the rubric that experts wrote for this",
}
"""Labels that say what a good result needs, and how they are spoken of."""

_LINES, _LONGEST, _REASONS = 4, 240, 700
_COVERED = 0.5  # share of a line's words that must occur for it not to be missed
_STEM = 6  # letters by which words are compared: "responsible" and "responsibility" are one


def feedback(
    metric: Metric,
    surrogate: Surrogate,
    score: Score,
    *,
    labels: Mapping[str, Any],
    outputs: Mapping[str, Any],
    reasons: str = "",
) -> str:
    """Say in words how one training example went.

    Args:
        metric: what is tuned for.
        surrogate: what is usual at present.
        score: the example's.
        labels: of the example.
        outputs: of the program; its `principles` are compared with what labels say.
        reasons: the judge's words, or the metric's own.
    """
    parts = [_verdict(metric, surrogate, score)]
    if reasons:
        words = "The judge's reasons" if metric.judge is not None else "Feedback"
        parts.append(f"{words}: {_cut(reasons, _REASONS)}")
    written = as_text(outputs.get("principles", outputs.get("response", "")))
    for name, spoken in SOURCES.items():
        lines = missed(as_text(labels.get(name) or ""), written)
        if lines:
            parts.append(
                f"Missing here, though {spoken} ask for it:\n" + "\n".join(f"- {each}" for each in lines)
            )
    return "\n".join(parts)


def _verdict(metric: Metric, surrogate: Surrogate, score: Score) -> str:
    if score.value is None:
        return "No result came of this input that could be read or judged."
    if metric.kind == "mean":
        return (
            f"The result was rated {score.value:g} for {metric.name}; at present {surrogate.centre:.3g} is usual, and "
            "more is better."
        )
    if score.label is None:
        return f"The answer was scored {score.value:g}; nobody said what would have been right."
    gap = score.value - score.label
    said = "as it should be" if abs(gap) < 0.25 else f"{abs(gap):g} too {'high' if gap > 0 else 'low'}"
    found = f"The answer was scored {score.value:g} where {score.label:g} is right: {said}."
    moments = surrogate.groups.get(group_of(score))
    if moments is None:
        return found
    return f"{found} {_places(moments, score.value, score.label)}"


def _places(moments: Moments, value: float, label: float) -> str:
    """Where label and score stand among their like: a correlation counts the order, not the level."""
    right = _place((label - moments.label[0]) / moments.label[1])
    given = _place((value - moments.score[0]) / moments.score[1])
    if right == given:
        return f"Among answers of this kind it belongs {right}, and that is where the score puts it."
    return (
        f"Among answers of this kind it belongs {right}; the score puts it {given}. The order is what counts."
    )


def _place(z: float) -> str:
    words = (
        (-1.0, "near the bottom"),
        (-0.35, "below the middle"),
        (0.35, "in the middle"),
        (1.0, "above the middle"),
    )
    return next((word for limit, word in words if z < limit), "near the top")


def missed(wanted: str, written: str) -> list[str]:
    """Lines of the first text that the second says little of, at most four, those with most to say first."""
    known = _stems(written)
    found: list[tuple[float, str]] = []
    for line in _lines(wanted):
        stems = _stems(line)
        covered = len(stems & known) / len(stems) if stems else 1.0
        if covered < _COVERED:
            found.append((len(stems - known), line))
    return [_cut(line, _LONGEST) for _, line in sorted(found, key=lambda pair: -pair[0])[:_LINES]]


def as_text(value: Any) -> str:
    """A label or an output as text: of a rubric its criteria and its best level."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, Mapping):
        chosen = [value[k] for k in ("criteria", "score5_description") if k in value]
        return "\n".join(map(str, chosen)) or json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, list | tuple):
        return "\n".join(map(as_text, value))
    return str(value)


def _lines(text: str) -> Iterable[str]:
    for line in re.split(r"\n+|(?<=[.!?;])\s+", text):
        plain = line.strip(" \t-*•0123456789.)")
        if len(plain.split()) > 2:
            yield plain


def _stems(text: str) -> set[str]:
    return {word[:_STEM] for word in re.findall(r"[^\W\d_]{4,}", text.casefold())}


def _cut(text: str, longest: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 3].rsplit(" ", 1)[0] + "..."

"""Does the rubric help? The same answers judged with the run's rubric, with none and with a general one, paired.

Agreement with people where the data has labels: Pearson's r with human scores (the mean over groups), or the share of
pairs in people's order where it has preferences. Without labels it says how far a rubric moves the scores, and nothing
about whether it helps. It knows runs, scores and statistics; no LM and no judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from spri_dspy.metrics.comparison import Comparison, compare, holm
from spri_dspy.metrics.set_level import Statistic, macro, mean, pair_accuracy, pearson
from spri_dspy.records import Estimate, Score, Usage
from spri_dspy.report.figures import LABEL, aligned, cells_of, is_scored_offline, scores_of
from spri_dspy.runs import RunDir

ARMS = {"own": "the run's own rubrics", "none": "no rubric", "general": "one rubric for everything"}
"""The arms by name, and what their judge is shown."""

PREFERENCE = "preference"
"""The label of an answer's share of people's votes."""


@dataclass(frozen=True)
class Arm:
    """One way to judge.

    Attributes:
        mean: of the scores.
        agreement: with people; nan without labels.
        usage: of its judge.
        usd: of its calls; None where a price is unknown.
    """

    name: str
    mean: Estimate
    agreement: Estimate | None
    usage: Usage
    usd: float | None


@dataclass(frozen=True)
class Difference:
    """Two arms on the same answers.

    Attributes:
        comparison: of `first` less `second`, in agreement, or in the mean score without labels.
        p_holm: adjusted for the three pairs of arms, or for all groups; nan where p is.
        where: the group, or the stop reason of the run's first loop; "" for all.
    """

    first: str
    second: str
    comparison: Comparison
    p_holm: float
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        where = {"where": self.where} if self.where else {}
        return {
            "first": self.first,
            "second": self.second,
            **where,
            **self.comparison.to_json(),
            "p_holm": None if math.isnan(self.p_holm) else self.p_holm,
        }


@dataclass(frozen=True)
class Ablation:
    """What the three arms come to.

    Attributes:
        measure: what agreement is, such as "macro pearson"; "mean score" without labels.
        arms: in the order of ARMS.
        differences: of every two arms.
        groups: own less general, by group; empty if there is one group.
        stop_reasons: own less general, by the end of the loop that wrote the rubric; empty where there was none.
        n: answers that were judged.
        written: what the run itself took, all its roles together: writing the rubrics, and its own judgements.
    """

    measure: str
    arms: Sequence[Arm]
    differences: Sequence[Difference]
    n: int
    written: Usage
    groups: Sequence[Difference] = ()
    stop_reasons: Sequence[Difference] = ()
    notes: Sequence[str] = ()

    @property
    def has_labels(self) -> bool:
        """Whether people's labels say which arm is better."""
        return all(arm.agreement is not None for arm in self.arms)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {
            "measure": self.measure,
            "n": self.n,
            "arms": {
                arm.name: {
                    "shown": ARMS[arm.name],
                    "mean": arm.mean.to_json(),
                    "agreement": arm.agreement.to_json() if arm.agreement else None,
                    "usage": asdict(arm.usage),
                    "usd": arm.usd,
                }
                for arm in self.arms
            },
            "written": asdict(self.written),
            "differences": [each.to_json() for each in self.differences],
            "groups": [each.to_json() for each in self.groups],
            "stop_reasons": [each.to_json() for each in self.stop_reasons],
            "notes": list(self.notes),
        }

    def lines(self) -> Iterator[str]:
        """The same as aligned text."""
        rows = [
            ("arm", "shown", "mean score", self.measure, "95 % interval", "scored", "calls", "tokens", "cost")
        ]
        for arm in self.arms:
            found = arm.agreement or arm.mean
            value, ends, scored = cells_of(found, 3)
            if arm.agreement is None:
                value = "-"
            usage, cost = arm.usage, "no known price" if arm.usd is None else f"${arm.usd:.4f}"
            calls, tokens = usage.calls + usage.cached, usage.input_tokens + usage.output_tokens
            mean_score = cells_of(arm.mean)[0]
            cells = (
                arm.name,
                ARMS[arm.name],
                mean_score,
                value,
                ends,
                scored,
                f"{calls:,}",
                f"{tokens:,}",
                cost,
            )
            rows.append(cells)
        yield from aligned(rows)
        yield ""
        yield from aligned([_HEADS, *(_cells(each) for each in self.differences)])
        for title, found in (("group", self.groups), ("rubric's loop ended", self.stop_reasons)):
            if found:
                yield ""
                yield f"own less general, by {title}:"
                yield from aligned([_HEADS, *(_cells(each) for each in found)])
        yield ""
        calls = self.written.calls + self.written.cached
        yield f"the run that wrote the rubrics took {calls:,} calls, all its stages together"
        yield from self.notes


_HEADS = ("arms", "difference", "95 % interval", "p", "p, Holm", "answers")


def _cells(each: Difference) -> tuple[str, ...]:
    test = each.comparison
    p = ["-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (test.p, each.p_holm)]
    return (
        each.where or f"{each.first} less {each.second}",
        "-" if math.isnan(test.difference) else f"{test.difference:+.3f}",
        test.reason or "" if math.isnan(test.low) else f"{test.low:+.3f} to {test.high:+.3f}",
        *p,
        str(test.n),
    )


def ablation(
    run: RunDir, judged: Mapping[str, RunDir], prices: Mapping[str, tuple[float, float] | None]
) -> Ablation:
    """What three judged runs of one run come to.

    Args:
        run: whose answers and rubrics they are.
        judged: by arm, see ARMS.
        prices: dollars a token in and out of each arm's judge; None where unknown.
    """
    labels, ends, written = _of_run(run)
    sides = {name: scores_of(judged[name], "score") for name in ARMS}
    statistic, over_groups, label = _measure(sides["own"], labels)
    if label == PREFERENCE:
        sides = {name: [replace(s, label=labels.get(s.id)) for s in side] for name, side in sides.items()}
    arms = [
        _arm(name, side, judged[name], prices[name], statistic, over_groups) for name, side in sides.items()
    ]
    what = statistic or mean
    pairs = [(a, b, compare(what, sides[a], sides[b], macro=over_groups)) for a, b in combinations(ARMS, 2)]
    by_group = {name: {s.id for s in sides["own"] if s.group == name} for name in _groups(sides["own"])}
    by_end = {name: {i for i, end in ends.items() if end == name} for name in dict.fromkeys(ends.values())}
    return Ablation(
        f"{'macro ' if over_groups else ''}{what.name}" if statistic else "mean score",
        arms,
        _adjusted(pairs),
        len(sides["own"]),
        written,
        _apart(what, sides, by_group) if len(by_group) > 1 else (),
        _apart(what, sides, by_end) if statistic and by_end else (),
        ()
        if statistic
        else ("no labels of people: this says how far a rubric moves scores, not whether it helps",),
    )


def offline_lines(judged: Mapping[str, RunDir]) -> list[str] | None:
    """Counts alone where the offline LM gave the scores; None otherwise."""
    if not any(is_scored_offline(run) for run in judged.values()):
        return None
    rows = [("arm", "shown", "scored")]
    for name, run in judged.items():
        scores = scores_of(run, "score")
        rows.append((name, ARMS[name], f"{sum(s.value is not None for s in scores)} of {len(scores)}"))
    return [
        *aligned(rows),
        "the offline LM gave these scores, so they make no figures; name an LM to get some",
    ]


def _of_run(run: RunDir) -> tuple[dict[str, float], dict[str, str], Usage]:
    """Preferences and ends of the first loop by example, and what the run took."""
    labels, ends, written = dict[str, float](), dict[str, str](), Usage()
    for record in run.records():
        preference: Any = record.labels.get(PREFERENCE)
        if isinstance(preference, int | float) and not isinstance(preference, bool):
            labels[record.id] = float(preference)
        if record.ok and "principles" in record.stop_reasons:
            ends[record.id] = record.stop_reasons["principles"]
        written = sum(record.usage.values(), written)
    return labels, ends, written


def _measure(
    scores: Sequence[Score], preferences: Mapping[str, float]
) -> tuple[Statistic | None, bool, str | None]:
    """How agreement is measured, whether as the mean over groups, and with which label; None without labels."""
    if any(score.label is not None for score in scores):
        return pearson, len(_groups(scores)) > 1, LABEL
    return (pair_accuracy, False, PREFERENCE) if preferences else (None, False, None)


def _groups(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(score.group for score in scores if score.group))


def _arm(
    name: str,
    scores: Sequence[Score],
    run: RunDir,
    price: tuple[float, float] | None,
    statistic: Statistic | None,
    over_groups: bool,
) -> Arm:
    usage = Usage()
    for record in run.records():
        usage = sum(record.usage.values(), usage)
    usd = None if price is None else price[0] * usage.input_tokens + price[1] * usage.output_tokens
    agreement = None
    if statistic is not None:
        agreement = macro(statistic, scores) if over_groups else statistic(scores)
    return Arm(name, mean(scores), agreement, usage, usd)


def _apart(
    statistic: Statistic, sides: Mapping[str, Sequence[Score]], parts: Mapping[str, set[str]]
) -> list[Difference]:
    """Own less general in each part."""
    found: list[tuple[str, str, Comparison]] = []
    for ids in parts.values():
        own, general = ([s for s in sides[name] if s.id in ids] for name in ("own", "general"))
        found.append(("own", "general", compare(statistic, own, general)))
    return [replace(each, where=name) for each, name in zip(_adjusted(found), parts, strict=True)]


def _adjusted(found: Sequence[tuple[str, str, Comparison]]) -> list[Difference]:
    """Comparisons with Holm's p over those that have one."""
    tested = [number for number, (_, _, c) in enumerate(found) if not math.isnan(c.p)]
    adjusted = dict(zip(tested, holm([found[number][2].p for number in tested]), strict=True))
    return [Difference(a, b, c, adjusted.get(number, math.nan)) for number, (a, b, c) in enumerate(found)]

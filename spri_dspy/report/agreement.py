"""How well judges agree with people, as tables: what `spri agree` prints, and what its page shows.

One judge is shown in full, several in one table with their comparisons; everything is in the JSON. It knows results,
and computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spri_dspy.metrics.agreement import Agreement, JudgeAgreement
from spri_dspy.metrics.alt_test import PASSES_FROM, AltTest
from spri_dspy.metrics.rated import FIRST, SECOND, TIE
from spri_dspy.records import Estimate
from spri_dspy.report.figures import aligned, cells_of

_DIGITS = 3
_HEADING = ("value", "95 % interval", "scored")
_MOST_TESTS = 20
_VERDICTS = {FIRST: "first", TIE: "tie", SECOND: "second"}
_NAMES = {
    "kendall": "kendall tau-b",
    "pair_accuracy": "pair accuracy",
    "mae": "MAE",
    "quadratic_kappa": "kappa, quadratic weights",
    "both_orders_agree": "both orders agree",
    "first_shown": "first shown preferred",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A table of the result, and sentences below it.

    Attributes:
        title: what it is about, for a page; in a terminal the first cell says so.
        rows: cells, the headings first; may be empty.
        notes: sentences.
        is_first: False for what belongs to the part before.
    """

    title: str
    rows: Sequence[tuple[str, ...]] = ()
    notes: Sequence[str] = ()
    is_first: bool = True


def lines(found: Agreement) -> Iterator[str]:
    """The result for people: of one judge everything, of several a line each and how they differ."""
    for number, part in enumerate(parts(found)):
        if number and part.is_first:
            yield ""
        yield from aligned(part.rows) if part.rows else ()
        yield from part.notes


def parts(found: Agreement) -> Iterator[Part]:
    """The same as tables, for a terminal and for a page."""
    if len(found.judges) == 1:
        yield from _judge(found.judges[0])
    elif found.judges:
        yield from _overview(found.judges)
        yield _tests(found)
    yield from _people(found)
    if found.notes:
        yield Part("Notes", notes=[f"note: {note}" for note in found.notes], is_first=False)


def _judge(judge: JudgeAgreement) -> Iterator[Part]:
    rows = [(judge.name, *_HEADING)]
    rows += [(_name(name), *cells_of(e, _DIGITS)) for name, e in judge.figures.items()]
    if len(judge.ratings.annotators) == 1:
        rows.append(("Krippendorff's alpha", *cells_of(judge.alpha.judge, _DIGITS)))
    else:
        rows.append(("Krippendorff's alpha, people", *cells_of(judge.alpha.people, _DIGITS)))
        rows.append(("the same, judge in the place of one", *cells_of(judge.alpha.judge, _DIGITS)))
        rows.append(("difference", *cells_of(judge.alpha.difference, _DIGITS)))
    yield Part("Figures", rows)
    if judge.groups:
        yield Part("By group", _by_group(judge))
    if judge.footing:
        rows = [("against the other annotators", "judge", "one of the people", "difference", "rows")]
        for name, each in judge.footing.items():
            judged, people, difference = map(_short, (each.judge, each.people, each.difference))
            rows.append((_name(name), judged, people, difference, str(each.judge.n)))
        yield Part("The judge and people's own ceiling", rows)
    if judge.calibration:
        is_pairs = judge.ratings.kind == "pairs"
        people = "people's mean, from -1 (second) to 1 (first)" if is_pairs else "people's mean"
        rows = [("judge says", people, "95 % interval", "rows")]
        for part in judge.calibration:
            said = f"{part.low:g}" if part.low == part.high else f"{part.low:g} to {part.high:g}"
            said = _VERDICTS[part.low] if is_pairs else said
            rows.append((said, *cells_of(part.people)[:2], str(part.people.n)))
        yield Part("Calibration", rows)
    yield from _alt_test(judge.alt_test)


def _by_group(judge: JudgeAgreement) -> list[tuple[str, ...]]:
    """A line a group, and one for the mean of groups."""
    rows = [("group", *map(_name, judge.figures), "rows")]
    for group, figures in judge.groups.items():
        rows.append((group, *map(_value, figures.values()), str(max(e.n for e in figures.values()))))
    means = [judge.means[name] for name in judge.figures]
    return [*rows, ("mean of groups", *map(_value, means), "")]


def _alt_test(test: AltTest) -> Iterator[Part]:
    title = "Alt-Test"
    if test.reason:
        yield Part(title, notes=[f"Alt-Test: does not apply: {test.reason}"])
        return
    said = "may" if test.passes else "may not"
    summary = (
        f"Alt-Test: the judge {said} stand in for the annotators: winning rate {test.omega:.2f} (passes from "
        f"{PASSES_FROM}), average advantage probability {test.rho:.3f}; epsilon {test.epsilon:g}, {test.alignment}, "
        f"Benjamini-Yekutieli at {test.q:g}"
    )
    rows = [
        ("left out", "rows", "judge as close or closer", "annotator as close or closer", "p", "judge wins")
    ]
    for each in test.left_out:
        shares = (f"{each.advantage:.3f}", f"{each.annotator_advantage:.3f}")
        rows.append((each.annotator, str(each.n), *shares, _p(each.p), "yes" if each.is_won else "no"))
    yield Part(title, notes=[summary])
    yield Part("", rows, is_first=False)


def _overview(judges: Sequence[JudgeAgreement]) -> Iterator[Part]:
    names = list(dict.fromkeys(name for judge in judges for name in judge.figures))
    has_test = any(not judge.alt_test.reason for judge in judges)
    rows = [("judge", *map(_name, names), "scored", *(("Alt-Test omega", "rho") if has_test else ()))]
    for judge in judges:
        cells = [_short(judge.figures[name]) if name in judge.figures else "-" for name in names]
        first = next(iter(judge.figures.values()))
        test = (f"{judge.alt_test.omega:.2f}", f"{judge.alt_test.rho:.3f}") if has_test else ()
        rows.append((judge.name, *cells, f"{first.n} of {first.n + first.dropped}", *test))
    yield Part("Judges", rows)


def _tests(found: Agreement) -> Part:
    """Comparisons of judges, those with the smallest p first."""
    ordered = sorted(found.comparisons, key=lambda each: (math.isnan(each.comparison.p), each.comparison.p))
    rows = [("figure", "judges", "difference", "95 % interval", "p", "p, Holm")]
    for each in ordered[:_MOST_TESTS]:
        test = each.comparison
        ends = test.reason or "" if math.isnan(test.low) else f"{test.low:+.3f} to {test.high:+.3f}"
        difference = "-" if math.isnan(test.difference) else f"{test.difference:+.3f}"
        pair = f"{each.first} - {each.second}"
        rows.append((_name(test.metric), pair, difference, ends, _p(test.p), _p(each.p_holm)))
    more = len(ordered) - _MOST_TESTS
    return Part("Comparisons", rows, [f"{more} more comparisons are in --json"] if more > 0 else [])


def _people(found: Agreement) -> Iterator[Part]:
    """People among themselves: alpha, and each annotator as the judge of the others."""
    people, title = found.people, "People among themselves"
    if len(people.annotators) < 2:
        yield Part(title, notes=["people: one annotator, so no agreement of people to compare with"])
        return
    alpha = f"Krippendorff's alpha {_short(people.alpha)}, {people.alpha.n} rows"
    yield Part(title, notes=[f"people among themselves: {alpha}"])
    names = list(next(iter(people.left_out.values())))
    rows = [("annotator, against the others", *map(_name, names), "scored")]
    for annotator, figures in people.left_out.items():
        first = next(iter(figures.values()))
        scored = f"{first.n} of {first.n + first.dropped}"
        rows.append((annotator, *(_short(figures[name]) for name in names), scored))
    yield Part("", rows, is_first=False)


def _name(figure: str) -> str:
    return _NAMES.get(figure, figure)


def _value(estimate: Estimate) -> str:
    return "-" if math.isnan(estimate.value) else f"{estimate.value:.3f}"


def _short(estimate: Estimate) -> str:
    """Value and interval in one cell."""
    if math.isnan(estimate.value):
        return "-"
    has_interval = not math.isnan(estimate.low)
    ends = f"[{estimate.low:.2f}, {estimate.high:.2f}]" if has_interval else "(no interval)"
    return f"{_value(estimate)} {ends}"


def _p(p: float) -> str:
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"

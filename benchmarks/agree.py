"""Agreement of recorded judges with people: LLMBar's judges, PandaLM's annotators, Topical-Chat.

No LM is called. Where no judge was recorded, a rule stands for one: the longer response, or the words that a response
shares with its fact; that says what a figure is worth that a judge reaches. Every figure is `spri.agree`'s. The experts
on reappraisals are in `recompute`.

    python -m benchmarks agree --recordings DIR [--json] [--markdown FILE] [--simulate N]
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import spri_dspy as spri
from benchmarks.recordings import read_rows
from benchmarks.sections import Section, interval, number, put_out
from spri_dspy.errors import UsageError
from spri_dspy.metrics.agreement import JudgeAgreement
from spri_dspy.metrics.alt_test import AltTest, alt_test
from spri_dspy.metrics.rated import FIRST, SECOND, Item, Ratings

QUALITIES = ("understandability", "naturalness", "coherence", "engagingness", "groundedness", "overall")


@dataclass(frozen=True, slots=True)
class How:
    """Resamples and seed of all figures."""

    resamples: int
    seed: int

    @property
    def settings(self) -> spri.AgreeSettings:
        """The same for `spri.agree`."""
        return spri.AgreeSettings(resamples=self.resamples, seed=self.seed)


def main(argv: list[str]) -> int:
    """Measure and print; returns 0.

    Raises:
        SpriError: the folder or a row in it cannot be used.
    """
    options = _options().parse_args(argv)
    sections = measure(options.recordings, How(options.resamples, options.seed))
    if options.simulate:
        sections.append(false_alarms(options.simulate, options.seed))
    put_out(sections, options, schema=1, resamples=options.resamples, seed=options.seed)
    return 0


def measure(folder: Path, how: How) -> list[Section]:
    """Every section that a folder of recordings allows.

    Raises:
        UsageError: there is nothing to measure in the folder.
        DataError: a row cannot be used.
    """
    judging = folder / "judging"
    parts: Sequence[tuple[Sequence[Path], Callable[[Sequence[Path], How], Section]]] = (
        (sorted(judging.glob("llmbar_judges/*__*.jsonl")), llmbar),
        (sorted(judging.glob("pandalm_*.jsonl")), pandalm),
        (sorted(judging.glob("topical_chat_*.jsonl")), topical_chat),
    )
    sections = [section(paths, how) for paths, section in parts if paths]
    if not sections:
        raise UsageError(
            f"nothing to measure in {str(folder)!r}; it should hold judging/llmbar_judges/MODEL__STRATEGY.jsonl, "
            "judging/pandalm_*.jsonl or judging/topical_chat_*.jsonl"
        )
    return sections


def llmbar(paths: Sequence[Path], how: How) -> Section:
    """Every recorded judge of LLMBar's pairs, in both orders."""
    columns = ("judge", "pairs", "accuracy", "both orders agree", "first shown", "kappa")
    section = Section("llmbar", "LLMBar: accuracy averaged over both orders", columns)
    names = ("accuracy", "both_orders_agree", "first_shown", "quadratic_kappa")
    for path in paths:  # one at a time: 666 paired tests of 37 judges would take minutes
        found = spri.agree(path, "preferred", pairs=True, settings=how.settings).judges[0]
        first = found.figures["accuracy"]
        cells = (interval(found.figures[name], 3) for name in names)
        section.rows.append((found.name, f"{first.n} of {first.n + first.dropped}", *cells))
        section.results.append(_result(found))
    section.notes.extend(
        [
            "A pair counts where both orders were answered. Ratings have no order: a tie, or a rating that is missing, "
            "is recorded as one response and then the other, so it counts half, and is no agreement of orders."
        ]
    )
    return section


def pandalm(paths: Sequence[Path], how: How) -> Section:
    """PandaLM's three annotators, each of them as a judge of the other two, and two rules as judges of all three."""
    columns = (
        "judge",
        "people",
        "n",
        "accuracy",
        "alpha, people",
        "alpha, judge in place",
        "accuracy less people's",
    )
    section = Section(
        "pandalm", "PandaLM: three annotators", (*columns, "Alt-Test omega", "rho", "judge may stand in")
    )
    rows = [row for path in paths for row in read_rows(path)]
    for name, rule in (("longer", longer), ("nearer in words", nearer)):
        where = spri.AgreeColumns(score=rule, cluster="instruction")
        found = spri.agree({name: rows}, "annotators", pairs=True, columns=where, settings=how.settings)
        _add(section, found.judges[0], "three", "accuracy")
    others = [f"annotators.{place}" for place in range(3)]
    for place, name in enumerate(others):
        rest = [each for each in others if each != name]
        where = spri.AgreeColumns(score=name, cluster="instruction")
        found = spri.agree(
            {f"annotator {place}": rows}, rest, pairs=True, columns=where, settings=how.settings
        )
        _add(section, found.judges[0], "the other two", "accuracy")
    section.notes.append(
        "Ties are an answer of people's, so accuracy is of three answers. Intervals and tests keep the pairs of one "
        "instruction together. The Alt-Test's epsilon is 0.2; with one annotator as the judge two remain."
    )
    return section


def topical_chat(paths: Sequence[Path], how: How) -> Section:
    """Topical-Chat's means of annotators against two rules."""
    columns = ("measure", "judge", "n", "Pearson", "Spearman", "tau-b", "pairs right")
    section = Section("topical_chat", "Topical-Chat: people's means against rules", columns)
    rows = [row for path in paths for row in read_rows(path)]
    for quality in QUALITIES:
        for name, rule in (("words", n_words), ("overlap with the fact", overlap)):
            where = spri.AgreeColumns(score=rule, cluster="id")
            judge = spri.agree({name: rows}, f"human.{quality}", columns=where, settings=how.settings).judges[
                0
            ]
            names = ("pearson", "spearman", "kendall", "pair_accuracy")
            cells = (interval(judge.figures[each], 2) for each in names)
            section.rows.append((quality, name, str(judge.figures["pearson"].n), *cells))
            section.results.append({"measure": quality} | _result(judge))
    section.notes.append(
        "The data has means of annotators and not what each said: there is no ceiling, no alpha of people and no "
        "Alt-Test. Intervals keep the six responses to a context together."
    )
    return section


def false_alarms(repeats: int, seed: int) -> Section:
    """How often the Alt-Test is passed by a judge that is worse than each annotator by just epsilon.

    Annotators are right with probability 0.8, the judge with b. An annotator's expected advantage is 0.6 (0.8 - b):
    the two others are both right with probability 0.64, both wrong with 0.04. At b = 0.8 - epsilon / 0.6 it is epsilon.
    """
    columns = (
        "rows",
        "rows a cluster",
        "single tests under 0.05",
        "any annotator won",
        "passed",
        "passed, clusters ignored",
    )
    section = Section("false_alarms", f"Alt-Test at the edge of epsilon = 0.2, {repeats} worlds", columns)
    rng = random.Random(seed)
    for rows, size in ((40, 1), (100, 1), (160, 4)):
        found, ignored = [], []
        for _ in range(repeats):
            votes = _votes(rng, rows, size, 0.8 - 0.2 / 0.6)
            found.append(_tested(votes, size))
            ignored.append(_tested(votes, 1))
        single = sum(t.p < 0.05 for each in found for t in each.left_out) / (3 * repeats)
        shares = (
            single,
            *(sum(map(of, found)) / repeats for of in (_any_won, _passed)),
            sum(map(_passed, ignored)) / repeats,
        )
        section.rows.append((str(rows), str(size), *(number(share, 3) for share in shares)))
        names = ("single", "any_won", "passed", "passed_clusters_ignored")
        section.results.append({"rows": rows, "per_cluster": size} | dict(zip(names, shares, strict=True)))
    return section


def _votes(rng: random.Random, rows: int, size: int, skill: float) -> list[tuple[float, ...]]:
    """Verdicts of a judge, right or wrong on whole clusters, and of three annotators."""
    votes: list[tuple[float, ...]] = []
    for _ in range(rows // size):
        is_right = rng.random() < skill
        for _ in range(size):
            truth = rng.choice((FIRST, SECOND))
            people = (truth if rng.random() < 0.8 else -truth for _ in range(3))
            votes.append((truth if is_right else -truth, *people))
    return votes


def _tested(votes: Sequence[tuple[float, ...]], size: int) -> AltTest:
    items = tuple(
        Item(str(at), judge, tuple(people), cluster=str(at // size))
        for at, (judge, *people) in enumerate(votes)
    )
    return alt_test(Ratings("judge", items, ("a", "b", "c"), "pairs"), epsilon=0.2)


def _any_won(test: AltTest) -> bool:
    return test.omega > 0


def _passed(test: AltTest) -> bool:
    return bool(test.passes)


def longer(row: Mapping[str, Any]) -> list[float]:
    """The characters of both responses: the longer one is preferred."""
    return [float(len(str(response))) for response in row["responses"]]


def nearer(row: Mapping[str, Any]) -> list[float]:
    """The share of each response's words that stand in its instruction and input."""
    asked = _words(f"{row['instruction']} {row.get('input') or ''}")
    return [_share(_words(str(response)), asked) for response in row["responses"]]


def n_words(row: Mapping[str, Any]) -> float:
    """The words of a response."""
    return float(len(row["response"].split()))


def overlap(row: Mapping[str, Any]) -> float:
    """The share of a response's pairs of neighbouring words that stand in its fact."""
    said, fact = (re.findall(r"\w+", row[name].lower()) for name in ("response", "fact"))
    return _share({*pairwise(said)}, {*pairwise(fact)})


def _words(text: str) -> set[str]:
    return {*re.findall(r"\w+", text.lower())}


def _share(part: set[Any], whole: set[Any]) -> float:
    return len(part & whole) / len(part) if part else 0.0


def _add(section: Section, judge: JudgeAgreement, people: str, name: str) -> None:
    test, figure = judge.alt_test, judge.figures[name]
    footing = judge.footing.get(name)
    cells = (interval(figure, 3), interval(judge.alpha.people, 3), interval(judge.alpha.judge, 3))
    verdict = (
        ("-", "-", test.reason)
        if test.reason
        else (
            number(test.omega, 2),
            number(test.rho, 3),
            "yes" if test.passes else "no",
        )
    )
    apart = interval(footing.difference, 3) if footing else "-"
    section.rows.append((judge.name, people, str(figure.n), *cells, apart, *(str(v) for v in verdict)))
    section.results.append({"people": people} | _result(judge))


def _result(judge: JudgeAgreement) -> dict[str, Any]:
    """The judge's result in JSON types, nan as None."""
    from spri_dspy.strict_json import finite

    return finite(judge.to_json())


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks agree", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--recordings", type=Path, required=True, metavar="DIR", help="folder of recordings")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument(
        "--simulate", type=int, default=0, metavar="N", help="false alarms of the Alt-Test in N worlds"
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="clusters, or blocks of them, left out for an interval at most (default 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    return parser

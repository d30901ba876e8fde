"""Tables of systems by base LMs, from runs: values with intervals, tests against baselines, published figures beside.

A benchmark is a `Definition`: which task, systems, judge and measures. `build` runs what is not finished and reads
the `Table`, which can be written in any form. Where the offline stand-in answered or judged, the title of every
output says so.

It knows runs through `grid`, and statistics; cells of text are in `layout`, plots in `figures`, options in `command`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from benchmarks import grid
from benchmarks.published import published
from benchmarks.sections import Section
from spri_dspy.metrics.comparison import Comparison, compare, holm
from spri_dspy.metrics.set_level import Statistic, by_group, macro
from spri_dspy.program import Sees
from spri_dspy.records import Estimate, Score

STAND_IN = "offline stand-in: not a language model"
NOT_TESTED = "not tested: "
"""How the reason of a comparison begins that was not made for want of examples."""

VIEWS = get_args(Sees)
"""What systems' criteria are made from, the least first: the order of a table's rows."""

SIGNIFICANT = 0.05
FEWEST_SOURCES = 6
"""Below this no test is made: were all differences of one sign, a coin would still give that in 1 of 16 trials."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number a system gets.

    Attributes:
        name: its key in JSON.
        heading: with its unit, such as "alignment (1-10)".
        scale: the least and the most that it can be; None if that is not known.
        scores: the Scores of a cell.
        statistic: what is computed of them.
        by: "examples", or "groups" for the mean over groups.
        digits: behind the point.
        is_tested: compared with the baselines.
        without: the reason where no example has a number; the statistic's own if empty.
    """

    name: str
    heading: str
    scale: tuple[float, float] | None
    scores: Callable[[grid.Cell], list[Score]]
    statistic: Statistic
    by: Literal["examples", "groups"] = "examples"
    digits: int = 2
    is_tested: bool = False
    without: str = ""

    def estimate(self, scores: Sequence[Score], seed: int) -> Estimate:
        """The number; every one has its own generator, so that it stands alone."""
        rng = random.Random(seed)
        statistic = self.statistic
        found = macro(statistic, scores, rng=rng) if self.by == "groups" else statistic(scores, rng=rng)
        return replace(found, reason=self.without) if self.without and not found.n else found

    def compare(self, a: Sequence[Score], b: Sequence[Score], seed: int) -> Comparison:
        """How much `a` exceeds `b`: see `spri_dspy.metrics.comparison.compare`."""
        return compare(self.statistic, a, b, macro=self.by == "groups", rng=random.Random(seed))


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A benchmark.

    Attributes:
        name: the task's, and the key of its figures in published.toml.
        task: how the task is found, if not by that name: path/to/file.py:NAME.
        systems: what runs if no system is named, in the paper's order.
        system_files: how systems are found, if not by their names: name -> path/to/file.py:NAME.
        judge: of the answers; None where the systems' own scores are read.
        baselines: system -> mark of those above it.
        coverage: heading -> measures; the column has the fewest examples that one of them rests on.
        published: the published numbers of a system, by measure, from its entry in published.toml.
        grouped: measure that is shown by group as well, what a group is called, and the heading of its values.
        notes: what has to be known to read the table.
        more: further tables.
    """

    name: str
    title: str
    task: str = ""
    systems: tuple[str, ...]
    system_files: Mapping[str, str] = field(default_factory=dict)
    measures: tuple[Measure, ...]
    judge: str | None = None
    baselines: Mapping[str, str] = field(default_factory=dict)
    coverage: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: Callable[[Any], Mapping[str, Any]] | None = None
    grouped: tuple[str, str, str] | None = None
    notes: tuple[str, ...] = ()
    more: Callable[[Table], list[Section]] | None = None

    def measure(self, name: str) -> Measure:
        """The measure of a name."""
        return next(m for m in self.measures if m.name == name)


@dataclass(frozen=True)
class Test:
    """A test against a baseline, and its p corrected for all tests of this base and measure."""

    baseline: str
    symbol: str
    comparison: Comparison
    p_holm: float

    __test__ = False  # for pytest

    @property
    def mark(self) -> str:
        """The baseline's symbol if the system is significantly higher before correction."""
        return self.symbol if self.comparison.p < SIGNIFICANT and self.comparison.difference > 0 else ""

    @property
    def holm_mark(self) -> str:
        """The symbol if the difference stays significant; with an arrow if it is downward."""
        arrow = "" if self.comparison.difference > 0 else "↓"
        return self.symbol + arrow if self.p_holm < SIGNIFICANT else ""

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        p_holm = None if math.isnan(self.p_holm) else self.p_holm
        return {"baseline": self.baseline, **self.comparison.to_json(), "p_holm": p_holm}


@dataclass(frozen=True)
class Entry:
    """One row: a system with a base.

    Attributes:
        asked: examples that were to get a number.
        published: values by measure, and `MEASURE_marks`; empty if there are none.
        published_for: the model that they are of.
        is_same_model: False where the paper has not this base, and another's figures stand beside.
    """

    cell: grid.Cell
    asked: int
    failed: int
    estimates: Mapping[str, Estimate]
    tests: Mapping[str, Sequence[Test]]
    groups: Mapping[str, Estimate]
    published: Mapping[str, Any]
    published_for: str
    is_same_model: bool

    def marks(self, measure: str) -> str:
        """Marks as published."""
        return "".join(test.mark for test in self.tests.get(measure, ()))

    def holm_marks(self, measure: str) -> str:
        """Marks that remain after correction."""
        return "".join(test.holm_mark for test in self.tests.get(measure, ()))

    def cell_json(self) -> dict[str, Any]:
        """What ran, in plain JSON types, without any figure."""
        cell = self.cell
        return {
            "base": cell.base,
            "base_lm": cell.plan.manifest["lms"]["base"],
            "system": cell.system,
            "sees": cell.sees,
            "asked": self.asked,
            "failed": self.failed,
            "leaks": cell.leaks,
            "run": str(cell.path),
            "judged_run": str(cell.judged) if cell.judged else None,
        }

    def to_json(self) -> dict[str, Any]:
        """The same with every figure."""
        return self.cell_json() | {
            "measures": {name: self._measure_json(name) for name in self.estimates},
            "groups": {name: e.to_json() for name, e in self.groups.items()},
        }

    def _measure_json(self, name: str) -> dict[str, Any]:
        return {
            **self.estimates[name].to_json(),
            "marks": self.marks(name),
            "holm_marks": self.holm_marks(name),
            "tests": [test.to_json() for test in self.tests.get(name, ())],
            "published": self.published.get(name),
            "published_marks": self.published.get(f"{name}_marks", ""),
            "published_for": self.published_for if name in self.published else None,
        }


@dataclass(frozen=True)
class Table:
    """What was found, ready to be written in any form."""

    definition: Definition
    grid: grid.Grid
    entries: Sequence[Entry]

    @property
    def title(self) -> str:
        """The benchmark's, and whether the stand-in or a leak has part in it."""
        roles, ask = self.grid.stand_ins, self.grid.ask
        lms = [*ask.bases, *([ask.critic] if ask.critic else []), *self.grid.judge_lms]
        all_offline = all(lm.startswith(grid.OFFLINE) for lm in lms)
        remarks = [f"{'' if all_offline else ', '.join(roles) + ' by the '}{STAND_IN}"] if roles else []
        remarks += ["evaluation inputs among the seeds"] if any(e.cell.leaks for e in self.entries) else []
        return self.definition.title + (f" ({'; '.join(remarks)})" if remarks else "")

    @property
    def is_offline(self) -> bool:
        """True if the offline stand-in answered or judged: numbers that look like results are then not shown."""
        return bool({"base", "judge"} & set(self.grid.stand_ins))

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in alphabetical order; empty if nothing is shown by group."""
        return sorted({name for entry in self.entries for name in entry.groups})


def plan(definition: Definition, ask: grid.Ask) -> grid.Grid:
    """Check what is asked; nothing is run. See `grid.plan`."""
    return grid.plan(
        definition.task or definition.name,
        ask,
        systems=definition.systems,
        judge=definition.judge,
        system_files=definition.system_files,
    )


def build(definition: Definition, ask: grid.Ask, **settings: Any) -> Table:
    """Run and judge what is not finished, then read the table.

    Args:
        definition: the benchmark, such as `benchmarks.reappraisal.TABLE`.
        ask: what to run.
        **settings: of `Grid.run`: concurrency, budget, retry_errors, on_cell.

    Raises:
        SpriError: see `grid.plan`.
    """
    cells = plan(definition, ask)
    cells.run(**settings)
    return read(definition, cells)


def read(definition: Definition, cells: grid.Grid) -> Table:
    """The table of a grid that has run."""
    entries: list[Entry] = []
    for base in dict.fromkeys(cell.base for cell in cells.cells):
        block = [cell for cell in cells.cells if cell.base == base]
        entries += _block(definition, block, cells.ask.seed)
    return Table(definition, cells, entries)


def _block(definition: Definition, cells: Sequence[grid.Cell], seed: int) -> list[Entry]:
    """The rows of one base, those with one view together."""
    scores = {m.name: {c.system: m.scores(c) for c in cells} for m in definition.measures}
    tests = {
        m.name: against_baselines(m, scores[m.name], definition.baselines, seed)
        for m in definition.measures
        if m.is_tested
    }
    entries: list[Entry] = []
    for cell in cells:
        mine = {m.name: scores[m.name][cell.system] for m in definition.measures}
        groups: Mapping[str, Estimate] = {}
        if definition.grouped:
            name = definition.grouped[0]
            groups = by_group(definition.measure(name).statistic, mine[name], rng=random.Random(seed))
        published, model, same = published_figures(definition, cell)
        entries.append(
            Entry(
                cell,
                max(map(len, mine.values())),
                cell.failed(),
                {m.name: m.estimate(mine[m.name], seed) for m in definition.measures},
                {name: found.get(cell.system, []) for name, found in tests.items()},
                groups if len(groups) > 1 else {},
                published,
                model,
                same,
            )
        )
    return sorted(entries, key=lambda entry: VIEWS.index(entry.cell.sees))


def against_baselines(
    measure: Measure, scores: Mapping[str, Sequence[Score]], baselines: Mapping[str, str], seed: int = 0
) -> dict[str, list[Test]]:
    """Test every system of one base against the baselines, Holm-corrected over all; a pair of baselines once.

    Args:
        measure: how to compare.
        scores: by system.
        baselines: system -> mark; those without scores are passed over.
        seed: of a bootstrap.
    """
    present = [baseline for baseline in baselines if baseline in scores]
    compared = [
        (system, baseline, _compared(measure, scores[system], scores[baseline], seed))
        for system in scores
        for place, baseline in enumerate(present)
        if system not in present[: place + 1]
    ]
    found: dict[str, list[Test]] = {}
    corrected = holm([comparison.p for _, _, comparison in compared])
    for (system, baseline, comparison), p_holm in zip(compared, corrected, strict=True):
        found.setdefault(system, []).append(Test(baseline, baselines[baseline], comparison, p_holm))
    return found


def _compared(measure: Measure, a: Sequence[Score], b: Sequence[Score], seed: int) -> Comparison:
    """The comparison, without a p where so few sources of examples could not tell a difference from chance."""
    found = measure.compare(a, b, seed)
    both = {s.id for s in a if s.value is not None} & {s.id for s in b if s.value is not None}
    n_sources = len({s.cluster or s.id for s in a if s.id in both})
    if n_sources >= FEWEST_SOURCES or math.isnan(found.p):
        return found
    reason = f"{NOT_TESTED}{n_sources} sources, {FEWEST_SOURCES} are the fewest"
    return replace(found, p=math.nan, reason=reason)


def published_figures(definition: Definition, cell: grid.Cell) -> tuple[Mapping[str, Any], str, bool]:
    """The published values of a cell by measure, the model they are of, and whether that is the cell's base.

    Systems with settings were not published. A base that the paper has not is shown beside its first model.
    """
    models = published().get(definition.name, ())
    if not models or definition.published is None:
        return {}, "", False
    base = _plain(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", cell.base.partition("?")[0].rsplit("/", 1)[-1]))
    own = next((m for m in models if base in map(_plain, m["names"])), None)
    model = own or models[0]
    figures = definition.published(model[cell.system]) if cell.system in model else {}
    return figures, model["names"][0], own is not None


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())

"""A table of any task, one's own included: systems compared by what a judge says and by metrics.

    python -m benchmarks compare my_task.py:notices --data rows.jsonl --systems vanilla,spri,my_systems.py:Twice \
        --judge my_judges.py:Tone --metric my_metrics.py:named --lm base=openai/gpt-4o-mini --lm judge=openai/gpt-4o

Task, systems, judge and metrics are names (reappraisal, spri, generic, ...) or `path/to/file.py:NAME`. Every system is
tested against the first one, on the examples that both have, with Holm's correction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import command
from benchmarks.grid import Cell
from benchmarks.tables import Definition, Measure
from spri_dspy.errors import UsageError
from spri_dspy.judges import load_judge
from spri_dspy.metrics import Metric, load_metric
from spri_dspy.metrics.comparison import Comparison
from spri_dspy.metrics.readers import only_score
from spri_dspy.metrics.set_level import mean, share
from spri_dspy.records import Estimate, Score
from spri_dspy.runs import RunDir
from spri_dspy.tasks import load_task

SYSTEMS = ("vanilla", "self_refine", "spri")


@dataclass(frozen=True, kw_only=True)
class MetricMeasure(Measure):
    """A metric as a column: its own estimate and its own comparison."""

    metric: Metric

    def estimate(self, scores: Sequence[Score], seed: int) -> Estimate:
        """The metric with its interval."""
        return self.metric.value(scores, rng=random.Random(seed))

    def compare(self, a: Sequence[Score], b: Sequence[Score], seed: int) -> Comparison:
        """How much the metric of `a` exceeds that of `b`."""
        return self.metric.compare(a, b, rng=random.Random(seed))


def definition(task: str, judge: str | None, metrics: Sequence[str], systems: Sequence[str]) -> Definition:
    """The table that is asked for; nothing is run.

    Args:
        task: its name, or path/to/file.py:NAME; metrics and judge likewise.
        judge: of the answers; one measure for each of its criteria.
        metrics: one measure each; a metric with a judge reads the scores of `judge`.
        systems: the first is the baseline.

    Raises:
        UsageError: nothing to measure by was named, or a part is wrong.
    """
    if not judge and not metrics:
        raise UsageError("nothing to compare by: name a --judge, a --metric, or both")
    asked = load_judge(judge) if judge else None
    measures = [*(_criteria(asked) if asked is not None else ()), *(_metric(name, asked) for name in metrics)]
    name = load_task(task).name
    return Definition(
        name=name,
        task=task,
        title=f"Systems on the task {name}",
        systems=tuple(systems),
        judge=judge,
        measures=tuple(measures),
        baselines={systems[0]: "*"},
        coverage={"judged": tuple(m.name for m in measures)},
        notes=("Every example counts once; a metric of one's own is in its own unit.",),
    )


def _criteria(judge: Any) -> list[Measure]:
    """One measure a criterion; `score` of a judge that knows its criteria only when it is called."""
    criteria: Mapping[str, Any] = dict(getattr(judge, "criteria", {})) or {"score": None}
    measures: list[Measure] = []
    for name, criterion in criteria.items():
        ends = getattr(criterion, "scale", None)
        measures.append(
            Measure(
                name=name,
                heading=f"{name} ({ends[0]}-{ends[1]})" if ends else name,
                scale=ends or ((0, 1) if criterion else None),
                scores=lambda cell, name=name: cell.scores(name),
                statistic=share if getattr(criterion, "kind", "") == "share" else mean,
                is_tested=True,
            )
        )
    return measures


def _metric(name: str, judge: Any) -> Measure:
    try:
        metric = load_metric(name)
    except UsageError as error:
        if judge is None:
            raise UsageError(f"{error}; here by --judge") from None
        metric = load_metric(name, judge=judge)
    if metric.judge is not None and (judge is None or metric.judge.version != judge.version):
        raise UsageError(f"the metric {name} reads the judge {metric.judge.name}: give it by --judge")
    criteria = list(getattr(judge, "criteria", ()))
    if metric.read is only_score and len(criteria) > 1:
        raise UsageError(
            f"the metric {name} wants a judge of one criterion; {judge.name} gives {', '.join(criteria)}"
        )
    return MetricMeasure(
        name=metric.name,
        heading=metric.name,
        scale=metric.scale or ((-1, 1) if metric.kind == "pearson" else None),
        scores=lambda cell: _rated(metric, cell),
        statistic=mean,
        digits=3,
        is_tested=True,
        metric=metric,
    )


def _rated(metric: Metric, cell: Cell) -> list[Score]:
    """The metric's scores of a cell: of what its judge said, or of the answers themselves."""
    records = list(cell.records())
    if metric.judge is not None and cell.judged is not None:
        records = list(RunDir.read(cell.judged).records())
    return metric.scores(records, list(cell.examples.values()))


def main(argv: list[str]) -> int:
    """Run, judge, and write the table; 1 if examples failed.

    Raises:
        SpriError: see `command.run`.
    """
    parser = command.parser(
        Definition(name="compare", title="Systems compared", systems=SYSTEMS, measures=())
    )
    parser.add_argument("task", help="reappraisal, rubrics, sft, or path/to/file.py:NAME")
    parser.add_argument(
        "--judge", metavar="NAME", help="reappraisal, rubric, generic, or path/to/file.py:NAME"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="a metric, or path/to/file.py:NAME; repeat",
    )
    options = parser.parse_args(argv)
    systems = command.systems_of(options) or SYSTEMS
    return command.execute(definition(options.task, options.judge, options.metric, systems), options)

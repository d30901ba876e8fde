"""Where candidate seeds come from: written by people, rows of the training data, runs that went well, or an LM.

A Seed is one few-shot example of one stage: inputs, what the stage is to write, and the group it is shown to. All of
them come from training data or from people; that none is like validation or test data is checked by `splits`.

It knows programs and records. Which seeds are worth having is found out by `seed_search`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy

from spri_dspy.bulk import plain
from spri_dspy.errors import LeakError, UsageError
from spri_dspy.metrics import Metric
from spri_dspy.predict import RolePredict
from spri_dspy.records import Record, Score
from spri_dspy.runs import fingerprint
from spri_dspy.tasks import Example, make_example
from spri_dspy.tasks.example import EVALUATION_ONLY

Source = Literal["start", "written", "labelled", "bootstrapped", "proposed"]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Settings: where seeds may come from.

    Attributes:
        written: rows with inputs, what a stage writes (`principles`) and a `group` if there are groups; the start's own
            seeds are always in the pool.
        labelled: seeds from training examples that hold what a stage writes, at most so many a stage and group.
        bootstrapped: seeds from accepted answers to training examples, at most so many a stage and group.
        proposed: seeds that an LM writes anew for training examples that went badly, at most so many a stage and group.
        examples: training examples to run for the last two, at most so many a group.
    """

    written: Sequence[Mapping[str, Any]] = ()
    labelled: int = 0
    bootstrapped: int = 4
    proposed: int = 2
    examples: int = 12

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise UsageError(f"{name} of a pool must be 0 or more, not {getattr(self, name)}")

    @property
    def identity(self) -> dict[str, Any]:
        """The settings as JSON, for manifests."""
        rows = fingerprint([plain(row) for row in self.written])
        return {name: getattr(self, name) for name in _COUNTS} | {"written": rows}


_COUNTS = ("labelled", "bootstrapped", "proposed", "examples")


@dataclass(frozen=True)
class Seed:
    """One few-shot example of one stage.

    Attributes:
        stage: name of the predictor that is shown it.
        demo: its fields, of plain JSON types.
        group: the only group that is shown it; None for all.
        source: where it comes from.
        origin: id of the training example it was made from, if any.
    """

    stage: str
    demo: Mapping[str, Any]
    group: str | None
    source: Source
    origin: str | None = None

    @property
    def key(self) -> str:
        """A hash of what an LM would see of it."""
        return fingerprint([self.stage, self.group, dict(self.demo)])

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        about = {"stage": self.stage, "group": self.group, "source": self.source, "origin": self.origin}
        return about | {"demo": dict(self.demo)}


def start_seeds(stages: Mapping[str, RolePredict]) -> list[Seed]:
    """The seeds that the start shows, in its order."""
    return [
        Seed(name, plain(dict(demo)), demo.get("group"), "start")
        for name, predictor in stages.items()
        for demo in predictor.demos
    ]


def written_seeds(rows: Iterable[Mapping[str, Any]], stages: Mapping[str, RolePredict]) -> list[Seed]:
    """Given rows as seeds of every stage whose fields they have.

    Raises:
        UsageError: a row fits no stage; DSPy would silently never show it.
        LeakError: a row is of an evaluation set.
    """
    found: list[Seed] = []
    for number, row in enumerate(rows, 1):
        if row.get(EVALUATION_ONLY):
            raise LeakError(
                f"leak: written seed {number} is of {row[EVALUATION_ONLY]}, an evaluation set; take other seeds"
            )
        made = [
            seed
            for name, stage in stages.items()
            if (seed := _seed(name, stage, row, row.get("group"), "written"))
        ]
        if not made:
            needs = {field for stage in stages.values() for field in stage.signature.fields}
            raise UsageError(
                f"written seed {number} fits no stage: it has {', '.join(sorted(row))}, the stages take "
                f"{', '.join(sorted(needs))}"
            )
        found += made
    return found


def labelled_seeds(
    rows: Sequence[dspy.Example], stages: Mapping[str, RolePredict], most: int, rng: random.Random
) -> list[Seed]:
    """Training rows that hold what a stage writes, as seeds of it.

    Args:
        rows: of the train split, see `example_metric.as_rows`.
        stages: what seeds are for.
        most: of a stage and group.
        rng: chooses, whatever the labels say.

    Raises:
        UsageError: no row holds what a stage writes.
    """
    found: list[Seed] = []
    for name, stage in stages.items():
        by_group: dict[str | None, list[Seed]] = {}
        for row in rows:
            if seed := _seed(name, stage, dict(row), row.group, "labelled", row._spri_id):
                by_group.setdefault(row.group, []).append(seed)
        if not by_group:
            raise UsageError(
                f"no training row holds what {name} writes ({', '.join(stage.signature.output_fields)}): give such "
                "rows, or set labelled = 0 in the pool"
            )
        for seeds in by_group.values():
            found += rng.sample(seeds, min(most, len(seeds)))
    return found


def bootstrapped_seeds(
    records: Sequence[Record],
    goodness: Sequence[float | None],
    stages: Mapping[str, RolePredict],
    most: int,
) -> list[Seed]:
    """Seeds from examples that were accepted by the critic and did no worse than half of their group.

    Args:
        records: of the program on training examples.
        goodness: of each, see `Metric.goodness`; where it can be told for none, being accepted is enough.
        stages: what seeds are for.
        most: of a stage and group; the best first.
    """
    accepted = [
        (record, good)
        for record, good in zip(records, goodness, strict=True)
        if record.ok and all(reason == "accepted" for reason in record.stop_reasons.values())
    ]
    if any(good is not None for good in goodness):
        usual = _medians(records, goodness)
        accepted = [(r, g) for r, g in accepted if g is not None and g >= usual[r.group]]
    accepted.sort(key=lambda pair: (-(pair[1] or 0.0), pair[0].id))
    found: list[Seed] = []
    for name, stage in stages.items():
        taken: dict[tuple[str | None, str], Seed] = {}
        for record, _ in accepted:
            fields = {**record.inputs, **record.outputs}
            seed = _seed(name, stage, fields, record.group, "bootstrapped", record.id)
            n_taken = sum(group == record.group for group, _ in taken)
            if seed and n_taken < most and (record.group, record.cluster or record.id) not in taken:
                taken[record.group, record.cluster or record.id] = seed
        found += taken.values()
    return found


def proposed_seeds(
    records: Sequence[Record],
    scores: Sequence[Score],
    stages: Mapping[str, RolePredict],
    most: int,
    *,
    metric: Metric,
    run: Callable[[Any, Sequence[Example], str], list[Record]],
    lm: Any = None,
) -> list[Seed]:
    """Seeds that an LM writes for the training examples that went worst, being told how.

    Args:
        records: of the program on training examples.
        scores: theirs.
        stages: what seeds are for.
        most: of a stage and group; one LM call each.
        metric: says how an example fell short.
        run: runs the calls, resumably; see `Evaluator.run`.
        lm: who writes; None for the LM of the stage itself.
    """
    goodness = dict(zip((r.id for r in records), metric.goodness(scores), strict=True))
    worst = sorted(
        (r for r in records if r.ok and goodness[r.id] is not None),
        key=lambda r: (goodness[r.id] or 0.0, r.id),
    )
    by_id = {s.id: s for s in scores}
    found: list[Seed] = []
    for name, stage in stages.items():
        taken: dict[tuple[str | None, str], Record] = {}
        for record in worst:
            n_taken = sum(group == record.group for group, _ in taken)
            has_all = all(field in {**record.inputs, **record.outputs} for field in stage.signature.fields)
            if has_all and n_taken < most:
                taken.setdefault((record.group, record.cluster or record.id), record)
        module = _Anew(stage, lm)
        asked = [module.example(r, metric.shortcoming(by_id[r.id], scores)) for r in taken.values()]
        written = run(module, asked, f"proposals-{name}")
        for record in written:
            seed = _seed(
                name, stage, {**record.inputs, **record.outputs}, record.group, "proposed", record.id
            )
            found += [seed] if record.ok and seed else []
    return found


_ANEW = """\

An earlier attempt at this input stands beside it, and how it fell short. Write it anew and better, so that it can serve
others as a model: take up what the attempt missed, and keep what was right in it. Do not mention the attempt."""


class _Anew(dspy.Module):
    """Writes what a stage writes, once more, knowing an earlier attempt and its shortcoming."""

    def __init__(self, stage: RolePredict, lm: Any) -> None:
        super().__init__()
        signature = stage.signature
        self.output = next(iter(signature.output_fields))
        signature = signature.with_instructions(signature.instructions + "\n" + _ANEW)
        signature = signature.append("attempt", dspy.InputField(desc="the earlier attempt"), str)
        signature = signature.append("shortcoming", dspy.InputField(desc="how it fell short"), str)
        self.write = RolePredict(signature, role=stage.role, stage=f"propose_{self.output}")
        self.write.lm = lm or stage.lm

    def example(self, record: Record, shortcoming: str) -> Example:
        known = {**record.inputs, **record.outputs}
        names = [n for n in self.write.signature.input_fields if n not in ("attempt", "shortcoming")]
        told = {"attempt": str(known[self.output]), "shortcoming": shortcoming}
        return make_example(record.id, {n: known[n] for n in names} | told, record.group, record.cluster)

    async def aforward(self, group: str | None = None, **inputs: Any) -> dspy.Prediction:
        return dspy.Prediction(**dict((await self.write.acall(**inputs)).items()))


def unique(seeds: Iterable[Seed]) -> tuple[Seed, ...]:
    """The seeds without those that an LM could not tell from an earlier one."""
    found: dict[str, Seed] = {}
    for seed in seeds:
        found.setdefault(seed.key, seed)
    return tuple(found.values())


def _seed(
    name: str,
    stage: RolePredict,
    fields: Mapping[str, Any],
    group: str | None,
    source: Source,
    origin: str | None = None,
) -> Seed | None:
    """The seed of a stage, None unless all outputs and at least one input are there: DSPy would not show it."""
    demo = {n: plain(fields[n]) for n in stage.signature.fields if fields.get(n) is not None}
    has_outputs = all(n in demo for n in stage.signature.output_fields)
    if not has_outputs or not any(n in demo for n in stage.signature.input_fields):
        return None
    return Seed(name, demo | ({"group": group} if group is not None else {}), group, source, origin)


def _medians(records: Sequence[Record], goodness: Sequence[float | None]) -> dict[str | None, float]:
    from statistics import median

    by_group: dict[str | None, list[float]] = {}
    for record, good in zip(records, goodness, strict=True):
        if good is not None:
            by_group.setdefault(record.group, []).append(good)
    return {group: median(values) for group, values in by_group.items()}

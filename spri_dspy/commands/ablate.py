"""`spri judge RUN --ablate`: three judged runs of one run, their comparison, and the gate that follows from it.

The same answers are judged with the run's rubrics (own), without a rubric (none) and with one rubric for everything
(general), by the same LM with the same settings. Each arm is a judged run like any other: it resumes, and
`spri show`, `spri compare` and `spri report` read it.

A gate falls back to the general rubric where the interval of own less general lies below 0: for a group by its rows,
for a group that these do not decide by all rows, and after an end of the rubric loop by the rows that ended so.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spri_dspy.commands import judge
from spri_dspy.commands.forecast import Forecast, price_evenly
from spri_dspy.durable import write_whole
from spri_dspy.errors import DataError, UsageError
from spri_dspy.gate import Gate
from spri_dspy.report.ablation import ARMS, PREFERENCE, Ablation, Difference, ablation
from spri_dspy.report.figures import LABEL
from spri_dspy.runs import RunDir
from spri_dspy.tasks.rubrics import Rubric

_REFUSED = {"combine": "a panel", "reference": "a reference answer, which no judge without a rubric takes"}

_NO_LABELS = "a gate is decided by people's labels, and this run has none; leave --gate out"


@dataclass
class AblatePlan:
    """Three judgings that are checked and ready.

    Attributes:
        arms: by name, see ARMS.
        general: the general arm's rubric as text or fields.
    """

    run: RunDir
    arms: Mapping[str, judge.JudgePlan]
    general: Any

    @property
    def lms(self) -> list[Any]:
        """The LMs that are asked."""
        return [spec for arm in self.arms.values() for spec in arm.lms]

    def forecast(self) -> Forecast:
        """The three arms together."""
        each = [arm.forecast() for arm in self.arms.values()]
        usd = [one.usd for one in each]
        first = next(iter(self.arms.values()))
        return Forecast(
            headline=f"{first.total:,} answers of {self.run.path}, judged with {'; '.join(ARMS.values())}",
            facts={"run": str(self.run.path), "arms": list(self.arms), "examples": first.total},
            lms=each[0].lms,
            calls={name: sum(one.calls[name] for one in each) for name in each[0].calls},
            input_tokens=sum(one.input_tokens for one in each),
            output_tokens=sum(one.output_tokens for one in each),
            usd=None if None in usd else sum(x for x in usd if x is not None),
        )

    def found(self, judged: Mapping[str, RunDir]) -> Ablation:
        """What the judged runs come to, those of all arms."""
        return ablation(self.run, judged, {name: price_evenly(arm.lms) for name, arm in self.arms.items()})

    def next_commands(self, judged: Mapping[str, RunDir]) -> list[str]:
        """What to do next, a command each."""
        return [
            f"spri report {shlex.quote(str(self.run.path))}",
            *self.arms["own"].next_commands(judged["own"])[:1],
        ]


def plan(request: judge.JudgeRequest) -> AblatePlan:
    """Check what is asked and make it ready; no key is needed and nothing is written.

    Args:
        request: as for a judging; its setting `rubric` is the general arm's (general, or a file).

    Raises:
        UsageError: the run has no rubrics, a judge or several LMs are named, or a setting does not fit every arm.
        SpriError: as `judge.plan` says.
    """
    if request.judges or len(request.lms) > 1:
        raise UsageError(
            "--ablate names its judges itself, and asks one LM; leave --judge and further --lm out"
        )
    settings = dict(request.settings)
    general = settings.pop("rubric", "general")
    for name, what in _REFUSED.items():
        if name in settings:
            raise UsageError(
                f"--ablate compares judges that differ in their rubric alone; {name}= is for {what}"
            )
    if general in ("run", "label") or "," in general:
        raise UsageError(
            f"the general rubric is one for all answers: --set rubric=general or a file, not {general}"
        )
    run = RunDir.read(request.run)
    if not any(record.outputs.get("principles") for record in run.records() if record.ok):
        raise DataError(f"{run.path} wrote no rubrics, so there is nothing to leave out; run spri first")
    asked = {"own": ("rubric", "run"), "none": ("generic", None), "general": ("rubric", general)}
    arms: dict[str, judge.JudgePlan] = {}
    for name, (judge_name, rubric) in asked.items():
        given = settings if rubric is None else settings | {"rubric": rubric}
        arms[name] = judge.plan(replace(request, judges=[judge_name], settings=given))
    return AblatePlan(run, arms, next(iter(arms["general"].source())).input_values["rubric"])


def check_gate(plan: AblatePlan) -> None:
    """Refuse, before anything is paid for, what no gate can be made of.

    Raises:
        UsageError: another task than rubrics, no labels of people, or a general rubric without five levels.
    """
    if plan.run.manifest.get("task") != "rubrics":
        raise UsageError("a gate is for runs of the task rubrics; leave --gate out")
    _general_rubric(plan)
    if not any({LABEL, PREFERENCE} & record.labels.keys() for record in plan.run.records()):
        raise UsageError(_NO_LABELS)


def decide(plan: AblatePlan, found: Ablation) -> Gate:
    """The gate that an ablation's figures call for.

    Raises:
        UsageError: no labels, or a general rubric without five levels.
    """
    if not found.has_labels:
        raise UsageError(_NO_LABELS)
    general = _general_rubric(plan).model_dump()
    by_group = {each.where: _hurts(each) for each in found.groups}
    overall = next(each for each in found.differences if (each.first, each.second) == ("own", "general"))
    return Gate(
        general,
        everywhere=bool(_hurts(overall)),
        groups={name: verdict for name, verdict in by_group.items() if verdict is not None},
        stop_reasons=frozenset(each.where for each in found.stop_reasons if _hurts(each)),
        validated_on=tuple(dict.fromkeys(_instructions(plan.run))),
        evidence={"run": plan.run.path.name, "ablation": found.to_json()},
    )


def gate_lines(gate: Gate, found: Ablation, path: Path) -> list[str]:
    """What a gate does and what it costs, a line each."""
    groups = [name for name, falls in gate.groups.items() if falls]
    falls = [*(["every group that is not decided by its own rows"] if gate.everywhere else []), *groups]
    falls += [f"after a rubric's loop that ended {reason}" for reason in sorted(gate.stop_reasons)]
    calls = sum(arm.usage.calls + arm.usage.cached for arm in found.arms if arm.name != "none")
    lines = [
        f"gate {path}: general rubric for {', '.join(falls)}"
        if falls
        else f"gate {path}: own rubrics everywhere; nowhere do they lower the agreement beyond chance",
        f"what it costs: {calls:,} judge calls and {found.n:,} labelled answers that can be no test rows any more; a "
        "group whose own rubrics are as good falls back by chance in about 2.5 % of gates",
    ]
    if groups or gate.everywhere:
        lines.append("what it saves: no rubric is written where a group falls back")
    if gate.stop_reasons:
        lines.append("after a stop reason nothing is saved: the rubric is written first, and then replaced")
    return lines


def write_gate(gate: Gate, path: Path) -> None:
    """Write a gate's file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, gate.to_text())
    except OSError as error:
        raise UsageError(f"the gate {path} cannot be written: {error.strerror}") from None


def _hurts(each: Difference) -> bool | None:
    """Whether own rubrics lower the agreement; None if the interval has both signs or is not there."""
    low, high = each.comparison.low, each.comparison.high
    return True if high < 0 else False if low > 0 else None


def _general_rubric(plan: AblatePlan) -> Rubric:
    try:
        return Rubric.from_text(str(plan.general))
    except ValueError:
        raise UsageError(
            "a gate needs a general rubric with criteria and Score 1: to Score 5: lines"
        ) from None


def _instructions(run: RunDir) -> Iterable[str]:
    return (str(record.inputs["instruction"]) for record in run.records() if "instruction" in record.inputs)

"""The cells of a table: every system with every base LM, each a resumable run, judged where the table wants it.

`plan` checks all cells before anything is written or paid: names, keys, every row of the data, and that the judge is
shown all it needs. `Grid.run` fills what is missing; `Cell.scores` reads the numbers of the examples asked for now,
whatever else a run holds. It knows runs and judges; which numbers stand in which column is in `tables`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spri_dspy import Budget
from spri_dspy.commands import judge, run
from spri_dspy.commands.execution import Execution
from spri_dspy.commands.forecast import cost, price_evenly
from spri_dspy.commands.manifest import folder_name
from spri_dspy.errors import DataError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.judges.function import FunctionJudge
from spri_dspy.lms.spec import check_offline_roles, load_lm, parse_lm
from spri_dspy.records import Record, Score
from spri_dspy.report.figures import LABEL, criteria_of, scores_of
from spri_dspy.runs import RunDir
from spri_dspy.systems import check_evaluable, load_system
from spri_dspy.tasks import Example, Task, load_task

OFFLINE = "offline"
_PROMPT_TOKENS, _ANSWER_TOKENS = 350, 150  # of a judge's own words, and of an answer, for the forecast
_GIVEN = ("answer", "response", "instruction")  # what a judge gets from the run itself


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a table is asked for.

    Attributes:
        systems: as typed, with settings behind colons (`spri:seeds=none`); none means all of the task.
        bases: LM strings, one block of the table each.
        critic: the critic of every base; None means that the base criticises itself.
        judges: LM strings; several are a panel; none is the stand-in, which judges offline answers only.
        data: as for `spri run`.
        limit: only the first N examples.
        runs: where the runs lie; None is `benchmark-runs/TASK` of the working directory.
        paper: the published behaviour of every system.
        seed: of everything random, the bootstrap included.
        allow_leak: go on although evaluation inputs are among the seeds; the table is marked.
    """

    systems: Sequence[str] = ()
    bases: Sequence[str] = (OFFLINE,)
    critic: str | None = None
    judges: Sequence[str] = ()
    data: str | None = None
    limit: int | None = None
    runs: Path | str | None = None
    paper: bool = False
    seed: int = 0
    allow_leak: bool = False


@dataclass
class Cell:
    """One system with one base.

    Attributes:
        system: as typed.
        base: the base's short name, unique in the grid.
        base_lm: its LM string.
        examples: what is asked, by id.
        path: the run directory.
        judged: the judged run; None until it is made, or where nothing is judged.
    """

    system: str
    base: str
    base_lm: str
    plan: run.RunPlan
    path: Path
    examples: Mapping[str, Example] = field(default_factory=dict)
    judged: Path | None = None

    @property
    def sees(self) -> str:
        """The most that the system's criteria are made from: input, responses or labels."""
        return self.plan.manifest["sees"]

    @property
    def leaks(self) -> list[str]:
        """Evaluation inputs that are among the system's seeds."""
        return self.plan.manifest.get("leaks", [])

    def records(self) -> Iterator[Record]:
        """The finished examples of those asked for."""
        return (r for r in RunDir.read(self.path).records() if r.id in self.examples)

    def scores(self, criterion: str) -> list[Score]:
        """One Score an example, without a value where it failed, was not judged, or could not be read.

        Examples that had nothing to give a number to (an instance of the rubrics task without an answer) are none.
        """
        run = RunDir.read(self.judged or self.path)
        try:
            has = criterion in criteria_of(run)
        except DataError:  # no example came so far as to have a number
            has = False
        found = {s.id: s for s in scores_of(run, criterion)} if has else {}
        # A judged answer may be empty and is asked about all the same; without an answer there is nothing to score.
        unasked = {r.id for r in self.records() if r.ok and "response" not in r.outputs}
        return [
            found.get(e.id) or Score(e.id, None, _label(e), e.group, e.cluster)
            for e in self.examples.values()
            if e.id not in unasked
        ]

    def failed(self) -> int:
        """Examples whose run ended in an error."""
        return sum(not record.ok for record in self.records())


@dataclass
class Grid:
    """All cells of a table, checked and ready.

    Attributes:
        cells: base by base, systems in the order asked for.
        judge: name of the judge; None where the systems' own scores are read.
        left_out: systems that the data has no labels for, with the reason.
    """

    task: Task
    ask: Ask
    cells: list[Cell]
    judge: str | None
    left_out: dict[str, str]
    judge_lms: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        """Where the examples come from, as people would say it."""
        source = self.task.source(self.ask.data)
        return "built-in examples" if source == str(self.task.built_in) else source

    @property
    def stand_ins(self) -> list[str]:
        """Which roles the offline stand-in fills; empty if none."""
        roles = {"base": self.ask.bases, "critic": [self.ask.critic or ""], "judge": self.judge_lms}
        return [role for role, lms in roles.items() if any(lm.startswith(OFFLINE) for lm in lms)]

    def forecast(self) -> dict[str, Any]:
        """Calls and dollars of what is not finished yet, by cell and in all; dollars None if a price is unknown."""
        cells = [self._cell_forecast(cell) for cell in self.cells]
        names = ("fewest", "typical", "most")
        total = {name: sum(c["calls"][name] for c in cells) for name in names}
        prices = [c["usd_typical"] for c in cells]
        usd = None if None in prices else sum(prices)
        return {"task": self.task.name, "data": self.data, "cells": cells, "calls": total, "usd_typical": usd}

    def forecast_lines(self) -> Iterator[str]:
        """The forecast for people: a line a cell, then the sum."""
        f = self.forecast()
        for c in f["cells"]:
            done = f", {c['finished']} finished before" if c["finished"] else ""
            calls = "{fewest} to {most} LM calls, typically {typical}".format(**c["calls"])
            yield f"{c['base']} {c['system']}: {c['examples']} examples{done}; {calls}"
        yield self.forecast_line(f)

    def forecast_line(self, forecast: Mapping[str, Any] | None = None) -> str:
        """The sum alone."""
        f = forecast or self.forecast()
        cost = "no known price" if f["usd_typical"] is None else f"about ${f['usd_typical']:.2f}"
        calls = "{fewest} to {most} LM calls, typically {typical}".format(**f["calls"])
        return f"{len(f['cells'])} cells of {f['task']}, {f['data']}: {calls}; {cost}"

    def _cell_forecast(self, cell: Cell) -> dict[str, Any]:
        whole, n = cell.plan.forecast(), len(cell.examples)
        finished = sum(r.ok for r in cell.records()) if (cell.path / "manifest.json").exists() else 0
        left = (n - finished) / n if n else 0.0
        calls = {name: round(each * left) for name, each in whole.calls.items()}
        usd = whole.usd
        if self.judge:
            each = max(1, len(getattr(load_judge(self.judge), "criteria", ()))) * len(self.judge_lms)
            asked = (n - _n_judged(cell, self.judge_lms)) * each
            tokens = asked * (cell.plan.characters / 4 / max(1, n) + _PROMPT_TOKENS)
            prices = price_evenly(parse_lm(text) for text in self.judge_lms)
            judging_usd = cost(prices, tokens, asked * _ANSWER_TOKENS)
            calls = {name: each + asked for name, each in calls.items()}
            usd = None if usd is None or judging_usd is None else usd * left + judging_usd
        return {
            "base": cell.base,
            "system": cell.system,
            "examples": n,
            "finished": finished,
            "calls": calls,
            "usd_typical": usd,
        }

    def run(
        self,
        *,
        concurrency: int = 16,
        budget: Budget | None = None,
        retry_errors: bool = False,
        on_cell: Callable[[Cell], None] | None = None,
    ) -> None:
        """Run and judge what is not finished; cell by cell, in their order.

        Args:
            concurrency: LM calls in flight at most, per LM.
            budget: of all cells together, what earlier starts spent included.
            retry_errors: failed examples once more.
            on_cell: called before each cell.

        Raises:
            BudgetSpent: it is; what is finished is kept.
        """
        how = Execution(concurrency=concurrency, budget=budget, retry_errors=retry_errors)
        judges = [parse_lm(text) for text in self.judge_lms]
        how.check([spec for cell in self.cells for spec in cell.plan.lms.values()] + judges)
        for cell in self.cells:  # a missing key shows before anything is paid
            cell.plan.load_lms()
        for spec in judges:
            load_lm(spec)
        for cell in self.cells:
            if on_cell:
                on_cell(cell)
            with cell.plan.open(cell.path) as directory:
                cell.plan.execute(directory, how)
            if self.judge and any(
                r.ok and str(r.outputs.get("response") or "").strip() for r in cell.records()
            ):
                self._judge(cell, how)

    def _judge(self, cell: Cell, how: Execution) -> None:
        assert self.judge is not None
        planned = judge.plan(
            judge.JudgeRequest(
                run=cell.path, judges=[self.judge], lms=self.judge_lms, allow_leak=self.ask.allow_leak
            )
        )
        everything = planned.source
        # The run may hold more examples than are asked for now; judging those would not be free.
        planned.source = lambda: (e for e in everything() if e.id in cell.examples)
        with planned.open() as directory:
            planned.execute(directory, how)
            cell.judged = directory.path


def plan(
    task_name: str,
    ask: Ask,
    *,
    systems: Sequence[str],
    judge: str | None = None,
    system_files: Mapping[str, str] | None = None,
) -> Grid:
    """Check what is asked, for every cell.

    Args:
        task_name: the task.
        ask: what is asked.
        systems: what to run if no system is named; those that need labels the data lacks are left out.
        judge: the judge of the answers, None if the systems' own scores are read.
        system_files: how systems are found, if not by their names: name -> path/to/file.py:NAME.

    Raises:
        UsageError: anything about what is asked, or about the data, is wrong.
        LeakError: evaluation inputs are among a system's seeds.
    """
    task = load_task(task_name)
    for what, named in (("system", ask.systems), ("base", ask.bases), ("judge", ask.judges)):
        twice = [name for n, name in enumerate(named) if name in named[:n]]
        if twice:
            raise UsageError(f"the {what} {twice[0]!r} is named twice")
    judge_lms = _judge_lms(ask, judge)
    chosen = ask.systems or systems
    found = dict(system_files or {})
    left_out = {} if ask.systems else _without_labels(task, ask, systems, found)
    names = _short_names(ask.bases)
    grid = Grid(task, ask, [], judge, left_out, judge_lms)
    for base in ask.bases:
        grid.cells += [_cell(task, ask, base, names[base], s, found) for s in chosen if s not in left_out]
    if judge:
        _check_shown(grid.cells[0], load_judge(judge))
    return grid


def split_system(text: str) -> tuple[str, dict[str, str]]:
    """`NAME:SETTING=VALUE:SETTING=VALUE` as name and settings; a value may hold colons (`seeds=k:2`)."""
    name, *settings = re.split(r":(?=\w+=)", text)
    return name, dict(setting.split("=", 1) for setting in settings)


def _cell(task: Task, ask: Ask, base: str, name: str, system: str, files: Mapping[str, str]) -> Cell:
    called, settings = split_system(system)
    called = files.get(called, called)
    given: dict[str, Any] = settings
    check_evaluable(load_system(called, task, **given))
    planned = run.plan(
        run.RunRequest(
            task=task,
            system=called,
            settings=settings,
            data=ask.data,
            lms={"base": base} | ({"critic": ask.critic} if ask.critic else {}),
            limit=ask.limit,
            seed=ask.seed,
            paper=ask.paper,
            allow_leak=ask.allow_leak,
        )
    )
    # Other settings get another folder, so that one folder of runs serves tables of many kinds.
    folder = folder_name(f"{name}-{system}", planned.manifest)
    root = Path(ask.runs) if ask.runs else Path("benchmark-runs") / task.name
    return Cell(system, name, base, planned, root / folder, {e.id: e for e in planned.source()})


def _judge_lms(ask: Ask, judge: str | None) -> tuple[str, ...]:
    if judge is None:
        if ask.judges:
            raise UsageError(
                "this table asks no judge: the systems' own scores are read; leave --lm judge= out"
            )
        return ()
    if isinstance(load_judge(judge), FunctionJudge):
        if ask.judges:
            raise UsageError(f"the judge {judge} asks no LM; leave --lm judge= out")
        return ()
    judges = tuple(ask.judges) or (OFFLINE,)
    for base in ask.bases:
        for text in judges:
            check_offline_roles({"base": parse_lm(base), "judge": parse_lm(text)})
    return judges


def _without_labels(task: Task, ask: Ask, systems: Sequence[str], files: Mapping[str, str]) -> dict[str, str]:
    """Systems that are shown labels which an example lacks, with the reason."""
    called = {s: split_system(s)[0] for s in systems}
    wants = {s: load_system(files.get(n, n), task, paper=ask.paper).label_inputs for s, n in called.items()}
    wants = {s: names for s, names in wants.items() if names}
    found: dict[str, str] = {}
    for number, example in enumerate(task.examples(ask.data)) if wants else ():
        if ask.limit is not None and number >= ask.limit:
            break
        for system, names in wants.items():
            missing = [name for name in names if name not in example.label_values]
            if missing:
                found.setdefault(system, f"example {example.id!r} has no {', '.join(missing)}")
    return found


def _check_shown(cell: Cell, judge: Any) -> None:
    """Refuse examples that lack what the judge is shown.

    Raises:
        DataError: one does; names it.
    """
    for example in cell.examples.values():
        known = {*example.input_values, *example.label_values, *_GIVEN}
        missing = [name for name in judge.inputs if name not in known]
        if missing:
            raise DataError(
                f"example {example.id!r} has no {', '.join(missing)}, which the judge {judge.name} is shown"
            )


def _n_judged(cell: Cell, lms: Sequence[str]) -> int:
    """How many of the examples these LMs have judged before."""
    named = {str(parse_lm(text)) for text in lms}
    runs = [RunDir.read(path.parent) for path in (cell.path / judge.FOLDER).glob("*/manifest.json")]
    runs = [run for run in runs if {*run.manifest.get("lms", {}).values()} == named]
    return max((len(run.finished() & cell.examples.keys()) for run in runs), default=0)


def _label(example: Example) -> float | None:
    value = example.label_values.get(LABEL)
    return float(value) if isinstance(value, int | float) and value != -1 else None


def _short_names(bases: Sequence[str]) -> dict[str, str]:
    """The model's last part where that is unique, else the whole LM string."""
    specs = {base: parse_lm(base) for base in bases}
    short = {base: spec.model.rsplit("/", 1)[-1] for base, spec in specs.items()}
    seen = list(short.values())
    return {base: name if seen.count(name) == 1 else str(specs[base]) for base, name in short.items()}

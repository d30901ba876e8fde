"""Tuning by a recipe, from its fields to a tuned program on disk.

`plan` checks all that can be checked before anything is written or paid: names, options, LM strings, every row of the
data, that the metric can score them, and that nothing stands on two sides of a split. `TunePlan.execute` looks for
keys, runs the experiment and writes into its run directory, beside what the experiment keeps there,

    program.json    prompts and demos as DSPy saves them; `metadata` says where they come from and how good they are
    candidate.json  the same of the candidate that came to the decision, where it did not replace the start
    trials.jsonl    every program that was tried, a line each
    search.png      the same as a picture, where matplotlib is installed

What the recipe says of LMs, the user says: it is named by the user. What a program.json says is shown and never obeyed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from spri_dspy.bulk import plain
from spri_dspy.commands.forecast import Forecast, cost, price_evenly
from spri_dspy.commands.manifest import folder_name, short_name, source_fingerprint, versions
from spri_dspy.commands.recipe import Recipe
from spri_dspy.durable import start_over, write_whole
from spri_dspy.errors import DataError, PrerequisiteError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.lms.budget import LIMITS, Budget
from spri_dspy.lms.spec import LMSpec, check_offline_roles, check_roles, load_lm, parse_lm
from spri_dspy.metrics import Metric, load_metric
from spri_dspy.program import load_program, set_lms
from spri_dspy.records import Record
from spri_dspy.report.tuning import KIND
from spri_dspy.runs import MANIFEST, RunDir, fingerprint
from spri_dspy.strict_json import to_text
from spri_dspy.systems import check_evaluable, load_system
from spri_dspy.tasks import Example, Task, load_task
from spri_dspy.tuning.evaluation import unscorable
from spri_dspy.tuning.experiment import Experiment, explained
from spri_dspy.tuning.splits import Splits

PROGRAM, CANDIDATE, TRIALS, PLOT = "program.json", "candidate.json", "trials.jsonl", "search.png"

_JUDGES = {"alignment": "reappraisal", "empathy": "reappraisal", "mix": "reappraisal", "score": "generic"}
_PROMPT_TOKENS, _ANSWER_TOKENS = (
    600,
    150,
)  # of a stage's own words and seeds, and of an answer, for the forecast
_SPLITS = {"train": "trainset", "validation": "valset", "test": "testset"}


@dataclass
class TunePlan:
    """A recipe that is checked and ready.

    Attributes:
        recipe: what is asked.
        task, program: the program gets its LMs when it is executed.
        experiment: what will be run; its metric's judges get their LM then as well.
        given: `trainset`, `valset` and `testset` of the experiment; None where it is to take them out of the first.
        splits: what the experiment will make of them.
        specs: LMs by role.
        files: name and fingerprint of the data, by split.
        notes: what to know about the result, such as that there is no plot.
    """

    recipe: Recipe
    task: Task
    program: Any
    experiment: Experiment
    given: Mapping[str, Any]
    splits: Splits
    specs: dict[str, LMSpec]
    files: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)

    @property
    def recipe_hash(self) -> str:
        """What the result depends on: the recipe and its data, wherever the files lie."""
        return fingerprint(
            [self.recipe.identity, {name: file["fingerprint"] for name, file in self.files.items()}]
        )

    @property
    def folder(self) -> Path:
        """The run directory."""
        if self.recipe.output.run:
            return Path(self.recipe.output.run)
        return Path("runs") / folder_name(
            "-".join(
                ["tune", short_name(self.task.name), short_name(self.experiment.optimizer.name)]
            ).replace("_", "-"),
            {"recipe": self.recipe_hash},
        )

    @property
    def lms(self) -> dict[str, str]:
        """LM strings by role, as they are shown."""
        return {role: str(spec) for role, spec in self.specs.items()}

    @property
    def prices(self) -> dict[str, tuple[float, float]]:
        """Dollars a token in and out by role; without those that are unknown."""
        priced = {
            role: price_evenly([spec]) for role, spec in ({"critic": self.specs["base"]} | self.specs).items()
        }
        return {role: price for role, price in priced.items() if price is not None}

    def forecast(self) -> Forecast:
        """About how many LM calls it takes; what is in the cache is free, and new wordings take a few more."""
        sizes = {name: len(part) for name, part in self.splits.parts().items()}
        stages = self.recipe.optimizer.stages or [name for name, _ in self.program.named_predictors()]
        known = {"groups": len({e.group for e in self.splits.train}), "stages": len(stages)}
        later = {"decision": 2 * sizes["holdout"], "test": 2 * sizes["test"]}
        runs = {"search": self.experiment.optimizer.program_runs(sizes | known), **later}
        judges = [
            each for each in (self.experiment.metric.judge, self.experiment.metric.oracle) if each is not None
        ]
        a_run = self.program.calls[1] + sum(len(each.named_predictors()) for each in judges)
        calls = {"fewest": round((sizes["holdout"] + sizes["test"]) * a_run)}
        if runs["search"] is not None:
            calls["most"] = round(sum(runs.values()) * a_run)
        budget = {n: limit for n, limit in self.recipe.budget.model_dump().items() if limit is not None}
        rows = [e for part in self.splits.parts().values() for e in part]
        characters = sum(len(str(value)) for e in rows for value in e.input_values.values()) / len(rows)
        planned = calls.get("most", calls["fewest"])
        tokens, written = round(planned * (characters / 4 + _PROMPT_TOKENS)), planned * _ANSWER_TOKENS
        optimizer, metric = self.experiment.optimizer.name, self.experiment.metric.name
        limits = ", ".join(f"{name} {limit:,}" for name, limit in budget.items())
        return Forecast(
            headline=f"{self.task.name}, {optimizer} by {metric}: "
            + ", ".join(f"{n} {name}" for name, n in sizes.items())
            + f" examples; budget: {limits or 'none'}",
            facts={
                "task": self.task.name,
                "optimizer": optimizer,
                "metric": metric,
                "examples": sizes,
                "program_runs": runs,
                "budget": budget,
                "leaks": [str(leak) for leak in self.splits.leaks],
                "run": str(self.folder),
            },
            lms=self.lms,
            calls=calls,
            input_tokens=tokens,
            output_tokens=written,
            usd=cost(price_evenly(self.specs.values()), tokens, written),
        )

    def execute(
        self,
        *,
        fresh: bool = False,
        on_record: Callable[[Record], None] | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> Any:
        """Run the experiment and write the outcome: the tuned program, with its `report`.

        Args:
            fresh: throw the tuning run that is there away, instead of going on with it.
            on_record: called with each new record.
            on_phase: called with what is being done.

        Raises:
            PrerequisiteError: a key or an address is missing, or a failure that every example would meet.
            UsageError: the run directory is another run's, or in use.
        """
        experiment, folder = self.experiment, self.folder
        self.program.set_lms(
            **{role: load_lm(s) for role, s in self.specs.items() if role in ("base", "critic")}
        )
        for judge in (experiment.metric.judge, experiment.metric.oracle):
            if judge is not None:
                set_lms(
                    judge, base=load_lm(self.specs["judge"])
                )  # all of a judge's predictors are the judge's
        if fresh:
            throw_away(folder)
        experiment.run_dir, experiment.on_record, experiment.on_phase = folder, on_record, on_phase
        tuned = experiment.compile(self.program, **self.given)
        saved = {PROGRAM: tuned, CANDIDATE: None if tuned.report.improved else experiment.candidate}
        for name, program in saved.items():
            if program is not None:
                state = self._saved(program, tuned.report)
                write_whole(folder / name, to_text(state, indent=1, ascii_only=True) + "\n")
        write_whole(
            folder / TRIALS, "".join(to_text(trial, ascii_only=True) + "\n" for trial in tuned.report.trials)
        )
        if self.recipe.output.plot:
            self._draw(tuned.report, folder / PLOT)
        return tuned

    def _saved(self, program: Any, report: Any) -> dict[str, Any]:
        """The program as DSPy saves it, with all that is needed to trust it under `metadata`."""
        from dspy.utils.saving import get_dependency_versions

        recipe = self.recipe.model_dump(mode="json") | {"lms": self.lms}
        if self.recipe.optimizer.prompt_lm is not None:
            recipe["optimizer"]["prompt_lm"] = str(parse_lm(self.recipe.optimizer.prompt_lm))
        about = {
            "task": self.task.name,
            "system": self.recipe.program.system,
            **summary(report),
            "recipe": recipe,
            "recipe_hash": self.recipe_hash,
            "files": self.files,
            "splits": {name: _split(part) for name, part in self.splits.parts().items()},
            "leaks": [str(leak) for leak in self.splits.leaks],
            "lms": self.lms,
            "versions": versions("gepa", "optuna"),
        }
        return program.dump_state() | {
            "metadata": {"dependency_versions": get_dependency_versions(), "tuning": about}
        }

    def _draw(self, report: Any, path: Path) -> None:
        from spri_dspy.tuning.plots import draw

        is_offline = any(spec.prefix == "offline" for spec in self.specs.values())
        title = f"{self.task.name}, {self.experiment.optimizer.name}"
        try:
            draw(report, path, title=title, remark=_OFFLINE if is_offline else "")
        except PrerequisiteError as error:
            self.notes.append(str(error))

    def next_commands(self) -> list[str]:
        """What to do with the tuned program, a command each."""
        folder, program = (shlex.quote(str(path)) for path in (self.folder, self.folder / PROGRAM))
        return [
            f"spri show {folder}",
            f"spri report {folder}",
            f"spri run {self.task.name} --program {program}",
        ]


_OFFLINE = "offline stand-in: these figures say nothing about quality"


def summary(report: Any) -> dict[str, Any]:
    """What a tuning came to, as JSON, without what happened on the way."""
    found = report.to_json()
    return {
        name: value for name, value in found.items() if name not in ("trials", "rounds", "pool", "changes")
    }


def plan(recipe: Recipe, *, allow_leak: bool = False) -> TunePlan:
    """Check a recipe, and make it ready; no key is needed and nothing is written.

    Raises:
        UsageError: anything about it or its data is wrong.
        LeakError: something stands on two sides of a split, or a seed in validation or test.
    """
    task = load_task(recipe.path(recipe.task), **recipe.task_options)
    metric = make_metric(recipe)
    specs = _specs(recipe, metric)
    program = load_system(
        recipe.path(recipe.program.system), task, paper=recipe.program.paper, **recipe.program.settings
    )
    check_evaluable(program)
    if recipe.program.start is not None:
        load_program(program, recipe.path(recipe.program.start))
    part, limits = recipe.optimizer, recipe.budget.model_dump()
    if part.prompt_lm is not None:
        parse_lm(part.prompt_lm)
    experiment = Experiment(
        metric,
        optimizer=recipe.path(part.name),
        options=part.options,
        stages=part.stages,
        prompt_lm=part.prompt_lm,
        budget=Budget(*(limits[name] for name in LIMITS)) if any(limits.values()) else None,
        rng_seed=recipe.seed,
        fractions=recipe.data.fractions.model_dump() if recipe.data.fractions else None,
        text_input=task.text_input,
        select_on=recipe.data.select_on,
        allow_leak=allow_leak,
        **recipe.experiment.model_dump(),
    )
    files, given = _data(recipe, task, program, metric)
    splits = experiment.split(program, *given.values())
    experiment.check(program, splits)
    return TunePlan(recipe, task, program, experiment, given, splits, specs, files)


def make_metric(recipe: Recipe) -> Metric:
    """The metric that a recipe names; its judges have no LM yet.

    Raises:
        UsageError: no such metric, judge or setting.
    """
    part = recipe.metric
    name = part.judge or _JUDGES.get(part.name)
    if name is None and part.judge_settings:
        raise UsageError("metric.judge_settings are of a judge: name one as metric.judge")
    judge = load_judge(recipe.path(name), **part.judge_settings) if name else None
    given = {"judge": judge, "weight": part.weight, "label": part.label}
    settings = {name: value for name, value in given.items() if value is not None}
    if part.label == "oracle":
        settings["oracle"] = load_judge("rubric")
    return load_metric(recipe.path(part.name), **settings)


def _specs(recipe: Recipe, metric: Metric) -> dict[str, LMSpec]:
    """LMs by role, of those that are asked; the recipe's seed reaches every LM that does not state its own.

    Raises:
        UsageError: the base is real, and critic or judge are offline.
    """
    needs_judge = metric.judge is not None or metric.oracle is not None
    specs = {"base": LMSpec("offline"), "judge": LMSpec("offline")} | check_roles(recipe.lms)
    specs = {role: spec for role, spec in specs.items() if role != "judge" or needs_judge}
    check_offline_roles(specs)
    if not recipe.seed:
        return specs
    return {
        role: spec
        if "seed" in spec.options or spec.prefix == "replay"
        else replace(spec, options={**spec.options, "seed": recipe.seed})
        for role, spec in specs.items()
    }


def _data(
    recipe: Recipe, task: Task, program: Any, metric: Metric
) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """Name and fingerprint of each file, and the examples of train, validation and test.

    Raises:
        DataError: a row cannot be used.
        UsageError: the metric can score no row of a file.
    """
    data = recipe.data
    named = (
        {name: getattr(data, name) for name in _SPLITS} if data.train is not None else {"train": data.file}
    )
    files: dict[str, dict[str, str]] = {}
    rows: dict[str, list[Example]] = {}
    for name, file in named.items():
        if name != "train" and file is None:
            continue
        source = task.source(recipe.path(file) if file is not None else None)
        rows[name] = _examples(task, program, source, data.limit)
        files[name] = {"name": Path(source).name, "fingerprint": source_fingerprint(source)}
        lacking = unscorable(metric, rows[name])
        if rows[name] and len(lacking) == len(rows[name]) and (name != "train" or len(named) == 1):
            raise UsageError(f"{source}: no example can be scored by {metric.name}: {explained(lacking)}")
    return files, {argument: rows.get(name) for name, argument in _SPLITS.items()}


def _examples(task: Task, program: Any, source: str, limit: int | None) -> list[Example]:
    """Examples as the program is to see them, each checked.

    Raises:
        DataError: a row cannot be used.
    """
    found: list[Example] = []
    shown = tuple(getattr(program, "label_inputs", ()))
    for example in islice(task.examples(source), limit):
        missing = [name for name in shown if name not in example.label_values]
        if missing:
            raise DataError(f"example {example.id!r} has no {', '.join(missing)}, which this system is shown")
        inputs = {**example.input_values, **{name: example.label_values[name] for name in shown}}
        program.check(inputs, example.group)
        found.append(example.changed(inputs=inputs))
    return found


def throw_away(folder: Path) -> None:
    """Remove a tuning run's directory.

    Raises:
        UsageError: there is something else, or it is in use.
    """
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} holds no tuning run; name an empty or a new directory")
    manifest = RunDir.read(folder).manifest
    if manifest.get("kind") != KIND:
        raise UsageError(f"{folder} is a run of another kind; name another directory")
    with RunDir.create(folder, manifest):
        try:
            start_over(folder)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be thrown away: {error.strerror}; mend that or name another directory"
            ) from None


def _split(part: Sequence[Example]) -> dict[str, Any]:
    """A split by its ids, without the name of the split that they came from, and what was in it."""
    return {
        "n": len(part),
        "ids": [e.id.partition("/")[2] for e in part],
        "fingerprint": fingerprint([plain(e.toDict()) for e in part]),
    }

"""A recipe's work, from its fields to a tuned program on disk.

`plan` checks all that can be checked before anything is written or paid: names, options, LM strings, every row of the
data, and that nothing stands on two sides of a split. `TuneJob.run` searches and writes into the run directory, beside
what the search keeps there,

    program.json    prompts and demos, with all that is needed to trust them; `spri run --program` reads it
    trials.jsonl    every program that was tried, a line each
    search.png      the same as a picture, where matplotlib is installed

It knows recipes and searches; the command line prints.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spri_dspy.bulk import plain
from spri_dspy.commands.recipe import Recipe
from spri_dspy.commands.recipe_parts import data_of, make_metric, planned_runs, program_of, specs_of
from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.lms.budget import Budget, price_of
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.spec import LMSpec, load_lm
from spri_dspy.metrics import Metric
from spri_dspy.runs import CACHE, MANIFEST, RunDir, fingerprint
from spri_dspy.tasks import Example, Task, load_task
from spri_dspy.tuning import make_search
from spri_dspy.tuning.splits import Splits, make_splits

logger = logging.getLogger(__name__)

FORMAT = "spri-program/1"
PROGRAM, TRIALS, PLOT = "program.json", "trials.jsonl", "search.png"
_PACKAGES = ("spri-dspy", "dspy", "litellm", "gepa", "optuna")


@dataclass
class TuneJob:
    """A recipe that is checked and ready.

    Attributes:
        recipe: what is asked.
        task, program, metric: with their LMs.
        given: train, validation and test examples; None where the search is to take them out of train.
        splits: what the search will make of them.
        search: the teleprompter.
        specs: LMs by role.
        files: fingerprints of the data, by name.
        notes: what to know about the result, such as that there is no plot.
    """

    recipe: Recipe
    task: Task
    program: Any
    metric: Metric
    given: tuple[list[Example], list[Example] | None, list[Example] | None]
    splits: Splits
    search: Any
    specs: dict[str, LMSpec]
    files: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def recipe_hash(self) -> str:
        """What the result depends on: the recipe and its data, wherever the files lie."""
        return fingerprint([self.recipe.identity, self.files])

    @property
    def folder(self) -> Path:
        """The run directory."""
        asked, named = self.recipe.output.run, f"tune-{self.task.name}-{self.recipe.optimizer.name}"
        return Path(asked or Path("runs") / f"{named.replace('_', '-')}-{self.recipe_hash[:8]}")

    def run(self, *, fresh: bool = False) -> dict[str, Any]:
        """Search, and write the outcome: the content of program.json, with its `run` directory.

        Args:
            fresh: throw the search that is there away, instead of going on with it.

        Raises:
            PrerequisiteError: a failure that every example would meet; the same again goes on.
            UsageError: the run directory is another search's, or in use.
        """
        folder = self.folder
        if fresh:
            throw_away(folder)
        self.search.run_dir = folder
        train, validation, test = self.given
        tuned = self.search.compile(self.program, trainset=train, valset=validation, testset=test)
        outcome = self._outcome(tuned)
        _write(folder / PROGRAM, json.dumps(outcome, indent=1) + "\n")
        _write(folder / TRIALS, "".join(json.dumps(trial) + "\n" for trial in tuned.report.trials))
        if self.recipe.output.plot:
            self._draw(tuned.report, folder / PLOT)
        return outcome | {"run": str(folder), "notes": self.notes}

    def _outcome(self, tuned: Any) -> dict[str, Any]:
        report, decision = tuned.report, tuned.report.decision
        on = {
            "before": (decision.start, report.test.get("before")),
            "after": (decision.candidate, report.test.get("after")),
            "comparison": (decision.difference, report.test.get("difference")),
        }
        return {
            "format": FORMAT,
            "task": self.task.name,
            "system": self.recipe.program.system,
            "metric": self.metric.name,
            "optimizer": self.recipe.optimizer.name,
            "improved": report.improved,
            "reason": decision.reason,
            "stopped": report.stopped,
            **{
                name: {"validation": _json(validation), "test": _json(test)}
                for name, (validation, test) in on.items()
            },
            "program": tuned.dump_state(),
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_hash": self.recipe_hash,
            "files": self.files,
            "splits": {name: _split(part) for name, part in self.splits.parts().items()},
            "leaks": [str(leak) for leak in self.splits.leaks],
            "lms": {role: str(spec) for role, spec in self.specs.items()},
            "costs": self._costs(),
            "versions": _versions(),
        }

    def _costs(self) -> dict[str, Any]:
        """What all finished calls took, those of earlier starts included; dollars are None where a price is unknown."""
        with closing(CallCache(self.folder / CACHE)) as cache:
            spent = cache.spent()
        prices = {getattr(lm.spec, "model", lm.model): lm for lm in _lms_of(self) if hasattr(lm, "spec")}
        dollars: list[float | None] = []
        for model, (_, tokens_in, tokens_out) in spent.items():
            try:
                price_in, price_out = price_of(prices[model])
                dollars.append(price_in * tokens_in + price_out * tokens_out)
            except (UsageError, KeyError):
                dollars.append(None)
        known = [each for each in dollars if each is not None]
        return {
            "calls": sum(calls for calls, _, _ in spent.values()),
            "input_tokens": sum(tokens for _, tokens, _ in spent.values()),
            "output_tokens": sum(tokens for _, _, tokens in spent.values()),
            "usd": round(sum(known), 6) if len(known) == len(dollars) else None,
        }

    def _draw(self, report: Any, path: Path) -> None:
        from spri_dspy.tuning.plots import draw

        is_offline = any(spec.prefix == "offline" for spec in self.specs.values())
        title = f"{self.task.name}, {self.recipe.optimizer.name}"
        try:
            draw(report, path, title=title, remark=_OFFLINE if is_offline else "")
        except PrerequisiteError as error:
            self.notes.append(str(error))

    def forecast(self) -> dict[str, Any]:
        """How many examples there are, and about how many LM calls the search takes; calls from the cache are free."""
        runs = planned_runs(self.search, self.splits)
        judges = [each for each in (self.metric.judge, self.metric.oracle) if each is not None]
        a_run = self.program.calls[1] + sum(len(each.named_predictors()) for each in judges)
        sizes = {name: len(part) for name, part in self.splits.parts().items()}
        calls = {step: round(n * a_run) for step, n in runs.items()}
        limits = self.recipe.budget.model_dump()
        return {
            "task": self.task.name,
            "optimizer": self.recipe.optimizer.name,
            "metric": self.metric.name,
            "examples": sizes,
            "lms": {role: str(spec) for role, spec in self.specs.items()},
            "program_runs": runs,
            "calls_typical": calls | {"all": sum(calls.values())},
            "budget": {name: limit for name, limit in limits.items() if limit is not None},
            "leaks": [str(leak) for leak in self.splits.leaks],
            "run": str(self.folder),
        }

    def forecast_lines(self) -> Iterator[str]:
        """The forecast for people."""
        f = self.forecast()
        yield f"{f['task']}, {f['optimizer']} by {f['metric']}"
        yield "examples: " + ", ".join(f"{n} {name}" for name, n in f["examples"].items())
        yield from (f"{role}: {lm}" for role, lm in f["lms"].items())
        steps = ", ".join(f"{n:,} {step}" for step, n in f["calls_typical"].items() if step != "all")
        yield f"LM calls: about {f['calls_typical']['all']:,} at most ({steps}), beside a few for new wordings"
        limits = ", ".join(f"{name} {limit:,}" for name, limit in f["budget"].items())
        yield f"budget: {limits or 'none'}"
        yield "nothing was run and nothing was written"


def summary(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a search came to, without what only program.json is for."""
    sizes = {name: part["n"] for name, part in outcome["splits"].items()}
    return {k: v for k, v in outcome.items() if k not in ("program", "recipe")} | {"splits": sizes}


def outcome_lines(outcome: Mapping[str, Any]) -> Iterator[str]:
    """What a search came to, for people."""
    end = "improved" if outcome["improved"] else "no improvement, the start stands"
    yield f"{outcome['task']}, {outcome['optimizer']} by {outcome['metric']}: {end}"
    yield outcome["reason"]
    if outcome["stopped"]:
        yield f"stopped early: {outcome['stopped']}"
    rows = [("rows", "examples", "start", "tuned", "difference")]
    for split, name in (("validation", "confirm"), ("test", "test")):
        parts = [outcome[part][split] for part in ("before", "after", "comparison")]
        if any(part is not None for part in parts):
            cells = (_cell(parts[0], "value"), _cell(parts[1], "value"), _cell(parts[2], "difference"))
            rows.append((split, str(outcome["splits"][name]["n"]), *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    costs = outcome["costs"]
    usd = "no known price" if costs["usd"] is None else f"${costs['usd']:.2f}"
    tokens = costs["input_tokens"] + costs["output_tokens"]
    yield f"{costs['calls']:,} LM calls, {tokens:,} tokens, {usd}"
    if any(lm.partition("?")[0] == "offline" for lm in outcome["lms"].values()):
        yield _OFFLINE
    if outcome["leaks"]:
        yield f"marked: examples match across splits or with seeds, such as {outcome['leaks'][0]}"


def _cell(part: Mapping[str, Any] | None, name: str) -> str:
    """A figure with its interval, and p where there is one."""
    if part is None or part[name] is None:
        return "-"
    ends = f" ({part['low']:.3f} to {part['high']:.3f})" if part["low"] is not None else ""
    p = f", p = {part['p']:.2g}" if part.get("p") is not None else ""
    return f"{part[name]:+.3f}{ends}{p}" if name == "difference" else f"{part[name]:.3f}{ends}"


_OFFLINE = "offline stand-in: these figures say nothing about quality"


def plan(recipe: Recipe, *, allow_leak: bool = False) -> TuneJob:
    """Check a recipe, and make it ready.

    Raises:
        UsageError: anything about it or its data is wrong.
        LeakError: something stands on two sides of a split, or a seed in validation or test.
        PrerequisiteError: a key or an address is missing.
    """
    task = load_task(recipe.path(recipe.task), **recipe.task_options)
    specs = specs_of(recipe)
    program = program_of(recipe, task)
    program.set_lms(**{role: load_lm(spec) for role, spec in specs.items() if role != "judge"})
    metric = make_metric(recipe.metric, specs.get("judge", LMSpec("offline")), recipe)
    search = _search(recipe, task, metric, allow_leak=allow_leak)
    files, given = data_of(recipe, task, program)
    seeds = [dict(demo) for _, predictor in program.named_predictors() for demo in predictor.demos]
    splits = make_splits(
        *given,
        input_names=program.inputs,
        seeds=[*seeds, *getattr(getattr(search, "pool", None), "written", ())],
        text_input=search.text_input,
        confirm=_confirm(search),
        seed=recipe.seed,
        allow_leak=allow_leak,
    )
    return TuneJob(recipe, task, program, metric, given, splits, search, specs, files)


def throw_away(folder: Path) -> None:
    """Remove a search's run directory.

    Raises:
        UsageError: there is something else, or it is in use.
    """
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} holds no search; name an empty or a new directory")
    manifest = RunDir.read(folder).manifest
    settings: Any = manifest.get("settings", {})
    if "metric" not in settings:
        raise UsageError(f"{folder} is a run, and no search; name another directory")
    with RunDir.create(folder, manifest):
        shutil.rmtree(folder)


def _search(recipe: Recipe, task: Task, metric: Metric, *, allow_leak: bool) -> Any:
    part, limits = recipe.optimizer, recipe.budget
    budget = Budget(limits.max_calls, limits.max_tokens, limits.max_usd)
    options = {"text_input": task.text_input, "allow_leak": allow_leak, **part.options}
    return make_search(
        part.name,
        metric,
        stages=part.stages,
        budget=budget if any(limit is not None for limit in limits.model_dump().values()) else None,
        rng_seed=recipe.seed,
        **options,
    )


def _confirm(search: Any) -> float:
    return search.racing.confirm if hasattr(search, "racing") else search.confirm


def _split(part: Sequence[Example]) -> dict[str, Any]:
    """A split by its ids, without the name of the file that they came from, and what was in it."""
    return {
        "n": len(part),
        "ids": [e.id.partition("/")[2] for e in part],
        "fingerprint": fingerprint([plain(e.toDict()) for e in part]),
    }


def _lms_of(job: TuneJob) -> list[Any]:
    modules = [m for m in (job.program, job.metric.judge, job.metric.oracle) if m is not None]
    lms = [p.lm for module in modules for _, p in module.named_predictors()]
    return lms + [getattr(job.search, name, None) for name in ("writer", "proposer")]


def _versions() -> dict[str, str]:
    """Python and the packages that shape a search."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _json(value: Any) -> dict[str, Any] | None:
    return value.to_json() if value is not None else None


def _write(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)

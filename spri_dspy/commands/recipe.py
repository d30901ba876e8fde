"""A whole tuning as a file: TOML in, a tuned program with everything that is needed to trust it out.

    task = "reappraisal"
    [data]
    file = "posts.jsonl"
    [lms]
    base = "openai/gpt-4o-mini"
    judge = "openai/gpt-4o"
    [metric]
    name = "mix"
    [optimizer]
    name = "seed_search"
    [budget]
    max_usd = 5.0

`read` checks a file field by field, `change` applies what the command line says instead, and `commands.tune` makes it
ready and runs it. Paths in a recipe are relative to its file, the run directory to where it is run.

It knows fields and names. Unknown fields are refused, so that a slip of the pen is no silent default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pydantic

from spri_dspy.errors import UsageError


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Fractions(_Part):
    """Shares of one file, which add up to 1. Clusters and texts that are nearly the same stay together."""

    train: float = pydantic.Field(gt=0, lt=1)
    validation: float = pydantic.Field(gt=0, lt=1)
    test: float = pydantic.Field(ge=0, lt=1)


class Data(_Part):
    """Where examples come from: one file that is split, or a file a split.

    Attributes:
        file: JSON lines, parquet, hub or hf:NAME:SPLIT; nothing means the task's built-in examples.
        train, validation, test: a file each; what is missing is taken out of train.
        fractions: how `file` is split; by default 0.2, 0.5 and 0.3.
        select_on: evaluation sets whose rows may stand in `validation`: candidates are chosen on them, none is made of
            them, and the result says so. In `train` they are refused all the same.
        limit: only the first so many examples of each file.
    """

    file: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    fractions: Fractions | None = None
    select_on: list[str] = []
    limit: int | None = pydantic.Field(default=None, ge=1)


class ProgramPart(_Part):
    """What is tuned.

    Attributes:
        system: spri or a baseline's name.
        settings: of the system, such as seeds = "nearest:3".
        start: a saved or tuned program to begin with.
        paper: the published behaviour.
    """

    system: str = "spri"
    settings: dict[str, Any] = {}
    start: str | None = None
    paper: bool = False


class MetricPart(_Part):
    """What is maximised.

    Attributes:
        name: alignment, empathy, mix, pair_accuracy, pearson, score, an installed one, or path/to/file.py:NAME.
        judge: its judge: reappraisal, generic, rubric, or path/to/file.py:NAME; by default the metric's own.
        judge_settings: of the judge, such as samples = 3.
        label: of pearson: human_score, another label, or oracle (a rubric judge with the data's own rubric makes it).
        weight: of mix: that of alignment, 0 to 1.
    """

    name: str
    judge: str | None = None
    judge_settings: dict[str, Any] = {}
    label: str | None = None
    weight: float | None = None


class OptimizerPart(_Part):
    """How it is searched.

    Attributes:
        name: an optimizer's name, or path/to/file.py:NAME; see `tuning.optimizers`.
        stages: predictors to tune; nothing means the optimizer's usual ones.
        prompt_lm: the LM that writes instructions and new seeds; by default the base.
        options: of the optimizer: its keyword parameters.
    """

    name: str = "seed_search"
    stages: list[str] | None = None
    prompt_lm: str | None = None
    options: dict[str, Any] = {}


class ExperimentPart(_Part):
    """How it is scored and decided, whatever searches; see `tuning.experiment.Experiment`."""

    holdout: float = pydantic.Field(default=0.5, gt=0, lt=1)
    level: float = pydantic.Field(default=0.05, gt=0, le=1)
    rollouts: int = pydantic.Field(default=1, ge=1)
    concurrency: int = pydantic.Field(default=16, ge=1)


class BudgetPart(_Part):
    """What all calls may spend, earlier starts of the same run included."""

    max_calls: int | None = pydantic.Field(default=None, gt=0)
    max_tokens: int | None = pydantic.Field(default=None, gt=0)
    max_usd: float | None = pydantic.Field(default=None, gt=0)


class Output(_Part):
    """Where it goes.

    Attributes:
        run: the run directory; by default runs/tune-NAME-HASH.
        plot: whether the search is drawn, where matplotlib is installed.
    """

    run: str | None = None
    plot: bool = True


class Recipe(_Part):
    """A whole tuning.

    Attributes:
        task: built in, installed, or path/to/file.py:NAME.
        task_options: such as with_reference = true.
        lms: LM strings by role (base, critic, judge); nothing means offline, and the base for the critic.
        seed: of splits, searches and LMs.
    """

    task: str
    metric: MetricPart
    task_options: dict[str, Any] = {}
    data: Data = Data()
    program: ProgramPart = ProgramPart()
    lms: dict[str, str] = {}
    optimizer: OptimizerPart = OptimizerPart()
    experiment: ExperimentPart = ExperimentPart()
    budget: BudgetPart = BudgetPart()
    output: Output = Output()
    seed: int = pydantic.Field(default=0, ge=0)

    _folder: Path = pydantic.PrivateAttr(default=Path())

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result beside the data, as JSON; not the budget, nor where it goes."""
        table = self.model_dump(
            mode="json", exclude={"budget": True, "output": True, "experiment": {"concurrency"}}
        )
        for name in ("file", "train", "validation", "test", "select_on"):
            table["data"].pop(name)
        return table

    def path(self, name: str) -> str:
        """A path of the recipe, or path/to/file.py:NAME, from where it is run; hub, hf: and plain names stay."""
        if name == "hub" or name.startswith("hf:") or not ("/" in name or "." in name):
            return name
        return str(self._folder / name)


def read(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        UsageError: the file or a field cannot be used; names both.
    """
    file = Path(path)
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    return _checked(str(path), table, file.absolute().parent)


def change(
    recipe: Recipe,
    *,
    lms: Mapping[str, str] | None = None,
    data: str | None = None,
    run: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    budget: Mapping[str, float | None] | None = None,
) -> Recipe:
    """The recipe with what is given instead; None leaves a field as it is.

    Args:
        recipe: as read.
        lms: LM strings by role; other roles stay.
        data: one file instead of all that the recipe names; its fractions stay.
        run: the run directory.
        limit: only the first so many examples of each file.
        seed: see Recipe.
        budget: max_calls, max_tokens, max_usd.

    Raises:
        UsageError: a value is out of range.
    """
    table = recipe.model_dump()
    table["lms"] |= lms or {}
    if data is not None:
        is_name = data.startswith("hf:") or (data.isidentifier() and not Path(data).exists())
        here = data if data == "hub" or is_name else str(Path(data).absolute())
        table["data"] |= {"file": here, "train": None, "validation": None, "test": None}
    table["data"] |= {"limit": limit} if limit is not None else {}
    table["output"] |= {"run": run} if run is not None else {}
    table["budget"] |= {name: value for name, value in (budget or {}).items() if value is not None}
    table |= {"seed": seed} if seed is not None else {}
    return _checked("the command line", table, recipe._folder)


def _checked(place: str, table: Mapping[str, Any], folder: Path) -> Recipe:
    """A recipe of a table, whose paths are relative to a folder.

    Raises:
        UsageError: a field is missing, unknown, of the wrong kind, or does not go with another.
    """
    try:
        recipe = Recipe.model_validate(table)
    except pydantic.ValidationError as error:
        found = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        raise UsageError(f"{place}: {_said(found[0])}") from None
    data, shares = recipe.data, recipe.data.fractions
    whole, apart = [data.file, shares], [data.train, data.validation, data.test]
    if any(each is not None for each in whole) and any(each is not None for each in apart):
        raise UsageError(f"{place}: data has either file (and fractions), or train, validation and test")
    if data.train is None and any(each is not None for each in apart):
        raise UsageError(f"{place}: data.train is missing: seeds and demos come from there")
    if shares and abs(shares.train + shares.validation + shares.test - 1) > 1e-6:
        raise UsageError(f"{place}: data.fractions must add up to 1")
    recipe._folder = folder
    return recipe


def _said(error: Mapping[str, Any]) -> str:
    """What pydantic complains about, in one line with the menu."""
    names = [str(part) for part in error["loc"]]
    field = ".".join(names)
    if error["type"] == "extra_forbidden":
        return f"unknown field {field!r}; known: {', '.join(sorted(_fields(names[:-1])))}"
    if error["type"] == "missing":
        return f"the field {field!r} is missing"
    if error["type"] in ("model_type", "dict_type"):
        return f"the field {field!r} must be a table, not {error['input']!r}"
    return f"the field {field!r}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _fields(names: list[str]) -> list[str]:
    """The fields of a part of a recipe."""
    part: Any = Recipe
    for name in names:
        found = part.model_fields[name].annotation
        part = next((kind for kind in (found, *get_args(found)) if hasattr(kind, "model_fields")), found)
    return list(part.model_fields)

"""Optimizers: how programs better than the start are searched for. One file each; its name is what users type.

    def search(context: Context, *, tries: int = 8) -> Iterable[Any] | None:
        for _ in range(tries):
            seeds = context.rng.sample(my_rows, 3)
            context.score(context.program({"principles.generate": seeds}))

An optimizer is a function that is called with a `context.Context` and returns candidate programs (nothing: those that
it had scored), or a class whose objects are called so. Its keyword parameters are its options. Two more functions may
stand beside it: `check(start, stages, **options)` refuses what cannot work before anything is paid, and
`program_runs(sizes, **options)` says how many runs of a program it takes at most, for forecasts.

`load_optimizer` finds it by name (the files here, the entry point group spri_dspy.optimizers, path/to/file.py:NAME) or
takes it as it is, and checks its options against its keyword parameters. Everything else about an experiment, from the
splits to the decision, is in `experiment`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from spri_dspy.bulk import plain
from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.lookup import lookup, names, parameters_of
from spri_dspy.runs import fingerprint

if TYPE_CHECKING:
    from spri_dspy.tuning.context import Context

PACKAGE, GROUP = "spri_dspy.tuning.optimizers", "spri_dspy.optimizers"

Search = Callable[["Context"], Iterable[Any] | None]


@dataclass(frozen=True)
class Optimizer:
    """A search with its options.

    Attributes:
        name: the name in reports.
        search: what is called.
        options: all of them, by name.
        source: a hash of its code where that is the user's; None for a built-in one.
        module: where it was found.
    """

    name: str
    search: Search
    options: Mapping[str, Any]
    source: str | None = None
    module: ModuleType | None = None

    def program_runs(self, sizes: Mapping[str, int]) -> int | None:
        """How many runs of a program the search takes at most; None if it does not say.

        Args:
            sizes: examples by split, and the number of `groups` and of `stages` that are tuned.
        """
        estimate = getattr(self.module, "program_runs", None)
        return estimate(sizes, **self.options) if estimate else None

    def check(self, start: Any, stages: Sequence[str] | None) -> None:
        """Let it refuse a program, stages (None: its usual ones) or options, before anything is paid.

        Raises:
            UsageError: they cannot work.
            PrerequisiteError: a package is missing.
        """
        check = getattr(self.module, "check", None)
        if check:
            check(start, stages, **self.options)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides what it does, as JSON, for manifests."""
        return {name: _as_json(value) for name, value in self.options.items()} | {"source": self.source}


def optimizers() -> list[str]:
    """Every built-in and installed optimizer, sorted."""
    return names(PACKAGE, "search", group=GROUP)


def load_optimizer(
    optimizer: str | Callable[..., Any], options: Mapping[str, Any] | None = None
) -> Optimizer:
    """The optimizer of a name, or of a function or class, with its options.

    Raises:
        UnknownNameError: there is no such optimizer, or it has no such option.
        UsageError: an option's value is of the wrong type or out of range.
    """
    found: Any = optimizer
    if isinstance(optimizer, str):
        found = lookup("optimizer", optimizer, PACKAGE, "search", group=GROUP)
    if not callable(found):
        raise UsageError(
            f"the optimizer {optimizer} must be a function or a class, not {type(found).__name__}"
        )
    is_own = found.__module__.startswith(f"{PACKAGE}.")
    name = found.__module__.rpartition(".")[2] if is_own else getattr(found, "__name__", type(found).__name__)
    chosen = checked_options(name, found, options or {})
    defaults = {p.name: p.default for p in _keywords(found) if p.default is not p.empty}
    search: Any = found(**chosen) if isinstance(found, type) else partial(found, **chosen)
    source = None if is_own else _source(found)
    return Optimizer(name, search, defaults | chosen, source, sys.modules.get(found.__module__))


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _as_json(getattr(value, field.name)) for field in fields(value)}
    return f"{value.__name__} {_source(value)}" if inspect.isroutine(value) else plain(value)


def checked_options(name: str, taker: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a callable takes them by keyword; a table becomes the dataclass that its parameter is annotated with.

    Args:
        name: whose options they are, for messages.
        taker: a function or a class.
        options: by name. A parameter without annotation takes what its default is; where that is None, anything.

    Raises:
        UnknownNameError: the callable has no such keyword parameter.
        UsageError: a value is of the wrong type, or one without default is missing.
    """
    keywords = {parameter.name: parameter for parameter in _keywords(taker)}
    for option in options:
        if option not in keywords:
            raise UnknownNameError(f"option of {name}", option, keywords)
    missing = [key for key, p in keywords.items() if p.default is p.empty and key not in options]
    if missing:
        raise UsageError(f"{name} needs the option {missing[0]!r}")
    return {option: _value(name, taker, keywords[option], value) for option, value in options.items()}


def _value(name: str, taker: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    import pydantic

    hint = _hint(taker, parameter)
    kinds = (kind for kind in (hint, *get_args(hint)) if isinstance(kind, type))
    table = next((kind for kind in kinds if is_dataclass(kind)), None)
    if table is not None and isinstance(value, Mapping):
        return table(**checked_options(f"{name}.{parameter.name}", table, value))
    try:
        config = (
            None
            if table is hint and table
            else pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)
        )
        return pydantic.TypeAdapter(hint, config=config).validate_python(value)
    except pydantic.ValidationError as error:
        said = error.errors()[0]["msg"]
        raise UsageError(
            f"the option {parameter.name} of {name}: {said[0].lower()}{said[1:]}, not {value!r}"
        ) from None


def _hint(taker: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type of a parameter; the annotations of other parameters need not mean anything here."""
    if parameter.annotation is parameter.empty:
        known = (bool, int, float, str)
        return next((kind for kind in known if isinstance(parameter.default, kind)), Any)
    names = getattr(taker, "__globals__", None) or vars(sys.modules[taker.__module__])
    return get_type_hints(
        SimpleNamespace(__annotations__={"it": parameter.annotation}), names, include_extras=True
    )["it"]


def _keywords(taker: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that are options: all of a class, and all but the first (the context) of anything else."""
    found = list(parameters_of(taker).values())
    found = found if isinstance(taker, type) else found[1:]
    return [p for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _source(found: Any) -> str | None:
    try:
        return fingerprint(inspect.getsource(found))
    except (OSError, TypeError):  # typed into an interpreter, or not written in Python
        return None

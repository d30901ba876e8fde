"""A task: what goes in, how its stages are worded, its seeds, and where its examples come from.

One file a task; its name is the file's name. `load_task` finds built-in tasks, installed ones (entry point group
`spri_dspy.tasks`) and `path/to/file.py:NAME`. A task never runs anything and never names a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError, UsageError
from spri_dspy.lookup import lookup
from spri_dspy.tasks.example import Example, as_examples, make_example

if TYPE_CHECKING:
    from spri_dspy.signatures import Stages

__all__ = ["Example", "Task", "as_examples", "load_task", "make_example"]


@dataclass(frozen=True)
class Task:
    """A task; built-in ones are made by their module's `task()`.

    Attributes:
        name: as typed.
        inputs: input names and their descriptions, in prompt order.
        stages: the six signatures.
        seeds: rows of inputs, `principles` and `group`; they become the demos of the first stage.
        read_row: makes the Examples of one data row and its 1-based number; raises DataError without the
            place, which the reader adds.
        text_input: the input that `--text` fills.
        built_in: the file of examples that comes with the package.
        group_of: the group of a call's inputs, None if it cannot be told.
        hub: what `--data hub` reads: the published data set, as hf:NAME:SPLIT.
    """

    name: str
    inputs: Mapping[str, str]
    stages: Stages
    seeds: tuple[Mapping[str, Any], ...]
    read_row: Callable[[Mapping[str, Any], int], list[Example]]
    text_input: str
    built_in: Path
    group_of: Callable[[Mapping[str, Any]], str | None] | None = None
    hub: str | None = None

    def examples(self, path: str | Path | None = None) -> Iterator[Example]:
        """The examples of a file, checked row by row as they are read; the built-in ones without a file.

        They are `dspy.Example`s with their inputs set, and go into DSPy's evaluation and optimizers as they are.

        Raises:
            DataError: the file or a row cannot be used; names file, line and field.
        """
        from spri_dspy.tasks.fields import read_rows

        return self._checked(read_rows(self.source(path)))

    def source(self, path: str | Path | None) -> str:
        """What `examples` reads: a file, or hf:NAME:SPLIT.

        Raises:
            UsageError: `hub` was asked for, and the task has no published data set.
        """
        if str(path) == "hub":
            if self.hub is None:
                raise UsageError(
                    f"the task {self.name} has no published data set; name a file or hf:NAME:SPLIT"
                )
            return self.hub
        return str(self.built_in if path is None else path)

    def example_of(self, **row: Any) -> Example:
        """One example from its fields, as a data row would have them."""
        return next(self._checked(iter([("the given text", 1, row)])))

    def _checked(self, rows: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Iterator[Example]:
        seen: dict[str, tuple[int, str | None]] = {}
        for place, number, row in rows:
            try:
                examples = self.read_row(row, number)
            except UsageError as error:
                raise DataError(f"{place}: {error}") from None
            for example in examples:
                if example.id in seen and seen[example.id][1] != example.group:
                    # One post may be asked about once a dimension; its own id stays as the cluster.
                    example = example.changed(id=f"{example.id}/{example.group}", cluster=example.id)
                if example.id in seen:
                    earlier = seen[example.id][0]
                    raise DataError(
                        f"{place}: the id {example.id!r} is also row {earlier}'s; ids must be unique"
                    )
                seen[example.id] = (number, example.group)
                yield example


def load_task(name: str | Task, **options: Any) -> Task:
    """The task of a name.

    Args:
        name: built in, installed, or path/to/file.py:NAME.
        **options: what the task's maker takes, such as `with_reference=True` for rubrics.

    Raises:
        UnknownNameError: there is none; the message lists those that exist.
        UsageError: the task has no such option, or what was named makes no Task.
    """
    if isinstance(name, Task):
        return name
    found = lookup("task", name, "spri_dspy.tasks", "task")
    if isinstance(found, Task):
        return found
    if not callable(found):
        raise UsageError(f"{name} must be a Task, or a function that returns one, not {type(found).__name__}")
    try:
        made = found(**options)
    except TypeError as error:
        if not options:
            raise UsageError(f"the task {name} cannot be made: {error}") from error
        raise UsageError(f"the task {name} has no option {', '.join(options)}") from None
    if not isinstance(made, Task):
        raise UsageError(f"{name} must return a Task, not {type(made).__name__}")
    return made

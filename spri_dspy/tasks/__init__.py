"""A task: what goes in, how its stages are worded, its seeds, and where its examples come from.

One file a task; its name is the file's name. `load_task` finds built-in tasks, installed ones (entry point group
`spri_dspy.tasks`) and `path/to/file.py:NAME`. A task never runs anything and never names a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spri_dspy.errors import DataError, UsageError
from spri_dspy.lookup import lookup

if TYPE_CHECKING:
    from spri_dspy.signatures import Stages


@dataclass(frozen=True)
class Example:
    """One input of a task.

    Attributes:
        id: unique in its data.
        inputs: what the program is shown, by input name.
        group: for group seeds and group statistics; None if the task has no groups.
        cluster: examples that share one source (the responses to one instance) share this; None stands alone.
        labels: what is known and not shown (human scores, standards, references).
    """

    id: str
    inputs: Mapping[str, Any]
    group: str | None = None
    cluster: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task; built-in ones are made by their module's `task()`.

    Attributes:
        name: as typed.
        inputs: input names and their descriptions, in prompt order.
        stages: the six signatures.
        seeds: rows of inputs, `principles` and `group`; they become the demos of the first stage.
        read_row: makes an Example of one data row and its 1-based number; raises DataError without the place,
            which the reader adds.
        text_input: the input that `--text` fills.
        built_in: the file of examples that comes with the package.
        group_of: the group of a call's inputs, None if it cannot be told.
    """

    name: str
    inputs: Mapping[str, str]
    stages: Stages
    seeds: tuple[Mapping[str, Any], ...]
    read_row: Callable[[Mapping[str, Any], int], Example]
    text_input: str
    built_in: Path
    group_of: Callable[[Mapping[str, Any]], str | None] | None = None

    def examples(self, path: str | Path | None = None) -> Iterator[Example]:
        """The examples of a file, checked row by row as they are read; the built-in ones without a file.

        Raises:
            DataError: the file or a row cannot be used; names file, line and field.
        """
        from spri_dspy.tasks._rows import read_rows

        return self._checked(read_rows(self.built_in if path is None else path))

    def example_of(self, **row: Any) -> Example:
        """One example from its fields, as a data row would have them."""
        return next(self._checked(iter([("the given text", 1, row)])))

    def _checked(self, rows: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Iterator[Example]:
        seen: dict[str, int] = {}
        for place, number, row in rows:
            try:
                example = self.read_row(row, number)
            except UsageError as error:
                raise DataError(f"{place}: {error}") from None
            if example.id in seen:
                raise DataError(
                    f"{place}: the id {example.id!r} is also row {seen[example.id]}'s; ids must be unique"
                )
            seen[example.id] = number
            yield example


def load_task(name: str | Task) -> Task:
    """The task of a name.

    Raises:
        UnknownNameError: there is none; the message lists those that exist.
    """
    if isinstance(name, Task):
        return name
    found = lookup("task", name, "spri_dspy.tasks", "task")
    return found if isinstance(found, Task) else found()

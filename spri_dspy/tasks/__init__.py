"""A task: what goes in, how its stages are worded, its seeds, and where its examples come from.

One file a task; its name is the file's name. `load_task` finds built-in tasks, installed ones (entry point group
`spri_dspy.tasks`) and `path/to/file.py:NAME`. `fields` has the helpers for those who write one. A task never runs
anything and never names a model.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from spri_dspy.ends import Finished
from spri_dspy.errors import DataError, SpriError, UsageError
from spri_dspy.id_table import IdTable
from spri_dspy.lookup import lookup, where_raised
from spri_dspy.tasks.example import Example, as_example, as_examples, bare_example, make_example
from spri_dspy.tasks.fields import place_of, read_rows

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
        read_row: makes the examples of one data row and its number, as a list of Examples (`make_example`) or of
            dicts; raises DataError without the place, which the reader adds.
        text_input: the input that `--text` fills.
        built_in: the file of examples that comes with the task; None if there is none.
        group_of: the group of a call's inputs, None if it cannot be told.
        hub: what `--data hub` reads: the published data set, as hf:NAME:SPLIT.
        named: further data sets by name: a file below the folder that the environment variable SPRI_DATA names, and
            what is read where it is not there, as hf:NAME:SPLIT.
        defaults: inputs that may be left out, and what stands for them then.
        columns: the columns that `read_row` reads, () for any; nothing else of a parquet file is decoded.
        is_one_a_row: each row makes one example, whose id is the row's.
    """

    name: str
    inputs: Mapping[str, str]
    stages: Stages
    seeds: tuple[Mapping[str, Any], ...]
    read_row: Callable[[Mapping[str, Any], int], Iterable[Example | dspy.Example | Mapping[str, Any]]]
    text_input: str
    built_in: Path | None = None
    group_of: Callable[[Mapping[str, Any]], str | None] | None = None
    hub: str | None = None
    named: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    is_one_a_row: bool = False

    def examples(
        self,
        source: str | Path | Iterable[Mapping[str, Any]] | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        finished: Finished | None = None,
    ) -> Iterator[Example]:
        """The examples of a file or of rows, checked row by row as they are read; the built-in ones without either.

            task.examples("posts.csv", columns={"post": "selftext"})

        They are `dspy.Example`s with their inputs set, and go into DSPy's evaluation and optimizers as they are.

        Args:
            source: a file, hub, a name in `named`, hf:NAME:SPLIT (see `fields.read_rows`), or dicts like a file's rows.
            columns: columns of the file to rename, {the task's name: the file's name}.
            finished: examples that were read and checked before, and nobody needs, from `RunDir.finished`: they may
                come without inputs and labels, which takes a fifth of the time.

        Raises:
            DataError: the file or a row cannot be used; names file, line, id and column.
        """
        if source is None or isinstance(source, str | Path):
            rows = read_rows(self.source(source), columns=columns, needed=self.columns)
            return self._checked(rows, finished)
        new_names = {old: new for new, old in (columns or {}).items()}
        rows = ({new_names.get(name, name): value for name, value in row.items()} for row in source)
        return self._checked(((f"row {number}", number, row) for number, row in enumerate(rows, 1)), finished)

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
        if path is not None and str(path) in self.named:
            file, public = self.named[str(path)]
            own = Path(os.environ["SPRI_DATA"]) / file if os.environ.get("SPRI_DATA") else None
            return str(own) if own is not None and own.is_file() else public
        if path is None and self.built_in is None:
            raise UsageError(f"the task {self.name} brings no examples; name a file of them")
        return str(self.built_in if path is None else path)

    def example_of(self, **row: Any) -> Example:
        """One example from its fields, as a data row would have them."""
        return next(self._checked(iter([(_GIVEN, 1, row)])))

    def _checked(
        self, rows: Iterable[tuple[str, int, Mapping[str, Any]]], finished: Finished | None = None
    ) -> Iterator[Example]:
        """The examples of rows, with their place in every complaint."""
        seen, groups = _Seen(finished), dict[str | None, int]()
        place = number = None
        for place, number, row in rows:
            name = row.get("id") if finished is not None and self.is_one_a_row else None
            if isinstance(name, str) and seen.add_finished(name, number * _GROUPS + _GROUPS - 1):
                yield bare_example(name)
                continue
            for example in self._examples_of(row, place, number):
                group = groups.setdefault(example.group, len(groups))
                before = seen.get(example.id)
                if before and before % _GROUPS != group:
                    # One post may be asked about once a dimension; its own id stays as the cluster.
                    example = example.changed(id=f"{example.id}/{example.group}", cluster=example.id)
                    before = seen.get(example.id)
                if before:
                    kind = place.rpartition(", ")[2].rpartition(" ")[0]
                    earlier = f"{kind} {before // _GROUPS}".strip()
                    raise DataError(
                        f"{place}: the id {example.id!r} is that of {earlier} too; ids must be unique"
                    )
                where = place.rpartition(" ")[2]  # of a table the line, which is not the row's number
                seen.add(example.id, (int(where) if where.isdigit() else number) * _GROUPS + group)
                yield example
        if number is not None and seen.is_empty:
            raise DataError(
                f"{place}: the task {self.name} made no example of this row, nor of any before it"
            )

    def _examples_of(self, row: Mapping[str, Any], place: str, number: int) -> list[Example]:
        """What `read_row` makes of a row; a mistake in it is its author's to see, in one line."""
        known = place if place == _GIVEN else place_of(place, row)
        try:
            made = self.read_row(row, number)
            made = [made] if isinstance(made, dspy.Example | Mapping) else made
            if not isinstance(made, Iterable) or isinstance(made, str):
                raise DataError(
                    f"the task {self.name} must make a list of examples, not {type(made).__name__}"
                )
            return [as_example(each, number, tuple(self.inputs), defaults=self.defaults) for each in made]
        except UsageError as error:
            raise DataError(f"{known}: {error}") from None
        except SpriError:
            raise
        except Exception as error:
            raise DataError(f"{known}: {where_raised(error, self.read_row)}") from error


class _Seen:
    """The row and the group of each id that was read, as one number above 0.

    Finished ones have it under the line of their record: they are in the run's table, and need no second one.
    """

    def __init__(self, finished: Finished | None) -> None:
        self._line_of = (lambda _: 0) if finished is None else finished.line
        self._by_line = array("q", bytes(8 * (1 if finished is None else finished.n_lines + 1)))
        self._others = IdTable()
        self.is_empty = True

    def add_finished(self, name: str, number: int) -> bool:
        """Give a finished id its number; False if it is not finished, or has one."""
        line = self._line_of(name)
        if not line or self._by_line[line]:
            return False
        self._by_line[line], self.is_empty = number, False
        return True

    def get(self, name: str) -> int:
        """The number of an id, 0 if it was not read."""
        return self._by_line[self._line_of(name)] or self._others.get(name)

    def add(self, name: str, number: int) -> None:
        """Give an id that was not read its number."""
        self._others[name], self.is_empty = number, False


_GROUPS = 2**31
"""More than any data has groups."""

_GIVEN = "the given text"
"""The place of an example that stands in no file, and whose id nobody gave."""


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

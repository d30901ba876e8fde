"""Examples: `dspy.Example`s that carry an id, a group, a cluster and labels beside the program's inputs.

    example = make_example("p1", {"post": "...", "aim": "..."}, group="self-responsibility", labels={"human_score": 4})
    program(**example.inputs())         # the inputs, and the group whose seeds are to be shown
    example.human_score, example.id     # every field, as of any dspy.Example

They go into `dspy.Evaluate`, `dspy.Parallel` and DSPy's optimizers as they are; `as_examples` takes what others bring:
`dspy.Example`s, dicts, rows of a `datasets.Dataset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import dspy

from spri_dspy.errors import LeakError, UsageError

OWN_FIELDS = ("id", "group", "cluster")
"""Fields of every example beside its inputs and labels."""

EVALUATION_ONLY = "evaluation_only"
"""The label that names the evaluation set which an example belongs to; see `check_trainable`."""


class Example(dspy.Example):
    """One input of a task.

    Fields are the inputs, the labels (what is known and not shown to the program: human scores, standards, references)
    and three more. `make_example` makes one; `inputs()` and `labels()` are DSPy's.

    Attributes:
        id: unique in its data.
        group: for group seeds and group statistics; None if the task has no groups. Where there is one, it counts among
            DSPy's inputs, so that `program(**example.inputs())` shows the seeds of this group.
        cluster: examples that share one source (the responses to one instance) share this; None stands alone.
    """

    id: str
    group: str | None
    cluster: str | None

    @property
    def input_values(self) -> dict[str, Any]:
        """The program's inputs by name, without the group."""
        names = self._input_keys or ()
        return {k: v for k, v in self._store.items() if k in names and k not in OWN_FIELDS}

    @property
    def label_values(self) -> dict[str, Any]:
        """The labels by name."""
        names = {*(self._input_keys or ()), *OWN_FIELDS}
        return {k: v for k, v in self._store.items() if k not in names}

    def changed(
        self, *, inputs: Mapping[str, Any] | None = None, labels: Mapping[str, Any] | None = None, **own: Any
    ) -> Example:
        """A copy with other inputs, other labels, or another id, group or cluster."""
        return make_example(
            own.get("id", self.id),
            self.input_values if inputs is None else inputs,
            own.get("group", self.group),
            own.get("cluster", self.cluster),
            self.label_values if labels is None else labels,
        )


def make_example(
    id: str,
    inputs: Mapping[str, Any],
    group: str | None = None,
    cluster: str | None = None,
    labels: Mapping[str, Any] | None = None,
) -> Example:
    """An Example from its parts; a label of an input's name gives way to the input.

    Raises:
        UsageError: an input or a label is named id, group or cluster.
    """
    taken = [name for name in OWN_FIELDS if name in inputs or name in (labels or ())]
    if taken:
        raise UsageError(f"an input or label cannot be named {taken[0]!r}: that is a field of every example")
    fields = {"id": id, "group": group, "cluster": cluster, **(labels or {}), **inputs}
    example = Example(**fields)
    example._input_keys = set(inputs) | ({"group"} if group is not None else set())
    return example


def evaluation_set(example: Example) -> str | None:
    """The evaluation set that an example is of; None for data of any other kind."""
    return example.label_values.get(EVALUATION_ONLY)


def bare_example(id: str) -> Example:
    """An example without inputs and labels, of which nothing but the id is needed; made in a tenth of the time."""
    example = _Bare.__new__(_Bare)
    vars(example)["id"] = id
    return example


class _Bare(Example):
    """Makes what DSPy's Example holds when it is looked at."""

    group = cluster = None

    @cached_property
    def _store(self) -> dict[str, Any]:
        return {"id": vars(self)["id"], "group": None, "cluster": None}

    @cached_property
    def _demos(self) -> list[Any]:
        return []

    @cached_property
    def _input_keys(self) -> set[str]:
        return set()


def check_trainable(example: Example) -> None:
    """Refuse what belongs to an evaluation set where something is tuned, or seeds are made.

    Raises:
        LeakError: the example's label EVALUATION_ONLY names one.
    """
    name = evaluation_set(example)
    if name is not None:
        raise LeakError(
            f"leak: example {example.id!r} is of {name}, an evaluation set: nothing of it is tuned on or made into "
            "seeds; take other data"
        )


def as_examples(
    rows: Iterable[Any],
    input_names: Sequence[str],
    *,
    optional: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Iterator[Example]:
    """Examples of whatever rows are given, read lazily.

    Of a `dspy.Example` that says which fields are inputs, those are; of any other row, those named like the program's
    inputs. `id` (default: the row's number), `group` and `cluster` are what they say, all other fields are labels.

    Args:
        rows: Examples, dspy.Examples, dicts, or a `datasets.Dataset`.
        input_names: the program's inputs.
        optional: inputs that a row may lack.
        defaults: inputs that a row may lack, and what stands for them then.
        prefix: put before every id.

    Raises:
        UsageError: a row is of another kind, or has none of the inputs.
    """
    for number, row in enumerate(rows, 1):
        if isinstance(row, Example) and not prefix:
            yield row
        else:
            yield as_example(row, number, input_names, optional=optional, defaults=defaults, prefix=prefix)


def as_example(
    row: Any,
    number: int,
    input_names: Sequence[str],
    *,
    optional: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Example:
    """One row, the `number`th from 1, as an Example; arguments as for `as_examples`."""
    if isinstance(row, Example):
        return row.changed(id=f"{prefix}{row.id}") if prefix else row
    if isinstance(row, dspy.Example):
        fields, marked = dict(row.items()), row._input_keys
    elif isinstance(row, Mapping):
        fields, marked = {str(k): v for k, v in row.items()}, None
    else:
        raise UsageError(
            f"example {number} is of type {type(row).__name__}; give dspy.Examples, dicts or task.examples()"
        )
    names = (set(marked or ()) or {*input_names, *optional}) | set(defaults or ())
    inputs = {k: v for k, v in fields.items() if k in names and k not in OWN_FIELDS}
    if not inputs:
        raise UsageError(
            f"example {number} has none of the inputs {', '.join(input_names)}; it has {', '.join(fields) or 'nothing'}"
        )
    labels = {k: v for k, v in fields.items() if k not in inputs and k not in OWN_FIELDS}
    inputs |= {k: v for k, v in (defaults or {}).items() if inputs.get(k) is None}
    name, group, cluster = (fields.get(k) for k in OWN_FIELDS)
    return make_example(
        f"{prefix}{number if name is None else name}",
        inputs,
        None if group is None else str(group),
        None if cluster is None else str(cluster),
        labels,
    )

"""Which few-shot seeds a program holds, and which of them an input is shown: one vocabulary, `SEEDS`.

    spri run reappraisal --set seeds=nearest:3
    spri.SPRI(task, seeds="mine.jsonl")

It knows rows and signatures; the rows become the demos of the first stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from spri_dspy.errors import DataError, LeakError, UsageError
from spri_dspy.signatures import Stages
from spri_dspy.tasks.example import EVALUATION_ONLY
from spri_dspy.tasks.fields import optional_text, package_rows, place_of, read_rows, text

SEEDS = {
    "task": "the task's own; an input is shown those of its group",
    "none": "none",
    "default": "six general ones, the same for every task and input",
    "all": "the task's own, all of them for every input",
    "k:N": "the first N of each of the task's groups",
    "nearest:K": "the task's own; an input is shown the K that were written for the nearest inputs",
    "FILE": "those of a file with the task's inputs, principles and, if there are any, group; or exported rubrics",
}
"""What `seeds` may be."""


class Seeds(NamedTuple):
    """Seeds of a program.

    Attributes:
        rows: inputs, `principles` and `group`.
        show: which of them an input is shown, see `RolePredict.show`.
    """

    rows: tuple[Mapping[str, Any], ...]
    show: str


def choose_seeds(
    seeds: str | Path | Iterable[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
    stages: Stages,
    group_of: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> Seeds:
    """The seeds that a user asks for.

    Args:
        seeds: one of SEEDS; or rows like those of a file.
        own: the task's own.
        stages: the task's; the first stage says which inputs a seed has.
        group_of: tells the group of a row that names none.

    Raises:
        UsageError: it is none of SEEDS.
        DataError: the file cannot be read, or a row is no seed; names file, line, id and column.
        LeakError: a row is of an evaluation set.
    """
    if not isinstance(seeds, str | Path):
        rows = ((f"seed {number}", dict(row)) for number, row in enumerate(seeds, 1))
        return Seeds(tuple(_seed(place, row, stages, group_of) for place, row in rows), "group")
    kind, _, count = str(seeds).partition(":")
    if seeds in ("task", "all", "none"):
        return Seeds(() if seeds == "none" else tuple(own), "all" if seeds == "all" else "group")
    if seeds == "default":
        return Seeds(tuple(_general(next(iter(stages.generate_principles.input_fields)))), "group")
    if kind in ("k", "nearest") and count.isdecimal() and int(count) > 0:
        return Seeds(tuple(own), str(seeds)) if kind == "nearest" else Seeds(_first(own, int(count)), "group")
    if kind in ("k", "nearest") or not (Path(seeds).suffix or Path(seeds).is_file()):
        raise UsageError(f"seeds must be {', '.join(SEEDS)}, not {str(seeds)!r}")
    return Seeds(tuple(_seed(place, row, stages, group_of) for place, _, row in read_rows(seeds)), "group")


def _seed(place: str, row: Mapping[str, Any], stages: Stages, group_of: Any) -> dict[str, Any]:
    """One seed out of a row of the user's."""
    kind = stages.generate_principles.output_fields["principles"].annotation
    if row.get(EVALUATION_ONLY):
        raise LeakError(
            f"leak: {place_of(place, row)}: this seed is of {row[EVALUATION_ONLY]}, an evaluation set; take other seeds"
        )
    try:
        inputs = {name: text(row, name) for name in stages.generate_principles.input_fields}
        principles = text(row, "principles") if kind is str else _typed(row, kind)
        group = optional_text(row, "group", "capability") or (group_of(inputs) if group_of else None)
    except DataError as error:
        raise DataError(f"{place_of(place, row)}: {error}") from None
    return {**inputs, "principles": principles} | ({} if group is None else {"group": group})


def _typed(row: Mapping[str, Any], kind: Any) -> Any:
    """Principles of a type, such as a rubric, in JSON."""
    value = row.get("principles", row.get("rubric"))
    try:
        read = kind.from_text if isinstance(value, str) else pydantic.TypeAdapter(kind).validate_python
        return pydantic.TypeAdapter(kind).dump_python(read(value), mode="json")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise DataError(f"the column 'principles' is no {kind.__name__}: {said}") from None


def _general(first_input: str) -> Iterable[dict[str, Any]]:
    """The six general principles: they stand without inputs, so DSPy shows them as partial examples."""
    for row in package_rows("seeds/default.jsonl"):
        yield {first_input: f"(any {first_input.replace('_', ' ')})", "principles": row["principles"]}


def _first(seeds: Sequence[Mapping[str, Any]], count: int) -> tuple[Mapping[str, Any], ...]:
    """The first `count` seeds of each group, in their order; seeds without a group are one group."""
    seen: Counter[Any] = Counter()
    kept: list[Mapping[str, Any]] = []
    for seed in seeds:
        seen[seed.get("group")] += 1
        kept += [seed] if seen[seed.get("group")] <= count else []
    return tuple(kept)

"""Cognitive reappraisal: answer a troubled post so that one appraisal of the situation changes.

A row has a `post` and, if it is not to be the general aim, one of `aim` (free text), `dimension` (a name) or
`dimension_id` (its published number); it may bring its own `standards` and `oracle_principles` for judging. Source
of the task: paper.md section 2; all wording is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from spri_dspy.errors import DataError, UnknownNameError
from spri_dspy.signatures import Stages
from spri_dspy.tasks import Example, Task, make_example
from spri_dspy.tasks.fields import is_blank, package_file, package_rows, row_id, shown, text

GENERAL_AIM = "Help the narrator to see the situation in a way that eases what they feel and lets them go on."
"""The aim of a post that comes without one."""

INPUTS = {
    "post": "what someone wrote about a situation that troubles them",
    "aim": "how the answer should change the narrator's view of the situation",
}

LABELS = ("standards", "oracle_principles")
"""What a row may bring for judging, as text or as a list of texts."""

_WORDING = {
    "generate_principles": """\
Write the principles that a good answer to this particular post should follow to reach the aim.

Tie every principle to what is special here: the people, the facts, the feelings, what is at stake, and what of it
the aim speaks to. A principle that would fit any other post just as well is not worth writing. Put one idea on a
line, as an instruction to the person who will write the answer. Do not write the answer itself. Use at most 128
words in all.""",
    "critique_principles": """\
Judge how useful these principles are as a guide for an answer to this post that reaches the aim.

Say first what they get right. Then name what they miss of the post or of the aim, what stays vague and what does
not belong, so concretely that the writer can act on it. Use at most 128 words. Then give one whole number:
1 = they would mislead, or say nothing about this post
2 = mostly general advice, and central points of the post or the aim are missing
3 = usable, with a clear gap or with lines that fit any post
4 = specific and sound, with small things left to improve
5 = nothing that matters is missing, and every line helps""",
    "refine_principles": """\
Rewrite the principles so that every point of the feedback is dealt with and an answer that follows them reaches
the aim.

Keep what the feedback praises and what it leaves alone. Add what is missing, sharpen what is vague, drop what does
not belong. One idea on a line, at most 128 words in all. Give only the improved principles.""",
    "generate_response": """\
Answer the post so that its narrator comes to see the situation anew, in the direction of the aim.

Follow every one of the principles; do not quote or mention them. Write to the narrator in plain, warm and
natural language, at eye level, without diagnosing. Use at most 128 words.""",
    "refine_response": """\
Rewrite the response so that it deals with every point of the feedback and follows all of the principles.

Keep what already works, and keep to the aim. Write to the narrator in plain, warm and natural language, in
at most 128 words. Give only the improved response.""",
}


@cache
def dimensions() -> tuple[dict[str, Any], ...]:
    """The six appraisal dimensions: dimension_id, dimension, aim, standards, oracle_principles."""
    return tuple(package_rows("seeds/reappraisal_dimensions.jsonl"))


def task() -> Task:
    """The task, with one seed a dimension."""
    return Task(
        name="reappraisal",
        inputs=INPUTS,
        stages=Stages.build(INPUTS, goal=("aim",), wording=_WORDING),
        seeds=tuple(_seed(row) for row in package_rows("seeds/reappraisal.jsonl")),
        read_row=read_row,
        is_one_a_row=True,
        text_input="post",
        built_in=package_file("examples/reappraisal.jsonl"),
        group_of=lambda inputs: _dimension_of_aim().get(inputs.get("aim", GENERAL_AIM)),
        defaults={"aim": GENERAL_AIM},
        columns=("id", "post", "aim", "dimension", "dimension_id", *LABELS),
    )


def read_row(row: Mapping[str, Any], number: int) -> list[Example]:
    """The example of a row; what it does not say about its dimension is filled in.

    Raises:
        DataError: the post is missing, or a column is unusable.
        UnknownNameError: a dimension that does not exist, and no aim.
    """
    post = text(row, "post")
    known = _dimension(row)
    aim = text(row, "aim", default=known["aim"] if known else GENERAL_AIM)
    labels = {name: value for name in LABELS if (value := _label(row, name) or (known or {}).get(name))}
    group = known["dimension"] if known else _dimension_of_aim().get(aim)
    name = row_id(row, number)
    return [make_example(name, {"post": post, "aim": aim}, group, cluster=name, labels=labels)]


def _label(row: Mapping[str, Any], name: str) -> str | list[str] | None:
    """Text or a list of texts; None if there is none."""
    value = row.get(name)
    if isinstance(value, list):
        return [text({name: each}, name) for each in value]
    return None if is_blank(value) else text(row, name)


def _dimension(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The dimension that a row names; None if it names none, or one that does not exist beside an aim."""
    for key in ("dimension", "dimension_id"):
        value = row.get(key)
        if is_blank(value):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(
                f"the column {key!r} must be the name or number of a dimension, not {shown(value)}"
            )
        # A column of numbers with gaps comes as fractions from pandas.
        name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        found = next((d for d in dimensions() if str(d[key]) == name), None)
        if found is not None:
            return found
        if is_blank(row.get("aim")):
            menu = [str(d[key]) for d in dimensions()]
            raise UnknownNameError(key, name[:60], menu, "A row with an aim needs none")
    return None


@cache
def _dimension_of_aim() -> dict[str, str]:
    return {d["aim"]: d["dimension"] for d in dimensions()}


def _seed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("post", "aim", "principles")} | {"group": row["dimension"]}

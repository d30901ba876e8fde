"""Synthetic data for supervised fine-tuning: situated principles for an instruction, then a response by them.

Rows: `instruction`, an optional `input` or `context`, an optional `response` (the data set's own). The published
experiment used Dolly and MixInstruct: `--data hf:databricks/databricks-dolly-15k:train` and
`--data hf:llm-blender/mix-instruct:train`. Source of the task: paper.md section 2; all wording is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spri_dspy.signatures import Stages
from spri_dspy.tasks import Example, Task, make_example
from spri_dspy.tasks.fields import optional_text, package_file, package_rows, row_id, text

HUB = "hf:databricks/databricks-dolly-15k:train"

INPUTS = {"instruction": "what a user asks of an assistant"}
EXTRA = ("input", "context")
"""Columns with more of the instruction; the first that is not blank counts."""
REFERENCES = ("response", "oracle_response", "output")
"""Columns with the data set's own response; the first that is not blank counts."""

_WORDING = {
    "generate_response": """\
Answer the instruction, following every one of the principles.

Let the principles decide what to say, how much and in which form; do not quote or mention them. If you do not know
something, say so rather than guess. Give only the answer.""",
    "refine_response": """\
Rewrite the response so that it deals with every point of the feedback and follows all of the principles.

Keep what already works. Give only the improved answer.""",
}


def task() -> Task:
    """The task, with six general seeds."""
    return Task(
        name="sft",
        inputs=INPUTS,
        stages=Stages.build(INPUTS, wording=_WORDING),
        seeds=tuple(_seed(row) for row in package_rows("seeds/sft.jsonl")),
        read_row=read_row,
        is_one_a_row=True,
        text_input="instruction",
        built_in=package_file("examples/sft.jsonl"),
        hub=HUB,
        columns=("id", "instruction", *EXTRA, *REFERENCES, "category"),
    )


def read_row(row: Mapping[str, Any], number: int) -> list[Example]:
    """The example of a row.

    Raises:
        DataError: the instruction is missing or unusable.
    """
    labels = {"reference_answer": optional_text(row, *REFERENCES), "category": optional_text(row, "category")}
    known = {name: value for name, value in labels.items() if value is not None}
    return [make_example(row_id(row, number), {"instruction": joined(row)}, labels=known)]


def joined(row: Mapping[str, Any]) -> str:
    """Instruction and input as one text; MixInstruct's instruction may be empty where the input says it all."""
    extra = optional_text(row, *EXTRA)
    if extra is None:
        return text(row, "instruction")
    instruction = optional_text(row, "instruction")
    return extra if instruction is None else f"{instruction}\n\n{extra}"


def _seed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"instruction": joined(row), "principles": row["principles"]}

"""What a judge is shown of an example and its answer, whoever asks: tuning, `spri judge`, or a metric that DSPy calls.

It knows names of inputs, outputs and labels, and no judge: what a judge asks for is what it says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def judge_inputs(
    judge: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    labels: Mapping[str, Any],
    *,
    rubric: str = "run",
) -> dict[str, Any] | None:
    """What a judge is shown of an example and its answer; None where something that it needs is missing.

    Args:
        judge: its `inputs` are filled in, and the `optional` ones that are there, a reference answer excepted.
        inputs: of the program; a label that the program was shown may stand here.
        outputs: of the program.
        labels: of the example.
        rubric: where a rubric judge's rubric comes from: the program's principles ("run") or the data ("label").
    """
    known = material(inputs, outputs, labels)
    if "rubric" in judge.inputs:
        given = {**labels, **inputs}
        written = given.get("rubric") or given.get("standards")
        known["rubric"] = _plain(outputs.get("principles") if rubric == "run" else written)
    found = {name: known.get(name) for name in judge.inputs}
    if not all(found.values()):
        return None
    more = (name for name in getattr(judge, "optional", ()) if name != "reference_answer" and known.get(name))
    return found | {name: known[name] for name in more}


def material(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], labels: Mapping[str, Any]
) -> dict[str, Any]:
    """All texts that can be shown of an example, by the names under which judges ask for them; empty ones are missing.

    The `answer` to judge is the data's where it has one (the rubrics task), else the program's response. Without an
    `instruction` of its own an example has its inputs for one, all of them.
    """
    texts = {**labels, **outputs, **inputs, "answer": inputs.get("answer", outputs.get("response"))}
    known = {name: text for name, text in texts.items() if isinstance(text, str) and text.strip()}
    asked = ((name, value) for name, value in inputs.items() if name not in ("answer", "principles"))
    known.setdefault("instruction", "\n\n".join(f"{name}:\n{value}" for name, value in asked))
    return known


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else value

"""What must not fall when a model is tuned: how well it predicts held-out responses, and an lm-eval task.

1. *Held-out loss*: nats a token of the data's own responses to instructions that were not trained on, by the chat
   template, a mean over responses; its exponential is the perplexity of a response.
2. *Response choice*: an lm-evaluation-harness task (multiple_choice, acc and acc_norm) made of the same local rows:
   which of four responses answers the instruction; the other three belong to other instructions. Chance is a quarter.

Rows are those of the task sft with a response of their own.
"""

from __future__ import annotations

import importlib
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.finetune.choices import lm_eval_scores, local_data
from benchmarks.finetune.models import Base
from spri_dspy.errors import DataError
from spri_dspy.records import Score
from spri_dspy.tasks import Example, load_task

N_CHOICES = 4
_TASK = """\
task: response_choice
output_type: multiple_choice
validation_split: validation
doc_to_text: "Instruction: {{instruction}}\\n\\nResponse:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


def read_held(source: str, limit: int, max_characters: int = 400) -> list[Example]:
    """The first rows of the task sft that have a short instruction and response.

    Args:
        source: as for `spri run sft --data`.
        limit: at most so many.
        max_characters: of the instruction with its input, and of the response.

    Raises:
        DataError: it cannot be read, or has fewer than N_CHOICES usable rows.
    """
    usable = [
        e
        for e in load_task("sft").examples(source)
        if len(_asked(e)) <= max_characters
        and 0 < len(str(e.label_values.get("reference_answer") or "")) <= max_characters
    ][:limit]
    if len(usable) < N_CHOICES:
        raise DataError(
            f"--held {source}: fewer than {N_CHOICES} rows with a response of at most {max_characters} characters"
        )
    return usable


def _asked(example: Example) -> str:
    return "\n\n".join(str(value) for value in example.input_values.values())


def losses(base: Base, model: Any, held: Sequence[Example]) -> list[Score]:
    """Nats a token of every response, its end included."""
    torch = importlib.import_module("torch")
    found: list[Score] = []
    for example in held:
        talk = [{"role": "user", "content": _asked(example)}]
        said = [{"role": "assistant", "content": str(example.label_values["reference_answer"])}]
        before = base.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        whole = base.tokenizer.apply_chat_template(talk + said, tokenize=False)
        n, tokens = (
            len(base.tokenizer(before, add_special_tokens=False)["input_ids"]),
            base.tokenizer(whole, add_special_tokens=False)["input_ids"],
        )
        with torch.inference_mode():
            ids = torch.tensor([tokens], device=base.device)
            logits = model(input_ids=ids).logits[0, n - 1 : -1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, n:])
        found.append(Score(example.id, float(loss)))
    return found


def response_choice(base: Base, model: Any, held: Sequence[Example], seed: int = 0) -> list[Score]:
    """1 for an instruction whose own response has the highest log-likelihood a byte (acc_norm), else 0; by lm-eval.

    Args:
        base: its tokenizer.
        model: the base's own, or a tuned one.
        held: at least N_CHOICES.
        seed: chooses the other responses and their order.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in choice_rows(held, seed)), "utf-8")
        (Path(folder) / "response_choice.yaml").write_text(
            _TASK + "\n".join(local_data(rows)) + "\n", "utf-8"
        )
        (samples,) = lm_eval_scores(base, model, Path(folder), {"response_choice": "acc_norm"})
    return [Score(example.id, samples[number]) for number, example in enumerate(held)]


def choice_rows(held: Sequence[Example], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the task: `instruction`, `choices` (N_CHOICES different responses), `answer` (the own one's place)."""
    rng = random.Random(seed)
    responses = {example.id: str(example.label_values["reference_answer"]) for example in held}
    rows: list[dict[str, Any]] = []
    for example in held:
        own = responses[example.id]
        others = sorted(set(responses.values()) - {own})
        choices = [own, *rng.sample(others, N_CHOICES - 1)]
        rng.shuffle(choices)
        rows.append({"instruction": _asked(example), "choices": choices, "answer": choices.index(own)})
    return rows

"""TruthfulQA MC1 and MC2: which answers a model gives the higher probability, by log-likelihood.

MC1 of a question is 1 if the one best answer has the highest log-likelihood of its choices, else 0. MC2 is the
probability of the true answers among all, in [0, 1]; the maximum is subtracted before exponentiating, so that long
answers do not come to 0 / 0. Log-likelihoods are sums over an answer's tokens, not means.

The prompt is that of lm-evaluation-harness (tasks truthfulqa_mc1 version 2 and truthfulqa_mc2 version 3: six fixed
question-answer pairs, no chat template), read from the installed package; `by_lm_eval` runs its own tasks to compare
with. Figures of other prompts, a chat template among them, are other figures. Source: arXiv 2109.07958.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.finetune.models import Base, max_tokens
from spri_dspy.errors import DataError, PrerequisiteError
from spri_dspy.runs import fingerprint

HUB = ("truthfulqa/truthful_qa", "multiple_choice", "validation")
Targets = Mapping[str, int]
"""Answers in order, with 1 for a true one and 0 for a false one."""


@dataclass(frozen=True, slots=True)
class Question:
    """A row of the multiple-choice data: `mc1` has exactly one true answer, `mc2` at least one."""

    id: str
    text: str
    mc1: Targets
    mc2: Targets

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer once."""
        return tuple(dict.fromkeys([*self.mc1, *self.mc2]))


@dataclass(frozen=True, slots=True)
class Choice:
    """What a model made of a question: MC1 (0 or 1), MC2 in [0, 1], a log-likelihood an answer."""

    id: str
    mc1: float
    mc2: float
    loglikelihoods: Mapping[str, float]


def read_questions(path: Path | None, limit: int | None = None) -> list[Question]:
    """Questions of a file of JSON lines, or of the hub.

    Args:
        path: rows with `question`, `mc1_targets` and `mc2_targets`: {answer: 1 or 0}, or {"choices": [...],
            "labels": [...]} as on the hub. None for the hub's data set.
        limit: only the first N.

    Raises:
        DataError: it cannot be read, or a row is no question; names the line.
        PrerequisiteError: the hub cannot be reached.
    """
    if path is None:
        name, configuration, split = HUB
        try:
            rows = importlib.import_module("datasets").load_dataset(name, configuration, split=split)
        except (OSError, ValueError) as error:
            raise PrerequisiteError(
                f"{name} cannot be read: {error}; name a local file with --questions"
            ) from None
        return [_question(row, str(number), f"{name}, row {number}") for number, row in enumerate(rows) if
                limit is None or number < limit]  # fmt: skip
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    found: list[Question] = []
    for number, line in enumerate(lines[:limit], 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{path}, line {number}: no JSON") from None
        found.append(_question(row, str(number), f"{path}, line {number}"))
    if not found:
        raise DataError(f"{path} has no questions")
    return found


def _question(row: Any, number: str, where: str) -> Question:
    try:
        mc1, mc2 = (_targets(row[name]) for name in ("mc1_targets", "mc2_targets"))
        question = Question(str(row.get("id", number)), str(row["question"]), mc1, mc2)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DataError(
            f"{where}: no multiple-choice question; it needs question, mc1_targets and mc2_targets"
        ) from None
    if sum(mc1.values()) != 1 or not sum(mc2.values()):
        raise DataError(f"{where}: mc1_targets needs one true answer and mc2_targets at least one")
    return question


def _targets(value: Any) -> Targets:
    if "choices" in value:
        value = dict(zip(value["choices"], value["labels"], strict=True))
    return {str(answer): int(label) for answer, label in value.items()}


def figures(question: Question, loglikelihoods: Mapping[str, float]) -> Choice:
    """MC1 and MC2 of a question from the log-likelihoods of its answers."""
    best = max(question.mc1, key=loglikelihoods.__getitem__)  # the first of equals, as numpy's argmax
    top = max(loglikelihoods[answer] for answer in question.mc2)
    shares = {answer: math.exp(loglikelihoods[answer] - top) for answer in question.mc2}
    true = sum(share for answer, share in shares.items() if question.mc2[answer])
    return Choice(question.id, float(question.mc1[best]), true / sum(shares.values()), loglikelihoods)


def score(
    base: Base,
    model: Any,
    questions: Sequence[Question],
    folder: Path,
    *,
    on_done: Callable[[int], None] | None = None,
) -> list[Choice]:
    """MC1 and MC2 of every question; what an earlier call finished is read from the folder.

    Args:
        base: the tokenizer and the device.
        model: the base's own model, or a tuned one.
        questions: at least one.
        folder: gets a file of one line a question, named after the questions' fingerprint.
        on_done: called with the number of finished questions, after each.

    Raises:
        DataError: a question with its answers is longer than the model takes.
    """
    path = folder / f"choices-{fingerprint([[q.text, *q.answers] for q in questions])[:8]}.jsonl"
    done = {choice.id: choice for choice in _finished(path)}
    prompt, scorer = lm_eval_prompt(), _Scorer(base, model)
    with path.open("a", encoding="utf-8") as file:
        for question in questions:
            if question.id in done:
                continue
            found = scorer.loglikelihoods(prompt(question.text), question.answers, question.id)
            done[question.id] = choice = figures(question, dict(zip(question.answers, found, strict=True)))
            row = {name: getattr(choice, name) for name in Choice.__slots__}
            file.write(json.dumps(row) + "\n")
            file.flush()
            if on_done:
                on_done(len(done))
    return [done[question.id] for question in questions]


def _finished(path: Path) -> Iterator[Choice]:
    """Whole lines of an earlier call; a last one that was cut off is removed."""
    if not path.is_file():
        return
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    for line in whole.splitlines():
        yield Choice(**json.loads(line))


def lm_eval_prompt() -> Callable[[str], str]:
    """Question -> prompt, by the template of the installed lm-evaluation-harness."""
    loader = importlib.import_module("lm_eval.tasks._yaml_loader")
    template = loader.load_yaml(_home() / "truthfulqa" / "truthfulqa_mc1.yaml")["doc_to_text"]
    render = importlib.import_module("lm_eval.utils").apply_template
    return lambda question: render(template, {"question": question})


def _home() -> Path:
    return Path(str(importlib.import_module("lm_eval.tasks").__file__)).parent


class _Scorer:
    """Log-likelihoods of answers after a prompt; keys and values of tokens that prompts share are computed once."""

    def __init__(self, base: Base, model: Any) -> None:
        self.base, self.model = base, model
        self.torch = importlib.import_module("torch")
        self.shared: list[int] = []
        self.cache: Any = None

    def loglikelihoods(self, prompt: str, answers: Sequence[str], name: str) -> list[float]:
        """One a answer, in nats, in their order."""
        torch, pad = self.torch, self.base.tokenizer.pad_token_id
        encode = self.base.tokenizer.encode
        context = encode(prompt)
        told = [encode(f"{prompt} {answer}")[len(context) :] for answer in answers]
        if len(context) + max(map(len, told)) > max_tokens(self.base):
            raise DataError(
                f"question {name}: longer than the {max_tokens(self.base)} tokens that the model takes"
            )
        width = max(map(len, told))
        rows = [[context[-1], *answer[:-1], *[pad] * (width - len(answer))] for answer in told]
        with torch.inference_mode():
            cache = self._after(context[:-1])
            cache.batch_repeat_interleave(len(rows))
            mask = [[1] * (len(context) + len(answer) - 1) + [0] * (width - len(answer)) for answer in told]
            logits = self.model(
                input_ids=self._tensor(rows),
                attention_mask=self._tensor(mask),
                past_key_values=cache,
                use_cache=True,
            ).logits
            logs = torch.log_softmax(logits.float(), dim=-1)
        return [float(logs[row, range(len(answer)), answer].sum()) for row, answer in enumerate(told)]

    def _after(self, tokens: list[int]) -> Any:
        """Keys and values of a prompt, as a copy that the caller may change."""
        n = next(
            (at for at, pair in enumerate(zip(tokens, self.shared, strict=False)) if pair[0] != pair[1]),
            min(len(tokens), len(self.shared)),
        )
        if self.cache is None or not n:
            self.shared = tokens
            self.cache = self.model(input_ids=self._tensor([tokens]), use_cache=True).past_key_values
            return copy.deepcopy(self.cache)
        if n < len(self.shared):
            self.cache.crop(n - len(self.shared))
            self.shared = tokens[:n]
        cache = copy.deepcopy(self.cache)
        if n < len(tokens):
            self.model(input_ids=self._tensor([tokens[n:]]), past_key_values=cache, use_cache=True)
        return cache

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Any:
        return self.torch.tensor(rows, dtype=self.torch.long, device=self.base.device)


def by_lm_eval(
    base: Base, model: Any, questions: Sequence[Question]
) -> dict[str, tuple[float, float | None]]:
    """MC1 and MC2 of the same questions by lm-evaluation-harness's own tasks, by question id.

    MC2 is None where it divides 0 by 0: it does not subtract the maximum.
    """
    names = ("truthfulqa_mc1", "truthfulqa_mc2")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "questions.jsonl"
        shaped = (
            {
                "question": q.text,
                **{
                    f"{name}_targets": {"choices": list(targets), "labels": list(targets.values())}
                    for name, targets in (("mc1", _true_first(q.mc1)), ("mc2", q.mc2))
                },
            }
            for q in questions
        )
        rows.write_text("".join(json.dumps(row) + "\n" for row in shaped), "utf-8")
        for name in names:
            text = [
                f"include: {_home() / 'truthfulqa' / name}.yaml",
                f"task: {name}_local",
                *local_data(rows),
            ]
            (Path(folder) / f"{name}.yaml").write_text("\n".join(text) + "\n", "utf-8")
        first, second = lm_eval_scores(base, model, Path(folder), {f"{name}_local": "acc" for name in names})
    return {
        question.id: (first[at], second[at] if math.isfinite(second[at]) else None)
        for at, question in enumerate(questions)
    }


def lm_eval_scores(base: Base, model: Any, folder: Path, tasks: Mapping[str, str]) -> list[dict[int, float]]:
    """Run lm-eval tasks that are defined in a folder; of each task the named metric by row number.

    Args:
        base: its tokenizer.
        model: the base's own, or a tuned one.
        folder: with a YAML file a task.
        tasks: name -> metric, such as acc.
    """
    evaluator, manager, harness = (
        importlib.import_module(f"lm_eval.{name}") for name in ("evaluator", "tasks", "models.huggingface")
    )
    with contextlib.redirect_stdout(None):
        found = evaluator.simple_evaluate(
            model=harness.HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=4),
            tasks=list(tasks),
            task_manager=manager.TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
        )
    return [
        {sample["doc_id"]: float(sample[metric]) for sample in found["samples"][name]}
        for name, metric in tasks.items()
    ]


def local_data(rows: Path) -> list[str]:
    """Lines of an lm-eval task that read a local file in place of the hub."""
    return [
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {{validation: {json.dumps(str(rows.absolute()))}}}}}",
    ]


def _true_first(targets: Targets) -> Targets:
    """The harness takes the first choice for the true one."""
    return dict(sorted(targets.items(), key=lambda item: -item[1]))

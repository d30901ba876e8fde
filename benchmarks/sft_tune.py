"""Tune a model on exported responses (LoRA) and score it: TruthfulQA MC2, before and after.

    spri export RUN --format sft
    python -m benchmarks sft_tune --data RUN/exports/sft-jsonl/sft.jsonl --model meta-llama/Llama-3.1-8B --out TUNED

MC2 of a question is the probability of its true answers among all its answers, in [0, 1]; tables give percent.
`--model tiny` is a random model of a few thousand weights, for trying the machinery: its figures mean nothing.
`--questions FILE` takes local rows (`question`, `mc2_targets` with `choices` and `labels`) instead of the hub's.
Source: paper.md section 2, task 3 (LoRA; its settings are not in the paper's summary, these are ours).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sections import Section, difference, interval, put_out
from spri_dspy.errors import DataError, PrerequisiteError, UsageError
from spri_dspy.metrics.comparison import Comparison, compare
from spri_dspy.metrics.set_level import mean
from spri_dspy.records import Estimate, Score

TINY = "tiny"
_TASK = "truthfulqa_mc2"
_PACKAGES = ("torch", "transformers", "trl", "peft", "lm_eval")
_SPECIAL = ("<|pad|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>")
# `generation` marks what is learned: the responses, and not the instructions.
_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main(argv: list[str]) -> int:
    """Tune, score, and print both figures; returns 0.

    Raises:
        PrerequisiteError: a package is missing.
        DataError: the rows cannot be used.
    """
    options = _options().parse_args(argv)
    _need_packages()
    rows = read_export(options.data)
    if options.out.exists() and any(options.out.iterdir()):
        raise UsageError(f"{options.out} holds files; name an empty or a new folder")
    with contextlib.redirect_stdout(sys.stderr):  # trainers print their logs where results belong
        model, tokenizer = _load(options.model, rows, options.seed)
        before = mc2(model, tokenizer, options.questions, options.limit)
        tuned = tune(model, tokenizer, rows, options)
        after = mc2(tuned, tokenizer, options.questions, options.limit)
    section = report(options.model, len(rows), before, after, options.seed)
    put_out([section], options, schema=1, out=str(options.out))
    return 0


def read_export(path: Path) -> list[dict[str, Any]]:
    """The conversations of an export in the format sft.

    Raises:
        DataError: it cannot be read, or a row is no conversation; names the line.
    """
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            messages = json.loads(line)["messages"]
            rows.append({"messages": [{k: str(m[k]) for k in ("role", "content")} for m in messages]})
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}, line {number}: no row of spri export --format sft; it needs `messages`"
            ) from None
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def tune(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> Any:
    """The model with a LoRA adapter trained on the rows; the adapter is saved under `options.out`."""
    torch, trl, peft = (importlib.import_module(name) for name in ("torch", "trl", "peft"))
    datasets = importlib.import_module("datasets")
    on_cpu = not torch.cuda.is_available()
    arguments = trl.SFTConfig(
        output_dir=str(options.out),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.learning_rate,
        max_length=options.max_length,
        assistant_only_loss="generation" in (tokenizer.chat_template or ""),
        use_cpu=on_cpu,
        bf16=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    adapter = peft.LoraConfig(
        r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = trl.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(list(rows)),
        peft_config=adapter,
        args=arguments,
    )
    trainer.train()
    trainer.save_model(str(options.out))
    tokenizer.save_pretrained(str(options.out))
    return trainer.model


def mc2(model: Any, tokenizer: Any, questions: Path | None, limit: int | None = None) -> list[Score]:
    """One Score a question, in [0, 1], by lm-eval's own task.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        questions: local rows; None for the hub's.
        limit: only the first N.
    """
    evaluator = importlib.import_module("lm_eval.evaluator")
    tasks = importlib.import_module("lm_eval.tasks")
    harness = importlib.import_module("lm_eval.models.huggingface")
    with tempfile.TemporaryDirectory() as folder:
        name = _TASK if questions is None else _local_task(Path(folder), questions)
        found = evaluator.simple_evaluate(
            model=harness.HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=8),
            tasks=[name],
            task_manager=tasks.TaskManager(include_path=folder),
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [Score(str(sample["doc_id"]), _finite(sample["acc"])) for sample in samples]


def report(model: str, n_rows: int, before: Sequence[Score], after: Sequence[Score], seed: int) -> Section:
    """Both figures in percent, and their paired difference."""
    remark = " (a tiny random model: not a language model)" if model == TINY else ""
    title = f"TruthfulQA MC2 (%) of {model}, tuned on {n_rows} responses{remark}"
    section = Section("sft_tune", title, ("model", "MC2 (%)", "questions"))
    for name, scores in (("untuned", before), ("tuned", after)):
        estimate = _percent(mean(scores))
        section.rows.append((name, interval(estimate, 2), f"{estimate.n} of {len(scores)}"))
        section.results.append({"model": name, **estimate.to_json()})
    compared = _percent_difference(compare(mean, after, before))
    section.rows.append(("difference", difference(compared, 2), str(compared.n)))
    section.results.append({"model": "difference", **compared.to_json()})
    section.notes.append(
        f"Intervals: 95 %, resampling questions. LoRA, seed {seed}; one training run, no average."
    )
    return section


def _load(name: str, rows: Sequence[dict[str, Any]], seed: int) -> tuple[Any, Any]:
    torch, transformers = (importlib.import_module(each) for each in ("torch", "transformers"))
    torch.manual_seed(seed)
    if name == TINY:
        return _tiny(rows)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"the model {name} cannot be loaded: {str(error).splitlines()[0]}") from None
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _tiny(rows: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """A random Llama of two layers, and a byte-level tokenizer of the rows' words."""
    tokenizers, transformers = (importlib.import_module(name) for name in ("tokenizers", "transformers"))
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator((m["content"] for row in rows for m in row["messages"]), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], model_max_length=1024
    )
    tokenizer.chat_template = _TEMPLATE
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config), tokenizer


def _local_task(folder: Path, questions: Path) -> str:
    """Write lm-eval's own task with local rows in place of the hub's; its name."""
    if not questions.is_file():
        raise DataError(f"{questions} cannot be read: no such file")
    home = Path(str(importlib.import_module("lm_eval.tasks").__file__)).parent
    name = f"{_TASK}_local"
    lines = [
        f"include: {home / 'truthfulqa' / 'truthfulqa_mc2.yaml'}",
        f"task: {name}",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {{validation: {json.dumps(str(questions.absolute()))}}}}}",
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    return name


def _finite(value: float) -> float | None:
    # lm-eval divides by the sum of all answers' probabilities, which can be 0 for long answers.
    return float(value) if math.isfinite(value) else None


def _percent(estimate: Estimate) -> Estimate:
    ends = (100 * estimate.low, 100 * estimate.high)
    return Estimate("MC2", 100 * estimate.value, estimate.n, estimate.dropped, *ends, estimate.reason)


def _percent_difference(c: Comparison) -> Comparison:
    numbers = (100 * c.difference, 100 * c.low, 100 * c.high)
    return Comparison("MC2", *numbers, c.p, c.n, c.test, c.dropped, c.reason)


def _need_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PrerequisiteError(
            f'tuning needs {", ".join(missing)}: pip install torch==2.13.0, then pip install "spri-dspy[sft,eval]"'
        )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sft_tune", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE", help="from spri export --format sft")
    add("--model", required=True, metavar="NAME", help="a transformers model, or tiny")
    add("--out", type=Path, required=True, metavar="DIR", help="where the adapter goes")
    add("--questions", type=Path, metavar="FILE", help="local questions (default: TruthfulQA from the hub)")
    add("--limit", type=int, metavar="N", help="only the first N questions")
    add("--epochs", type=float, default=3.0)
    add("--max-steps", type=int, default=-1, help="overrides --epochs where above 0")
    add("--batch", type=int, default=4)
    add("--learning-rate", type=float, default=1e-4)
    add("--rank", type=int, default=16, help="of the LoRA matrices")
    add("--max-length", type=int, default=1024, help="tokens of a conversation")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print one JSON document")
    return parser

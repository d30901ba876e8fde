"""Tune a model on exported responses (LoRA) and score it: TruthfulQA MC1 and MC2, and what must not fall.

    spri export RUN --format sft
    python -m benchmarks sft_tune --base meta-llama/Llama-3.1-8B --data RUN/exports/sft-jsonl/sft.jsonl --out TUNED
    python -m benchmarks sft_tune --base model.gguf --data RUN1 --data RUN2 --seeds 0,1,2 --out TUNED

Several `--data` make a grid: every one is tuned on with every seed, on the examples that all of them have, and the
untuned base stands beside; `--own-rows` takes what each has. The same command again goes on where it stopped, in the
middle of training and of scoring too; `--out DIR` alone prints the table of what is finished. `--method dpo` trains on
`spri export --format dpo`.

MC1 and MC2 are those of lm-evaluation-harness (see `finetune.choices`), in percent. `--held FILE`, rows of the task
sft with responses of their own, adds the loss on responses that were not trained on, and an lm-eval task made of them.
`--questions FILE` takes local rows instead of the hub's. `--base tiny` is a random model, for trying the machinery.
Source: paper.md section 2, task 3 (LoRA; its settings are not stated, these are ours).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.finetune import choices, held, models, rows, training
from benchmarks.finetune.report import sections
from benchmarks.sections import Section, put_out
from spri_dspy.durable import write_whole
from spri_dspy.errors import UsageError

UNTUNED = "untuned"
SCORES = "scores.json"
_SAY_EVERY_SECONDS = 20.0


def main(argv: list[str]) -> int:
    """Tune, score, and print the table; returns 0.

    Raises:
        PrerequisiteError: a package is missing, or the base cannot be loaded.
        DataError: the rows cannot be used.
        LeakError: evaluation questions are in the training data.
        UsageError: the folder holds adapters of other settings.
    """
    options = _options().parse_args(argv)
    data = _read(options) if options.data else []
    if options.dry_run:
        put_out([_forecast(data, options)], options, schema=2, out=str(options.out))
        return 0
    if data:
        models.need_packages()
        with contextlib.redirect_stdout(sys.stderr):  # trainers print their logs where results belong
            _tune_and_score(data, options)
    put_out(sections(finished(options.out)), options, schema=2, out=str(options.out))
    return 0


def finished(out: Path) -> list[dict[str, Any]]:
    """What is scored in a folder, the untuned base first; each as `_score` wrote it.

    Raises:
        UsageError: nothing is.
    """
    found = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob(f"**/{SCORES}"))]
    if not found:
        raise UsageError(f"{out} has nothing that is scored; name --base and --data to begin")
    return sorted(found, key=lambda cell: (cell["name"] != UNTUNED, cell["position"], cell["seed"]))


def _read(options: argparse.Namespace) -> list[rows.TrainingData]:
    """What is trained on."""
    if not options.base:
        raise UsageError("--data needs --base: what is tuned on it")
    data = [rows.read(spec, options.method) for spec in options.data]
    if len(names := [each.name for each in data]) > len(set(names)) or UNTUNED in names:
        raise UsageError(f"--data: {', '.join(names)}: every one needs its own name: --data NAME=PATH")
    return data if options.own_rows else rows.on_the_same(data)


def _forecast(data: Sequence[rows.TrainingData], options: argparse.Namespace) -> Section:
    """What would be trained."""
    section = Section("plan", "Nothing is trained yet", ("trained on", "rows", "seeds", "steps a seed"))
    for each in data:
        steps = max(1, math.ceil(math.ceil(len(each.rows) / options.batch) * options.epochs))
        steps = options.max_steps if options.max_steps > 0 else steps
        section.rows.append((each.name, str(len(each.rows)), str(len(options.seeds)), str(steps)))
        section.results.append({"model": each.name, "rows": len(each.rows), "steps": steps})
    return section


def _tune_and_score(data: Sequence[rows.TrainingData], options: argparse.Namespace) -> None:
    questions = choices.read_questions(options.questions, options.limit)
    rows.refuse_leaks(data, questions, str(options.questions or choices.HUB[0]))
    kept = held.read_held(options.held, options.held_limit) if options.held else []
    kept = rows.without_trained(kept, data) if kept else kept
    words = [
        m["content"]
        for each in data
        for row in each.rows
        for name, talk in row.items()
        if name != "id"
        for m in talk
    ]
    base = models.load(options.base, options.device, words)
    settings = training.TrainSettings(
        options.method,
        options.epochs,
        options.max_steps,
        options.batch,
        options.learning_rate,
        options.rank,
        options.max_length,
        save_steps=options.save_steps,
    )
    about = {"base": options.base, "method": options.method, "seed": 0, "position": 0}
    _score(options.out / UNTUNED, base, base.model, questions, kept, {**about, "name": UNTUNED})
    if options.lm_eval:
        _compare_with_lm_eval(base, questions[: options.lm_eval], options.out)
    for seed in options.seeds:
        for position, each in enumerate(data, 1):
            folder = options.out / each.name / f"seed-{seed}"
            name = f"{each.name}, seed {seed}"
            trained = training.train(base, each, settings, seed, folder, _clock(f"{name}: training", "steps"))
            if (folder / SCORES).is_file():
                continue
            model = training.with_adapter(base, folder)
            facts = {**about, "name": each.name, "seed": seed, "position": position, "counts": each.counts}
            facts["trained"] = {part: getattr(trained, part) for part in training.Trained.__slots__}
            _score(folder, base, model, questions, kept, facts)
            model.unload()


def _score(
    folder: Path,
    base: models.Base,
    model: Any,
    questions: Sequence[choices.Question],
    kept: Sequence[Any],
    facts: dict[str, Any],
) -> None:
    """Write what a model scored beside its adapter; what an earlier call finished stays."""
    if (folder / SCORES).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tell = _clock(f"{facts['name']}, seed {facts['seed']}: scoring", "questions")
    found = choices.score(base, model, questions, folder, on_done=lambda n: tell(n, len(questions)))
    facts["choices"] = [{"id": c.id, "mc1": c.mc1, "mc2": c.mc2} for c in found]
    if kept:
        losses, chosen = held.losses(base, model, kept), held.response_choice(base, model, kept)
        facts["held"] = [
            {"id": a.id, "loss": a.value, "choice": b.value} for a, b in zip(losses, chosen, strict=True)
        ]
    facts["scoring"] = {
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": models.peak_memory_mb(base.device),
    }
    write_whole(folder / SCORES, json.dumps(facts))


def _compare_with_lm_eval(base: models.Base, questions: Sequence[choices.Question], out: Path) -> None:
    """Write how far the figures of the untuned base are from lm-eval's own on the same questions."""
    path = out / UNTUNED / SCORES
    cell = json.loads(path.read_text("utf-8"))
    ours = {row["id"]: row for row in cell["choices"]}
    theirs = choices.by_lm_eval(base, base.model, questions)
    cell["lm_eval"] = {
        "questions": len(theirs),
        "mc1": max(abs(mc1 - ours[name]["mc1"]) for name, (mc1, _) in theirs.items()),
        "mc2": max(abs(mc2 - ours[name]["mc2"]) for name, (_, mc2) in theirs.items() if mc2 is not None),
        "undefined": sum(mc2 is None for _, mc2 in theirs.values()),
    }
    write_whole(path, json.dumps(cell))


def _clock(what: str, unit: str) -> Callable[[int, int], None]:
    """Says every so often how many are done and how long the rest takes."""
    began, said, first = time.monotonic(), time.monotonic(), None

    def tell(n: int, total: int) -> None:
        nonlocal said, first
        first = n - 1 if first is None else first
        now = time.monotonic()
        if now - said < _SAY_EVERY_SECONDS and n < total:
            return
        said = now
        left = (now - began) / max(n - first, 1) * (total - n)
        sys.stderr.write(
            f"sft_tune: {what}: {n} of {total} {unit}, {now - began:.0f} s, about {left:.0f} s left\n"
        )

    return tell


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sft_tune", description=(__doc__ or "").splitlines()[0]
    )
    add, settings = parser.add_argument, training.TrainSettings()
    add(
        "--data",
        action="append",
        metavar="[NAME=]PATH",
        help="an exported run, or a file from spri export; repeat for a grid",
    )
    add(
        "--own-rows",
        action="store_true",
        help="train on every row of each, not only on the examples that all have",
    )
    add("--base", "--model", metavar="NAME", help="a Hugging Face model, a GGUF file, or tiny")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="where adapters and scores go, and are found again",
    )
    add("--method", choices=rows.METHODS, default="sft", help="what the data is for (default sft)")
    add("--seeds", type=_seeds, default=[0], metavar="N,N", help="of training (default 0)")
    add("--device", choices=models.DEVICES, default="auto")
    add("--questions", type=Path, metavar="FILE", help="local questions (default: TruthfulQA from the hub)")
    add("--limit", type=int, metavar="N", help="only the first N questions")
    add("--held", metavar="FILE", help="rows of the task sft with a response, to see what the model forgot")
    add("--held-limit", type=int, default=60, metavar="N", help="only the first N short ones (default 60)")
    add(
        "--lm-eval",
        type=int,
        metavar="N",
        help="score the untuned base on N questions with lm-eval's own tasks too",
    )
    add("--epochs", type=float, default=settings.epochs)
    add("--max-steps", type=int, default=settings.max_steps, help="overrides --epochs where above 0")
    add("--batch", type=int, default=settings.batch, help="rows a step")
    add("--learning-rate", type=float, default=settings.learning_rate)
    add("--rank", type=int, default=settings.rank, help="of the LoRA matrices")
    add("--max-length", type=int, default=settings.max_length, help="tokens of a conversation")
    add("--save-steps", type=int, default=settings.save_steps, help="steps between checkpoints")
    add("--dry-run", action="store_true", help="read the data, say what would be trained; do nothing")
    add("--json", action="store_true", help="print one JSON document")
    add("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser

"""Train a LoRA adapter on exported rows by trl's SFTTrainer or DPOTrainer; the same call again goes on where it was.

Loss is on answers only. A checkpoint is complete when its trainer state can be read; a kill in the middle of one
leaves the checkpoint before it. Source: paper.md section 2, task 3 (LoRA; its settings are not stated, these are ours).
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.finetune.models import Base, peak_memory_mb
from benchmarks.finetune.rows import TrainingData
from spri_dspy.durable import write_whole
from spri_dspy.errors import UsageError

ADAPTER = "adapter"
_SETTINGS, _TRAINED, _CHECKPOINTS = "settings.json", "trained.json", "checkpoints"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How adapters are trained.

    Attributes:
        method: "sft" or "dpo".
        epochs: passes over the rows.
        max_steps: overrides `epochs` where above 0.
        batch: rows a step; split into as many pieces as the device's memory needs.
        learning_rate: its peak; it falls linearly after a warm-up of a tenth of the steps.
        rank: of the LoRA matrices; alpha is twice that, all linear layers.
        max_length: tokens of a conversation; what is over is cut.
        beta: of DPO.
        save_steps: steps between checkpoints.
    """

    method: str = "sft"
    epochs: float = 3.0
    max_steps: int = -1
    batch: int = 4
    learning_rate: float = 1e-4
    rank: int = 16
    max_length: int = 1024
    beta: float = 0.1
    save_steps: int = 10


@dataclass(frozen=True, slots=True)
class Trained:
    """What training took: optimizer steps, rows, mean loss, seconds over all starts, starts, peak memory in MiB.

    Rows are those with something to learn: one whose prompt fills `max_length` is left out.
    """

    steps: int
    rows: int
    loss: float
    seconds: float
    starts: int
    peak_mb: int


def train(
    base: Base,
    data: TrainingData,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    on_step: Callable[[int, int], None],
) -> Trained:
    """Train an adapter into `folder/adapter`, or go on with what an earlier call left there.

    Args:
        base: its model stays as it is.
        data: of the settings' method.
        settings: how.
        seed: of the adapter's first weights and the order of rows.
        folder: of this adapter alone.
        on_step: called with finished and all steps.

    Raises:
        UsageError: the folder holds an adapter of other settings or other rows; names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _same_settings(folder, {"base": base.name, "rows": data.fingerprint, "seed": seed, **asdict(settings)})
    if (folder / _TRAINED).is_file():
        return Trained(**json.loads((folder / _TRAINED).read_text("utf-8")))
    earlier = _earlier(folder)
    began = time.monotonic()
    trainer = _trainer(base, data, settings, seed, folder)
    trainer.add_callback(_progress(folder, earlier, began, on_step))
    checkpoint = _last_checkpoint(folder / _CHECKPOINTS)
    found = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder / ADAPTER))
    trainer.model.unload()
    trained = Trained(
        steps=found.global_step,
        rows=len(trainer.train_dataset),
        loss=float(found.training_loss),
        seconds=round(earlier["seconds"] + time.monotonic() - began, 1),
        starts=earlier["starts"] + 1,
        peak_mb=peak_memory_mb(base.device),
    )
    write_whole(folder / _TRAINED, json.dumps(asdict(trained)))
    return trained


def with_adapter(base: Base, folder: Path) -> Any:
    """The base's model with the adapter that `train` left in the folder; `unload()` takes it off again."""
    peft = importlib.import_module("peft")
    return peft.PeftModel.from_pretrained(base.model, str(folder / ADAPTER)).to(base.device).eval()


def _trainer(base: Base, data: TrainingData, settings: TrainSettings, seed: int, folder: Path) -> Any:
    trl, peft, datasets, transformers = (
        importlib.import_module(name) for name in ("trl", "peft", "datasets", "transformers")
    )
    transformers.set_seed(seed)
    piece = _piece(base, settings)
    arguments: dict[str, Any] = {
        "output_dir": str(folder / _CHECKPOINTS),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": piece,
        "gradient_accumulation_steps": settings.batch // piece,
        "learning_rate": settings.learning_rate,
        "warmup_steps": 0.1,
        "max_length": settings.max_length,
        "gradient_checkpointing": base.device != "cpu",
        "use_cpu": base.device == "cpu",
        "bf16": base.is_half,
        "dataloader_pin_memory": base.device != "cpu",
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "logging_steps": settings.save_steps,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
    }
    adapter = peft.LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    shared = {
        "model": base.model,
        "processing_class": base.tokenizer,
        "peft_config": adapter,
        "train_dataset": datasets.Dataset.from_list(
            [{name: part for name, part in row.items() if name != "id"} for row in data.rows]
        ),
    }
    if settings.method == "dpo":
        return trl.DPOTrainer(args=trl.DPOConfig(beta=settings.beta, **arguments), **shared)
    return trl.SFTTrainer(args=trl.SFTConfig(completion_only_loss=True, **arguments), **shared)


def _piece(base: Base, settings: TrainSettings) -> int:
    """Rows at once: on a CPU one, which pads nothing; on a GPU the largest part of a batch that its memory holds."""
    if base.device == "cpu":
        return 1
    torch = importlib.import_module("torch")
    piece = settings.batch
    while piece > 1:
        try:
            tokens = torch.zeros((piece, settings.max_length), dtype=torch.long, device=base.device)
            # Gradients into the embeddings alone: what takes the memory are the activations.
            embedded = base.model.get_input_embeddings()(tokens).detach().requires_grad_()
            base.model(inputs_embeds=embedded, labels=tokens).loss.backward()
            break
        except torch.OutOfMemoryError:
            piece = next(n for n in range(piece - 1, 0, -1) if settings.batch % n == 0)
        finally:
            base.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    return piece


def _same_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / _SETTINGS
    if not path.is_file():
        write_whole(path, json.dumps(settings))
        return
    before = json.loads(path.read_text("utf-8"))
    differing = [f"{k} {before.get(k)!r}, now {v!r}" for k, v in settings.items() if before.get(k) != v]
    if differing:
        raise UsageError(
            f"{folder} holds an adapter of other settings ({'; '.join(differing)}); name another --out, or remove it"
        )


def _last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that was written to its end."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.partition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None


def _earlier(folder: Path) -> dict[str, Any]:
    """Seconds and starts of earlier calls that did not come to the end."""
    try:
        return json.loads((folder / "starts.json").read_text("utf-8"))
    except OSError:
        return {"seconds": 0.0, "starts": 0}


def _progress(
    folder: Path, earlier: dict[str, Any], began: float, on_step: Callable[[int, int], None]
) -> Any:
    transformers = importlib.import_module("transformers")

    class Progress(transformers.TrainerCallback):
        """Says how far it is, and keeps the time that a killed start took."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(state.global_step, state.max_steps)
            spent = {
                "seconds": earlier["seconds"] + time.monotonic() - began,
                "starts": earlier["starts"] + 1,
            }
            write_whole(folder / "starts.json", json.dumps(spent))

    return Progress()

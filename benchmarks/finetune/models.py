"""Load a base model with its tokenizer: a Hugging Face name or folder, a GGUF file, or `tiny`.

`tiny` is a random Llama of a few thousand weights, for trying the machinery: its figures mean nothing. A GGUF is
dequantized to float32, so that training starts from the weights that llama.cpp computes with.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spri_dspy.errors import PrerequisiteError, UsageError

TINY = "tiny"
DEVICES = ("auto", "cpu", "cuda")
PACKAGES = ("torch", "transformers", "trl", "peft", "lm_eval")

_SPECIAL = ("<|pad|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>")
_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Base:
    """A model to tune.

    Attributes:
        name: as the user gave it.
        model: a causal LM of transformers, on its device.
        tokenizer: with a chat template and a token to pad with.
        device: "cpu" or "cuda".
        is_half: computed in bfloat16, on GPUs that have it.
    """

    name: str
    model: Any
    tokenizer: Any
    device: str
    is_half: bool


def need_packages() -> None:
    """Raise PrerequisiteError, with the line that installs them, if packages are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PrerequisiteError(
            f'tuning needs {", ".join(missing)}: pip install torch==2.13.0, then pip install "spri-dspy[sft,eval]"'
        )


def load(name: str, device: str, words: Sequence[str]) -> Base:
    """Load a base.

    Args:
        name: a Hugging Face name or folder, a GGUF file, or `tiny`.
        device: one of DEVICES; auto takes a GPU where torch finds one.
        words: texts that the tokenizer of `tiny` is made of.

    Raises:
        PrerequisiteError: the model cannot be loaded.
        UsageError: there is no such device.
    """
    torch = importlib.import_module("torch")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU; use --device auto or cpu")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    is_half = device == "cuda" and torch.cuda.is_bf16_supported()
    try:
        model, tokenizer = (
            _tiny(words) if name == TINY else _pretrained(name, torch.bfloat16 if is_half else None)
        )
    except (OSError, ValueError, ImportError) as error:
        raise PrerequisiteError(f"the model {name} cannot be loaded: {str(error).splitlines()[0]}") from None
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Base(name, model.to(device).eval(), tokenizer, device, is_half)


def _pretrained(name: str, dtype: Any) -> tuple[Any, Any]:
    torch, transformers = (importlib.import_module(each) for each in ("torch", "transformers"))
    where: dict[str, Any] = {"pretrained_model_name_or_path": name}
    if (file := Path(name)).suffix == ".gguf":
        if not file.is_file():
            raise OSError(f"{file}: no such file")
        where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=dtype or torch.float32)
    return _plain(model) if "gguf_file" in where else model, tokenizer


def _plain(model: Any) -> Any:
    """The same weights in a model that does not count as quantized, which trainers would refuse."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)(config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    return plain


def _tiny(words: Sequence[str]) -> tuple[Any, Any]:
    """A random Llama of two layers, and a byte-level tokenizer of the given words."""
    torch, tokenizers, transformers = (
        importlib.import_module(name) for name in ("torch", "tokenizers", "transformers")
    )
    torch.manual_seed(0)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(words, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], model_max_length=2048
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config), tokenizer


def max_tokens(base: Base) -> int:
    """The longest sequence that the base takes, in tokens."""
    return int(getattr(base.model.config, "max_position_embeddings", 0) or base.tokenizer.model_max_length)


def peak_memory_mb(device: str) -> int:
    """The most memory so far, in MiB: of the GPU, or of this process on a CPU."""
    import resource

    if device == "cuda":
        return int(importlib.import_module("torch").cuda.max_memory_allocated() / 2**20)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

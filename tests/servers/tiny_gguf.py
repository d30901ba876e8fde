"""Write a tiny llama-architecture GGUF with random weights: numpy and gguf only, no torch, no download.

The file is real to llama.cpp: byte-level BPE vocabulary, chat template, one attention and feed-forward stack.
What it says means nothing. It knows one thing about text: bytes that are not printable ASCII are made very
unlikely, because a random byte stream is no valid UTF-8 and llama.cpp refuses to parse such an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gguf
    import numpy as np

EOS = "<|eos|>"
MERGE = "\u0120 t"
"""The only merge (a space and "t"): llama.cpp does not load a BPE vocabulary without any."""

SPECIAL_TOKENS = ("<|pad|>", EOS, "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'assistant' %}" + EOS + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyShape:
    """Sizes of the model; the defaults make a file of about 0.5 MB.

    Attributes:
        hidden: width; a multiple of `heads`, and `hidden / heads` must be even.
        layers: number of blocks.
        heads: attention heads.
        feed_forward: inner width of a block.
        context_tokens: longest sequence the file declares.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    feed_forward: int = 128
    context_tokens: int = 8192


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes 0 to 255 in a GPT-2 style vocabulary.

    Printable bytes stand for themselves, the others are moved up from code point 256 in order.
    """
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in kept else next(moved)) for byte in range(256)]


def write_tiny_gguf(path: Path, *, shape: TinyShape | None = None, seed: int = 0) -> Path:
    """Write the model file and return its path; the same seed and shape give the same weights."""
    import gguf
    import numpy as np

    shape = shape or TinyShape()
    tokens = [*byte_characters(), MERGE.replace(" ", ""), *SPECIAL_TOKENS]
    writer = gguf.GGUFWriter(path, "llama")
    _add_header(writer, shape, len(tokens))
    _add_vocabulary(writer, tokens)
    for name, tensor in _weights(shape, len(tokens), np.random.default_rng(seed)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_header(writer: gguf.GGUFWriter, shape: TinyShape, n_tokens: int) -> None:
    import gguf

    writer.add_name("tiny-random")
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_vocab_size(n_tokens)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    import gguf

    n_plain = len(tokens) - len(SPECIAL_TOKENS)
    kinds = [gguf.TokenType.NORMAL] * n_plain + [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([MERGE])
    writer.add_pad_token_id(tokens.index("<|pad|>"))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_bos_token_id(tokens.index(EOS))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _weights(shape: TinyShape, n_tokens: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All tensors by their GGUF name, float32, in llama.cpp's (out, in) order."""
    import numpy as np

    def noise(*size: int) -> np.ndarray:
        return (rng.standard_normal(size) * 0.08).astype(np.float32)

    hidden, inner = shape.hidden, shape.feed_forward
    ones = np.ones(hidden, np.float32)
    embedding, output = noise(n_tokens, hidden), noise(n_tokens, hidden)
    # Coordinate 0 is a constant that no block writes to, so that output[:, 0] acts as a bias per token.
    embedding[:, 0] = 1.0
    output[:, 0] = -2.0
    output[32:127, 0] = 0.0
    output[n_tokens - len(SPECIAL_TOKENS) + SPECIAL_TOKENS.index(EOS), 0] = 0.5
    tensors = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": output}
    for block in range(shape.layers):
        tensors |= {f"blk.{block}.{name}.weight": ones for name in ("attn_norm", "ffn_norm")}
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{block}.{name}.weight"] = noise(hidden, hidden)
        tensors[f"blk.{block}.ffn_gate.weight"] = noise(inner, hidden)
        tensors[f"blk.{block}.ffn_up.weight"] = noise(inner, hidden)
        tensors[f"blk.{block}.ffn_down.weight"] = noise(hidden, inner)
        tensors[f"blk.{block}.attn_output.weight"][0] = 0.0
        tensors[f"blk.{block}.ffn_down.weight"][0] = 0.0
    return tensors

"""GGUF files: what their header says, however they are damaged, and how strings that name them are read."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import gguf
import pytest

from spri_dspy.errors import DataError, SpriError, UnknownNameError, UsageError
from spri_dspy.lms.gguf import gguf_fingerprint, read_gguf
from spri_dspy.lms.spec import load_lm, parse_lm
from tests.servers.tiny_gguf import TinyShape, write_tiny_gguf

SMALL = TinyShape(hidden=16, layers=1, context_tokens=512)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", shape=SMALL)


def refused(path, *said):
    """Reading and loading refuse the file in one line that says these things."""
    with pytest.raises(DataError) as reading:
        read_gguf(path)
    with pytest.raises(UsageError) as loading:
        load_lm(f"gguf/{path}")
    assert str(reading.value) == str(loading.value)
    assert "\n" not in str(reading.value)
    for part in (str(path), *said):
        assert part in str(reading.value)


# What a header says


def test_header_of_a_model(tiny):
    model = read_gguf(tiny)
    counted = sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(tiny).tensors)
    assert (model.architecture, model.quantisation, model.context_tokens) == ("llama", "F32", 512)
    assert (model.parameters, model.size, model.tokenizer) == (counted, tiny.stat().st_size, "gpt2")
    assert model.unfit is None


def test_fingerprint_follows_the_bytes_and_not_the_place(tiny, tmp_path):
    moved = shutil.copy(tiny, tmp_path / "other.gguf")
    assert gguf_fingerprint(moved) == gguf_fingerprint(tiny)
    write_tiny_gguf(moved, shape=SMALL, seed=1)
    assert gguf_fingerprint(moved) != gguf_fingerprint(tiny)


def write_parts(folder, *, n):
    """A header that says so alone in each of n files: the weights of a split model do not matter here."""
    for number in range(1, n + 1):
        writer = gguf.GGUFWriter(folder / f"big-{number:05d}-of-{n:05d}.gguf", "llama")
        writer.add_context_length(4096)
        writer.add_tokenizer_model("gpt2")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()


def test_model_in_several_files_is_named_by_the_first(tmp_path):
    write_parts(tmp_path, n=3)
    first = tmp_path / "big-00001-of-00003.gguf"
    assert read_gguf(first).size == sum(path.stat().st_size for path in tmp_path.iterdir())
    before = gguf_fingerprint(first)
    refused(tmp_path / "big-00002-of-00003.gguf", "name the first, big-00001-of-00003.gguf")
    with (tmp_path / "big-00003-of-00003.gguf").open("ab") as file:
        file.write(b"x")
    assert gguf_fingerprint(first) != before
    (tmp_path / "big-00003-of-00003.gguf").unlink()
    refused(first, "missing beside it: big-00003-of-00003.gguf")


# Files that cannot be used


def test_missing_file_and_folder_are_refused(tmp_path):
    refused(tmp_path / "none.gguf", "there is no file", "spri models")
    (tmp_path / "folder.gguf").mkdir()
    refused(tmp_path / "folder.gguf", "a directory: name the .gguf file in it")


def test_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(tmp_path / "pipe.gguf", "no regular file")


@pytest.mark.parametrize("content", [b"", b"GG", b"hello world" * 50], ids=["empty", "short", "text"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    refused(path, "is no GGUF file")


def test_file_that_is_cut_off_anywhere_is_refused(tiny, tmp_path):
    whole, path = tiny.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(4, 400, 7), *range(400, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path, "cut off")


def test_file_with_any_byte_of_its_header_changed_is_read_or_refused(tiny, tmp_path):
    whole, path = tiny.read_bytes(), tmp_path / "damaged.gguf"
    for place in range(4, 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(SpriError):
            read_gguf(path)


def test_other_version_is_refused(tiny, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + tiny.read_bytes()[8:])
    refused(path, "version 1")


@pytest.mark.parametrize(
    ("architecture", "tokenizer", "said"),
    [
        ("llama", None, "no tokenizer"),
        ("llama", "no_vocab", "no tokenizer"),
        ("clip", "gpt2", "a clip model writes no text"),
    ],
)
def test_model_that_cannot_answer_is_refused(tmp_path, architecture, tokenizer, said):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    if tokenizer:
        writer.add_tokenizer_model(tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert said in str(read_gguf(path).unfit)
    with pytest.raises(UsageError, match=said):
        load_lm(str(path))


def test_more_context_than_the_model_was_trained_on_is_refused(tiny):
    with pytest.raises(UsageError, match=r"n_ctx=1024 is more than the 512 tokens"):
        load_lm(f"{tiny}?n_ctx=1024")


# LM strings


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("models/x.gguf", "gguf/models/x.gguf"),
        ("/models/My Model.GGUF?temperature=0", "gguf//models/My Model.GGUF"),
        ("./x.gguf", "gguf/./x.gguf"),
        ("gguf/x.bin", "gguf/x.bin"),
        ("hosted_vllm/x.gguf", "hosted_vllm/x.gguf"),
        ("openai/models/x.gguf", "openai/models/x.gguf"),
    ],
)
def test_path_alone_names_a_model_and_a_provider_keeps_its_own(text, model):
    assert parse_lm(text).model == model


def test_home_folder_is_found(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert load_lm("~/tiny.gguf").spec.identity == load_lm(str(tiny)).spec.identity


@pytest.mark.parametrize("option", ["api_base=http://x/v1", "route=native", "key_env=KEY", "usd_in=1"])
def test_options_of_a_server_are_refused(option):
    with pytest.raises(UnknownNameError, match="n_ctx, n_threads"):
        parse_lm(f"x.gguf?{option}")


@pytest.mark.parametrize("option", ["n_ctx=0", "n_threads=0", "slots=0", "slots=many", "n_ctx=1.5"])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        parse_lm(f"x.gguf?{option}")


@pytest.mark.parametrize("option", ["n_ctx=4096", "n_threads=2", "slots=2"])
def test_options_of_a_file_are_for_files(option):
    with pytest.raises(UnknownNameError):
        parse_lm(f"openai/gpt-4o-mini?{option}")


def test_identity_names_file_and_content_and_not_what_makes_it_fast(tiny):
    spec = parse_lm(f"{tiny}?slots=2&n_threads=1&temperature=0&n_ctx=256")
    name = f"gguf/tiny.gguf@{gguf_fingerprint(tiny)}"
    assert spec.identity == f"{name}?n_ctx=256&temperature=0.0"
    assert spec.portable == "gguf/tiny.gguf?slots=2&n_threads=1&temperature=0.0&n_ctx=256"

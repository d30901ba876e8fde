"""Data cards: what a reader of exported rows has to know about the run that made them, as Markdown for the hub.

A card is drawn from the run's manifest and a tally of its records, and says what it does not know. It holds no
key, no address and no path of the machine: LMs stand without how they are reached, files by name or hash.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from spri_dspy.records import Record, Usage

CARD = "README.md"
_MADE_HERE = "<!-- Data card of {file}, made by spri export -->"
"""Stands in every card made here; no other README.md is ever replaced."""

_SIZES = {3: "n<1K", 4: "1K<n<10K", 5: "10K<n<100K", 6: "100K<n<1M", 7: "1M<n<10M", 8: "10M<n<100M"}
"""The hub's names of sizes, by the power of ten that a size is below."""

_HUB_NAME = re.compile(r"hf:[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w./-]+)?")
_LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_NAMES_A_FILE = ("replay", "local")
"""Providers whose model is a file's path."""


@dataclass
class Tally:
    """Counts over the records of a run, taken one record at a time.

    Attributes:
        by_instance: rows are made for instances, which several records may share.
        records, ok, failed, exported: records met, of these finished well, failed, and given a row.
        dropped: records without a row, by reason.
        errors: failed records by the error's name; messages may hold addresses and are not kept.
        stops: how the loops ended, by stage.
        drafts, critiques: scores by stage, of first drafts and of all critiques; None counts unreadable ones.
        usage: tokens and calls by role.
    """

    by_instance: bool = False
    records: int = 0
    ok: int = 0
    failed: int = 0
    exported: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    stops: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    drafts: dict[str, Counter[int | None]] = field(default_factory=lambda: defaultdict(Counter))
    critiques: dict[str, Counter[int | None]] = field(default_factory=lambda: defaultdict(Counter))
    usage: dict[str, Usage] = field(default_factory=dict)
    _instances: set[str] = field(default_factory=set)

    @property
    def coverage(self) -> float:
        """Share of the records, or of the instances, that have a row, in [0, 1]; nan if there are none."""
        asked = len(self._instances) if self.by_instance else self.records
        return self.exported / asked if asked else math.nan

    def add(self, record: Record, dropped: str | None) -> None:
        """Count a record; `dropped` says why it has no row, None if it has one."""
        self.records += 1
        self.ok += record.ok
        self.failed += not record.ok
        if record.error is not None:
            self.errors[record.error.partition(":")[0]] += 1
        if dropped is None:
            self.exported += 1
        else:
            self.dropped[dropped] += 1
        if self.by_instance:
            self._instances.add(record.cluster or record.id)
        for stage, reason in record.stop_reasons.items():
            self.stops[stage][reason] += 1
        for role, used in record.usage.items():
            self.usage[role] = self.usage.get(role, Usage()) + used
        self._add_scores(record)

    def _add_scores(self, record: Record) -> None:
        for stage, rounds in groupby(record.trace, key=lambda step: step.stage):
            scores = [samples[-1][1] for samples in candidates(rounds)]
            if not scores:
                continue
            self.drafts[stage].update(scores[:1])
            self.critiques[stage].update(scores)

    def to_json(self) -> dict[str, Any]:
        """The counts that a caller of an export wants."""
        counts = {name: getattr(self, name) for name in ("records", "ok", "failed", "exported")}
        return counts | {"dropped": dict(self.dropped)}


def candidates(rounds: Any) -> list[list[tuple[str, int | None]]]:
    """Judged candidates of one stage in order, each with every sample of its critique as (text, score)."""
    found: list[list[tuple[str, int | None]]] = []
    for step in rounds:
        if step.verdict is None:
            continue
        if step.attempt == 0 or not found:
            found.append([])
        found[-1].append((step.candidate, step.verdict.score))
    return found


@dataclass(frozen=True)
class About:
    """What the rows of a format are.

    Attributes:
        format: its name, as a tag.
        title: the card's heading.
        what: one paragraph.
        columns: each column and what it holds.
        use: a command that takes the rows, `{file}` standing for the data file; None if there is none of ours.
    """

    format: str
    title: str
    what: str
    columns: Mapping[str, str]
    use: str | None = None


def card(manifest: Mapping[str, Any], tally: Tally, about: About, file: str) -> str:
    """The card of an export.

    Args:
        manifest: the run's.
        tally: of all its records.
        about: what the rows are.
        file: the data file, relative to the card.
    """
    parts = [
        _header(tally, about.format),
        _MADE_HERE.format(file=file),
        f"# {about.title}",
        about.what,
        *_marks(manifest),
        "## Rows",
        _table(("column", "holds"), [(f"`{name}`", said) for name, said in about.columns.items()]),
        _loading(file),
        f"```\n{about.use.replace('{file}', file)}\n```" if about.use else "",
        "## Counts",
        *_counts(tally),
        "## How they were made",
        _table(("", ""), _origin(manifest)),
        *_course(tally),
        "## Licence and limits",
        *_LIMITS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_LIMITS = (
    "No licence is stated, because none is known: the inputs have the terms of the data they come from, the texts "
    "the terms of the LMs named above. Settle both, and set `license` at the top, before you pass this on.",
    "The scores are a critic LM's, from 1 to 5, not a person's. Nothing was filtered for personal or harmful "
    "content. Texts of the input data are repeated here word for word.",
)


def is_card_of(path: Path, file: str) -> bool:
    """True if a README.md is a card that an export made for this data file."""
    return _MADE_HERE.format(file=file) in path.read_text("utf-8", "replace").splitlines()


def _header(tally: Tally, format: str) -> str:
    # No `configs`: with them, load_dataset takes two folders of one name, or a folder before and after --fresh,
    # for the same data set and gives the rows of the first from its cache (seen with datasets 5.2).
    size = next((name for power, name in _SIZES.items() if tally.exported < 10**power), "n>100M")
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        license="unknown",
        task_categories=["text-generation"],
        size_categories=[size],
        tags=["spri-dspy", "synthetic", format],
    )
    return f"---\n{data.to_yaml()}\n---"


def _marks(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What must not be overlooked, each as a quotation of its own."""
    if any(str(lm).startswith("offline") for lm in _part(manifest, "models").values()):
        yield (
            "> **No language model wrote this.** The offline stand-in answers by rules, for trying things out; "
            "its texts and scores say nothing about any method and are not fit to train on."
        )
    if manifest.get("leaks"):
        yield (
            "> **Leak allowed.** Inputs of this run are, exactly or nearly, among the seeds that its program "
            "was shown; the run went on with `--allow-leak`. Do not evaluate on it."
        )
    if _part(manifest, "settings").get("paper"):
        yield (
            "> **Published behaviour** (`--paper`). The last candidate stands, even where an earlier one scored "
            "higher, and a critique without a readable score ends its loop."
        )


def _loading(file: str) -> str:
    # In the hub's layout the file lies in a folder, and the folder is what is loaded.
    what = '"path/of/this/folder"' if "/" in file else f'"{_LOADERS[Path(file).suffix]}", data_files="{file}"'
    return f"""\
```python
from datasets import load_dataset

rows = load_dataset({what}, split="train")
```"""


def _counts(tally: Tally) -> Iterator[str]:
    errors = ", ".join(f"{_plain(name)} {n:,}" for name, n in tally.errors.most_common())
    rows = [
        ("records of the run", f"{tally.records:,}"),
        ("finished well", f"{tally.ok:,}"),
        (f"failed: {errors}" if errors else "failed", f"{tally.failed:,}"),
        ("**rows**", f"**{tally.exported:,}**"),
        (
            "coverage: rows of all " + ("instances" if tally.by_instance else "records"),
            f"{tally.coverage:.1%}",
        ),
        *((f"without a row: {_plain(reason)}", f"{n:,}") for reason, n in tally.dropped.most_common()),
    ]
    yield _table(("", "count"), rows, numbers=True)
    yield "A run says how many examples finished, not how many its data has."


def _origin(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Task, system, LMs, seeds, data, settings, versions and dates of the run."""
    lms, unknown = public_lms(manifest), "not recorded"
    yield "task", _plain(without_path(str(manifest.get("task", unknown))))
    yield "system", _plain(without_path(str(manifest.get("system", unknown))))
    yield "program hash", _code(manifest.get("program", unknown))
    yield from ((f"{_plain(role)} LM", _code(lm)) for role, lm in lms.items())
    if "base" in lms and "critic" not in lms:
        yield "critic LM", "the base LM, where the system has a critic"
    yield "seeds", seeds_of(manifest)
    data = [_data(kind, str(name)) for kind, name in _part(manifest, "data").items()]
    yield "data", "; ".join(data) or unknown
    yield "settings", _settings(manifest)
    yield "random seed", _plain(manifest.get("seed", unknown))
    versions = [_plain(f"{name} {number}") for name, number in _part(manifest, "versions").items()]
    yield "versions", ", ".join(versions) or unknown
    yield "run begun", _plain(manifest.get("created", unknown))
    yield "exported", datetime.now(UTC).isoformat(timespec="seconds")


def public_lms(manifest: Mapping[str, Any]) -> dict[str, str]:
    """LMs by role as may be published: model and sampling, neither address nor path."""
    return {role: _public_lm(str(lm)) for role, lm in _part(manifest, "models").items()}


def _public_lm(lm: str) -> str:
    model, mark, options = lm.partition("?")
    provider, _, name = model.partition("/")
    if provider in _NAMES_A_FILE or name.startswith(("/", "~", ".")):
        model = f"{provider}/{Path(name).name}"
    return model + mark + options


def _data(kind: str, name: str) -> str:
    if kind == "hub" and _HUB_NAME.fullmatch(name):
        return _code(name)
    if kind == "folder":
        return f"the local folder {_code(name)}"
    what = {"hub": "data", "file": "a file", "text": "one text", "rubrics": "a file of rubrics"}.get(
        kind, _plain(kind)
    )
    return f"{what} with hash {_code(name)}"


def _settings(manifest: Mapping[str, Any]) -> str:
    settings = _part(manifest, "settings")
    given = {name: value for name, value in settings.items() if name != "paper"}
    said = ["published behaviour" if settings.get("paper") else "default behaviour"]
    said += ["leak allowed"] if manifest.get("leaks") else []
    return ", ".join(
        [*said, *(_plain(f"{name}={without_path(str(value))}") for name, value in given.items())]
    )


def without_path(text: str) -> str:
    """The last part of a path of this machine (`file.py:NAME` of one to a file's code); other text as it is."""
    is_path = text.startswith(("/", "~", "./", "../")) or ".py:" in text
    return text.rstrip("/").rpartition("/")[2] if is_path else text


def seeds_of(manifest: Mapping[str, Any]) -> str:
    """How many seeds the program held, by predictor and group."""
    if manifest.get("seeds") is None:
        return "not known: the run is older than this note"
    counts = _part(manifest, "seeds")
    return "; ".join(_demos(name, _part(counts, name)) for name in counts) or "none"


def _demos(name: str, groups: Mapping[str, Any]) -> str:
    counts = {group: n for group, n in groups.items() if isinstance(n, int)}
    by_group = ", ".join(_plain(f"{group} {n}") for group, n in counts.items() if group)
    return f"{sum(counts.values())} in {_plain(name)}" + (f" (by group: {by_group})" if by_group else "")


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object in a manifest, which may be somebody else's; an empty one if it is anything else."""
    found = manifest.get(name)
    return found if isinstance(found, Mapping) else {}


def _plain(text: Any) -> str:
    """Text of a manifest or a record that no Markdown and no HTML is made of; `_cell` looks after | and line ends."""
    return _MARKUP.sub(r"\\\g<0>", html.escape(str(text), quote=False))


def _code(text: Any) -> str:
    """The same as code: in which nothing but a backtick ends it."""
    return f"`{str(text).replace('`', chr(39))}`"


_MARKUP = re.compile(r"[\\`*\[\]~!]|(?<!\w)_|_(?!\w)|(?i:(?<=http)|(?<=https)):(?=//)|(?i:(?<=www))\.|@")


def _course(tally: Tally) -> Iterator[str]:
    """How the loops ended, what the critic said, what it cost."""
    if tally.stops:
        yield "## How the loops ended"
        reasons = ("accepted", "exhausted", "unscored")
        rows = [(_plain(stage), *(f"{ends[r]:,}" for r in reasons)) for stage, ends in tally.stops.items()]
        yield _table(("stage", *reasons), rows, numbers=True)
    if tally.critiques:
        yield "## The critic's scores"
        yield _table(
            ("stage", "of", "1", "2", "3", "4", "5", "unreadable"), list(_scores(tally)), numbers=True
        )
    if tally.usage:
        yield "## Tokens"
        used = [
            (_plain(role), *(f"{n:,}" for n in (u.calls, u.cached, u.input_tokens, u.output_tokens)))
            for role, u in tally.usage.items()
        ]
        yield _table(("role", "calls", "from the cache", "tokens in", "tokens out"), used, numbers=True)


def _scores(tally: Tally) -> Iterator[tuple[str, ...]]:
    for stage, critiques in tally.critiques.items():
        for name, counts in (("first drafts", tally.drafts[stage]), ("all candidates", critiques)):
            yield (_plain(stage), name, *(f"{counts[score]:,}" for score in (1, 2, 3, 4, 5, None)))


def _table(names: Sequence[str], rows: Any, *, numbers: bool = False) -> str:
    """A Markdown table; with `numbers`, columns of figures are set to the right."""
    body = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    figures = [
        numbers and bool(body) and all(re.match(r"[*\d]", row[column]) for row in body)
        for column in range(len(names))
    ]
    lines = [names, ["---:" if right else "---" for right in figures], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

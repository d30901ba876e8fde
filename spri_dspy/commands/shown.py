"""What a judge is shown of a finished example: the answer, and beside it a rubric, a reference, the inputs.

It knows records and the settings that say where a rubric comes from; it knows no LM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics.judging import material
from spri_dspy.records import Record
from spri_dspy.runs import RunDir, file_fingerprint
from spri_dspy.tasks import Example, make_example
from spri_dspy.tasks.rubrics import as_text, general_rubric, read_export

SOURCES = ("run", "label", "general")
"""Where a rubric comes from that is no file: the run, the data, or the package's one for everything."""


@dataclass
class Shown:
    """What examples show a judge beside the answer: settings of the data, not of the judge."""

    rubrics: tuple[str, ...] = ()
    reference: bool = False
    exported: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def take(cls, settings: dict[str, str]) -> Shown:
        """Take these settings out of the judge's and read the files that they name."""
        said = settings.pop("reference", "false").lower()
        if said not in ("true", "false"):
            raise UsageError(f"the setting reference must be true or false, not {said!r}")
        sources = tuple(part.strip() for part in settings.pop("rubric", "").split(",") if part.strip())
        shown = cls(sources, said == "true")
        for source in sources:
            if source in SOURCES:
                continue
            path = Path(source)
            if not path.is_file():
                raise UsageError(
                    f"no such rubric: {source!r}; the setting rubric is run, label, general or a file"
                )
            if path.suffix == ".jsonl":
                shown.exported[source] = {name: rubric for name, (_, rubric) in read_export(path).items()}
            else:
                shown.texts[source] = path.read_text("utf-8", errors="replace")
        return shown

    def check(self, judge: Any) -> None:
        """Refuse what does not go together."""
        if "rubric" in judge.inputs and not self.rubrics:
            raise UsageError(
                f"the judge {judge.name} needs a rubric: --set rubric=run (the run's own), label (the "
                "data's), general (one for everything), or a file"
            )
        if self.rubrics and "rubric" not in (*judge.inputs, *judge.optional):
            raise UsageError(f"the judge {judge.name} takes no rubric; --judge rubric does")
        if self.reference and "reference_answer" not in (*judge.inputs, *judge.optional):
            raise UsageError(f"the judge {judge.name} takes no reference answer; --judge rubric does")

    def rubric(self, record: Record) -> Any:
        """The rubric of an example, or the list of them."""
        found = [self._from(source, record) for source in self.rubrics]
        return found[0] if len(found) == 1 else found

    def _from(self, source: str, record: Record) -> str:
        instance = record.cluster or record.id
        if source == "label":
            value = record.labels.get("rubric") or record.labels.get("standards")
        elif source == "run":
            value = record.outputs.get("principles")
        elif source == "general":
            value = general_rubric()
        else:
            value = self.texts.get(source) or self.exported[source].get(instance)
        if not value:
            raise DataError(
                f"example {record.id!r} has no rubric from {source!r}; name another --set rubric="
            )
        try:
            return as_text(value)
        except (ValueError, TypeError):
            raise DataError(
                f"the rubric of {record.id!r} from {source!r} is in a shape that is no rubric"
            ) from None

    def identity(self) -> dict[str, Any]:
        """What of it decides the numbers; files by their content."""
        named = [s if s in SOURCES else file_fingerprint(s) for s in self.rubrics]
        return ({"rubric": ",".join(named)} if named else {}) | (
            {"reference": True} if self.reference else {}
        )


def judged_examples(run: RunDir, judge: Any, shown: Shown, limit: int | None) -> Iterator[Example]:
    """The examples of a run as a judge is to see them; those that failed or have no answer are left out.

    Raises:
        DataError: an example lacks what the judge is shown.
    """
    found = (judged_example(record, judge, shown) for record in run.records())
    return islice((example for example in found if example is not None), limit)


def judged_example(record: Record, judge: Any, shown: Shown) -> Example | None:
    """What the judge is shown of a record; None if its example failed or has no answer.

    Raises:
        DataError: it lacks something that the judge is shown.
    """
    if not record.ok:
        return None
    known = material(record.inputs, record.outputs, record.labels)
    if "answer" not in known:
        return None
    if shown.rubrics:
        known["rubric"] = shown.rubric(record)
    if not shown.reference and "reference_answer" not in judge.inputs:
        known.pop("reference_answer", None)
    needed = [*judge.inputs, *(("reference_answer",) if shown.reference else ())]
    wanted = dict.fromkeys([*needed, *(name for name in judge.optional if name in known)])
    missing = [name for name in needed if name not in known]
    if missing:
        raise DataError(
            f"example {record.id!r} has no {', '.join(missing)}, which the judge {judge.name} is shown; it has "
            f"{', '.join(known)}"
        )
    return make_example(
        record.id, {name: known[name] for name in wanted}, record.group, record.cluster, record.labels
    )

"""A gate: general principles stand in where generated ones made judging worse on validation rows.

    spri judge runs/validation --ablate --gate gate.json --lm judge=openai/gpt-4o-mini
    spri run rubrics --data test.jsonl --set gate=gate.json      # in Python: SPRI(task, gate="gate.json")

A group whose generated principles hurt is given the general ones at once, and none are generated: its first stage costs
nothing. Where the first loop's end tells bad principles from good ones (stop reasons), they are generated and then
replaced: nothing is saved. It knows no task and no statistics; `commands.ablate` decides what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from spri_dspy.errors import UsageError
from spri_dspy.records import StopReason
from spri_dspy.runs import fingerprint
from spri_dspy.strict_json import from_text, to_text

FORMAT = "spri-gate/1"
"""Name and version of the file; a reader refuses every other."""


@dataclass(frozen=True)
class Gate:
    """When general principles stand in for generated ones.

    Attributes:
        general: the principles that stand in, as a text or as the fields of the task's principles (a rubric).
        everywhere: for every example that its group does not decide.
        groups: group -> True where general principles stand in, False where generated ones are kept.
        stop_reasons: ends of the first loop after which general principles stand in: accepted, exhausted, unscored.
        validated_on: the inputs it was decided on (instructions); the leak guard keeps them out of evaluations.
        evidence: what it was decided by; not read again.

    Raises:
        UsageError: a stop reason is unknown, or there are no general principles.
    """

    general: Any
    everywhere: bool = False
    groups: Mapping[str, bool] = field(default_factory=dict)
    stop_reasons: frozenset[str] = frozenset()
    validated_on: tuple[str, ...] = field(default=(), compare=False)
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.stop_reasons) - set(get_args(StopReason)))
        if unknown:
            raise UsageError(
                f"stop reasons of a gate are {', '.join(get_args(StopReason))}, not {unknown[0]!r}"
            )
        if not self.general:
            raise UsageError("a gate needs general principles")

    def skips(self, group: str | None) -> bool:
        """Whether an example of this group gets the general principles without any being generated."""
        return self.groups.get(group or "", self.everywhere)

    def replaces(self, stop_reason: str) -> bool:
        """Whether principles whose loop ended like this are replaced."""
        return stop_reason in self.stop_reasons

    @property
    def settings(self) -> dict[str, str]:
        """What decides its course, for a program's fingerprint."""
        decides = [self.general, self.everywhere, dict(self.groups), sorted(self.stop_reasons)]
        return {"gate": fingerprint(decides)}

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {
            "format": FORMAT,
            "general": self.general,
            "everywhere": self.everywhere,
            "groups": dict(self.groups),
            "stop_reasons": sorted(self.stop_reasons),
            "validated_on": list(self.validated_on),
            "evidence": dict(self.evidence),
        }

    def to_text(self) -> str:
        """What a file of it holds."""
        return to_text(self.to_json()) + "\n"


def load_gate(gate: Gate | Mapping[str, Any] | str | Path) -> Gate:
    """A gate from what `spri judge --ablate --gate FILE` wrote.

    Args:
        gate: a gate, its file, or what the file holds.

    Raises:
        UsageError: the file cannot be read, or holds no gate of this version.
    """
    if isinstance(gate, Gate):
        return gate
    name, found = "this mapping", gate
    if isinstance(gate, str | Path):
        name = str(gate)
        try:
            found = from_text(Path(gate).read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"the gate {name} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the gate {name} is not valid JSON: {error}") from None
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise UsageError(f"{name} is no gate ({FORMAT}); spri judge RUN --ablate --gate FILE writes one")
    groups, reasons = found.get("groups", {}), found.get("stop_reasons", [])
    everywhere, evidence = found.get("everywhere", False), found.get("evidence", {})
    rows = found.get("validated_on", [])
    are_switches = isinstance(groups, Mapping) and all(
        isinstance(v, bool) for v in [everywhere, *groups.values()]
    )
    are_texts = all(isinstance(x, list) and all(isinstance(text, str) for text in x) for x in (reasons, rows))
    if not are_switches or not are_texts or not isinstance(evidence, Mapping):
        raise UsageError(
            f"{name} is a damaged gate: groups maps names to true or false, everywhere is true or false, "
            "stop_reasons and validated_on are lists of texts, evidence is a mapping"
        )
    try:
        return Gate(found.get("general"), everywhere, groups, frozenset(reasons), tuple(rows), evidence)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None

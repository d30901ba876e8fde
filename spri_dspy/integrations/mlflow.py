"""Runs in MLflow: what `--track mlflow[:URI]` of spri run, judge and tune logs.

    spri run reappraisal --lm base=openai/gpt-4o-mini --track mlflow:sqlite:///mlflow.db

One MLflow run a run directory; the same command again goes on with it. It gets

    parameters   the manifest: task, system, LM strings, settings, versions
    metrics      examples and failures, calls and tokens by role, stop reasons; every figure as NAME with NAME.n,
                 NAME.dropped, NAME.coverage, NAME.low and NAME.high; a figure that cannot be computed is left out,
                 and so is what the offline LM scored, but for its counts
    artifacts    manifest.json, the table records.json, the HTML report where there is one; of a tuning its report,
                 program and trials
    traces       one an example that ran now, with a span a call: principles.generate, principles.critique, ...

Secrets are taken out of everything that is logged. A tracker that fails says so in one line, and the run goes on.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spri_dspy.errors import DataError, PrerequisiteError, SpriError, UnknownNameError
from spri_dspy.records import Estimate, Record, Usage
from spri_dspy.redaction import error_line, redact
from spri_dspy.report import figures, tuning
from spri_dspy.runs import MANIFEST, RunDir
from spri_dspy.screen import say
from spri_dspy.strict_json import from_text, to_text

EXPERIMENT = "spri"
"""The experiment, unless MLFLOW_EXPERIMENT_NAME names another."""

TRACES_AT_MOST, ROWS_AT_MOST = 1_000, 10_000
"""Traces of one command, and rows of the table of records."""

REPORT = "report.html"
"""The artifact that is the HTML report."""

_DIRECTORY = "spri.directory"
"""Tag of the run directory that an MLflow run is about."""

_LONGEST = 6_000  # characters of a parameter, MLflow's own limit


class Tracker:
    """Logs one command to MLflow; see `tracker_of`.

    Args:
        uri: of the tracking server or store; None for MLflow's own default (MLFLOW_TRACKING_URI).

    Raises:
        PrerequisiteError: MLflow is not installed.
    """

    def __init__(self, uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        try:
            import mlflow  # pyright: ignore[reportMissingImports] - the extra [track]
        except ImportError as error:
            raise PrerequisiteError('MLflow is not installed: pip install "spri-dspy[track]"') from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # its notices would stand among the command's
        self._mlflow: Any = mlflow
        self._uri = uri
        self._is_on = True
        self._client: Any = None
        self._run = ""
        self._experiment = ""
        self._name = ""
        self._calls: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        self._traced = 0
        self._worker = ThreadPoolExecutor(1, "mlflow")

    def on_call(self, call: Mapping[str, Any]) -> None:
        """Take a call that ended; it is logged with its example."""
        if self._is_on and self._traced < TRACES_AT_MOST:
            self._calls[str(call.get("example", ""))].append((time.time_ns(), dict(call)))

    def on_record(self, record: Record) -> None:
        """Log the trace of an example that ended, beside the run."""
        calls = self._calls.pop(record.id, [])
        if self._is_on and self._traced < TRACES_AT_MOST:
            self._traced += 1
            now = time.time_ns()
            self._worker.submit(self._guarded, lambda: self._trace(record, calls, now))

    def begin(self, directory: RunDir) -> None:
        """Find or make the MLflow run of a run directory."""
        self._guarded(lambda: self._begin(directory))

    def end(self, directory: RunDir, status: str) -> None:
        """Log parameters, figures and artifacts, and close the MLflow run.

        Args:
            directory: as it is now.
            status: FINISHED, FAILED or KILLED.
        """
        self._worker.shutdown()
        self._guarded(lambda: self._end(directory, status))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it, unless the tracker failed before; a failure is one line and the end of tracking."""
        if not self._is_on:
            return
        try:
            work()
        except Exception as error:  # whatever goes wrong there, the run here goes on
            self._is_on = False
            say(f"mlflow: nothing more is logged there ({error_line(error)}); the run itself goes on")

    def _begin(self, directory: RunDir) -> None:
        mlflow = self._mlflow
        if self._uri is not None:
            mlflow.set_tracking_uri(self._uri)
        self._client = client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        self._experiment = mlflow.set_experiment(name).experiment_id
        place, created = str(directory.path.resolve()), str(directory.manifest.get("created"))
        about = {_DIRECTORY: place, "spri.created": created}
        wanted = " and ".join(f"tags.`{key}` = '{_quoted(value)}'" for key, value in about.items())
        there = client.search_runs([self._experiment], wanted, max_results=1)
        self._name = directory.path.name
        if there:
            self._run = there[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            self._run = client.create_run(self._experiment, tags=about, run_name=self._name).info.run_id

    def _end(self, directory: RunDir, status: str) -> None:
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports] - the extra [track]

        client, now = self._client, int(time.time() * 1000)
        given = client.get_run(self._run).data.params  # a parameter is written once
        shown = dict(_flat(directory.manifest)).items()
        params = [
            Param(n, v) for n, v in ((_key(n), redact(str(v))[:_LONGEST]) for n, v in shown) if n not in given
        ]
        metrics = [Metric(_key(name), value, now, 0) for name, value in _metrics(directory)]
        for start in range(0, max(len(params), len(metrics)), 100):
            some = slice(start, start + 100)
            client.log_batch(self._run, metrics=metrics[some], params=params[some])
        self._log_artifacts(directory)
        self._mlflow.flush_trace_async_logging()
        client.set_terminated(self._run, status)

    def _log_artifacts(self, directory: RunDir) -> None:
        client = self._client
        names = [MANIFEST, tuning.REPORT, "program.json", "trials.jsonl"]
        for path in (directory.path / name for name in names):
            if path.is_file():
                client.log_text(self._run, redact(path.read_text("utf-8", "replace")), path.name)
        picture = directory.path / "search.png"
        if picture.is_file():
            client.log_artifact(self._run, str(picture))
        rows = list(islice(map(_row, directory.records()), ROWS_AT_MOST))
        if rows:
            table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
            client.log_text(self._run, redact(to_text(table)), "records.json")
        page = _report(directory)
        if page is not None:
            client.log_text(self._run, redact(page), REPORT)

    def _trace(self, record: Record, calls: list[tuple[int, dict[str, Any]]], end: int) -> None:
        """One example as a trace: its inputs and outputs, and a span a call with its own times."""
        span = self._mlflow.start_span_no_context
        started = [ended - int(1e9 * float(call.get("seconds") or 0)) for ended, call in calls]
        root = span(
            self._name,
            span_type="CHAIN",
            inputs=_clean(record.inputs),
            attributes=_clean(
                {"example": record.id, "group": record.group, "stop_reasons": record.stop_reasons}
            ),
            experiment_id=self._experiment,
            start_time_ns=min([end - int(1e9 * record.seconds), *started]),
            metadata={"mlflow.sourceRun": self._run},
        )
        for start, (ended, call) in zip(started, calls, strict=True):
            about = {n: call.get(n) for n in ("role", "lm", "attempt", "cached", "usage", "finish_reason")}
            child = span(
                span_name(str(call.get("stage", ""))),
                span_type="CHAT_MODEL",
                parent_span=root,
                inputs=_clean({"messages": call.get("messages")}),
                attributes=_clean(about),
                start_time_ns=start,
            )
            said = {"answer": call.get("answer")} | ({"error": call["error"]} if call.get("error") else {})
            child.end(outputs=_clean(said), status="ERROR" if call.get("error") else "OK", end_time_ns=ended)
        outputs = record.outputs if record.ok else {"error": record.error}
        root.end(outputs=_clean(outputs), status="OK" if record.ok else "ERROR", end_time_ns=end)


@contextmanager
def tracked(tracker: Tracker | None, directory: RunDir | Path) -> Iterator[None]:
    """Log what the block leaves in a run directory, however it ends; nothing without a tracker.

    Args:
        tracker: of `tracker_of`.
        directory: the run directory; a path where it is made in the block.
    """
    if tracker is None:
        yield
        return
    if isinstance(directory, RunDir):
        tracker.begin(directory)
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except SpriError:
        status = "FAILED"
        raise
    finally:
        _close(tracker, directory, status)


def _close(tracker: Tracker, directory: RunDir | Path, status: str) -> None:
    if not isinstance(directory, RunDir):
        try:
            directory = RunDir.read(directory)
        except DataError:  # nothing was begun
            return
        tracker.begin(directory)
    tracker.end(directory, status)


def tracker_of(asked: str | None) -> Tracker | None:
    """The tracker that `--track` names; None where it names none.

    Args:
        asked: what `--track` says: mlflow or mlflow:URI; None for nothing.

    Raises:
        UnknownNameError: another tracker.
        PrerequisiteError: MLflow is not installed.
    """
    if asked is None:
        return None
    name, _, uri = asked.partition(":")
    if name != "mlflow":
        raise UnknownNameError("tracker", name, ["mlflow", "mlflow:URI"])
    return Tracker(uri or None)


def span_name(stage: str) -> str:
    """A stage's name as spans have it: generate_principles is principles.generate."""
    verb, _, noun = stage.partition("_")
    return f"{noun}.{verb}" if verb in ("generate", "critique", "refine") and noun else stage or "call"


def _metrics(directory: RunDir) -> Iterator[tuple[str, float]]:
    """Every number of a run directory: counts, usage, stop reasons, figures."""
    n = failed = 0
    usage: dict[str, Usage] = {}
    reasons: dict[str, int] = defaultdict(int)
    for record in directory.records():
        n, failed = n + 1, failed + (not record.ok)
        for role, used in record.usage.items():
            usage[role] = usage.get(role, Usage()) + used
        for stage, reason in record.stop_reasons.items():
            reasons[f"stop_reasons.{stage}.{reason}"] += 1
    yield from {"examples": n, "failed": failed, **reasons}.items()
    for role, used in usage.items():
        for name in Usage.__slots__:
            yield f"usage.{role}.{name}", getattr(used, name)
    is_tuning = directory.manifest.get("kind") == tuning.KIND
    yield from (_tuning_metrics if is_tuning else _score_metrics)(directory)


def _score_metrics(directory: RunDir) -> Iterator[tuple[str, float]]:
    """The figures of what was judged; nothing where there are no scores."""
    try:
        found = figures.findings(directory)
    except DataError:  # it holds no scores
        return
    is_offline = figures.is_scored_offline(directory)
    for each in found:
        named = {each.criterion: each.overall}
        if not is_offline:
            named |= {f"{each.criterion}.{group}": estimate for group, estimate in each.groups.items()}
            named |= {f"{each.criterion}.{estimate.name}": estimate for estimate in each.agreement}
        for name, estimate in named.items():
            yield from _estimate(name, estimate, is_offline=is_offline)


def _estimate(name: str, estimate: Estimate, *, is_offline: bool) -> Iterator[tuple[str, float]]:
    """An estimate as metrics; of the offline LM's scores their counts alone."""
    yield from {f"{name}.n": estimate.n, f"{name}.dropped": estimate.dropped}.items()
    numbers = {"": estimate.value, ".low": estimate.low, ".high": estimate.high}
    values = {".coverage": estimate.coverage} | ({} if is_offline else numbers)
    yield from ((name + key, value) for key, value in values.items() if not math.isnan(value))


def _tuning_metrics(directory: RunDir) -> Iterator[tuple[str, float]]:
    try:
        report = tuning.read(directory)
    except DataError:  # it has not ended
        return
    manifest: Any = directory.manifest
    models = manifest.get("models") or {}
    is_offline = any(str(model).startswith("offline") for model in models.values())
    for part in ("costs", "splits", *(() if is_offline else ("decision", "test"))):
        for name, value in _flat(report.get(part) or {}, part):
            if isinstance(value, int | float) and not (isinstance(value, float) and math.isnan(value)):
                yield name, float(value)


def _report(directory: RunDir) -> str | None:
    """The run's HTML report; None where there is nothing to report yet (a tuning that was stopped)."""
    from spri_dspy.report.html import write_report

    with TemporaryDirectory() as folder:
        try:
            return write_report([directory.path], Path(folder) / REPORT).path.read_text("utf-8")
        except DataError:
            return None


def _row(record: Record) -> dict[str, Any]:
    """A record as a row of the table; the trace stands in MLflow's traces."""
    kept = ("id", "group", "inputs", "outputs", "stop_reasons", "labels", "seconds", "error", "flags")
    value = record.to_json()
    return {name: _cell(value[name]) for name in kept}


def _cell(value: Any) -> Any:
    return to_text(value) if isinstance(value, dict | list | tuple) else value


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(each, Mapping):
            yield from _flat(each, path)
        elif each is not None:
            yield path, to_text(each) if isinstance(each, list | tuple) else each


def _clean(value: Any) -> Any:
    """A value in JSON types, without secrets."""
    return from_text(redact(to_text(value if value is not None else {})))


def _key(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _quoted(value: str) -> str:
    return value.replace("'", "\\'")

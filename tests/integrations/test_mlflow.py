"""What --track logs, read back from a real store with MLflow's own client."""

import json

import pytest

pytest.importorskip("mlflow", reason="needs spri-dspy[track]; make test-integrations has it")

from spri_dspy.redaction import add_secret
from spri_dspy.runs import RunDir
from tests.command import assert_refused, spri, write
from tests.commands.test_tune import POSTS, RECIPE
from tests.factories import post_server
from tests.servers.openai_mock import MockConfig


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of SQLite, and the client that reads it."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    yield uri, mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


def logged(client, name="spri"):
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id]), experiment.experiment_id


def artifact(client, run, name, folder):
    from pathlib import Path

    return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_text()


def test_a_run_is_logged_with_parameters_counts_table_and_traces(store, tmp_path):
    uri, client = store
    code, _, err = spri("run", "reappraisal", "--limit", 3, "--run", "r", "--track", f"mlflow:{uri}")
    assert code == 0, err
    [run], experiment = logged(client)
    assert run.info.status == "FINISHED"
    assert run.data.params["task"] == "reappraisal" and run.data.params["lms.base"] == "offline"
    assert (run.data.metrics["examples"], run.data.metrics["failed"]) == (3, 0)
    records = list(RunDir.read("r").records())
    assert run.data.metrics["usage.base.calls"] == sum(r.usage["base"].calls for r in records)
    table = json.loads(artifact(client, run, "records.json", tmp_path))
    assert [row[0] for row in table["data"]] == [r.id for r in records]
    assert json.loads(artifact(client, run, "manifest.json", tmp_path))["task"] == "reappraisal"
    assert "<html" in artifact(client, run, "report.html", tmp_path)
    traces = client.search_traces(locations=[experiment])
    assert len(traces) == 3
    by_id = {r.id: r for r in records}
    for trace in traces:
        root, *calls = trace.data.spans
        record = by_id[root.attributes["example"]]
        assert root.outputs["response"] == record.outputs["response"]
        names = [span.name for span in calls]
        assert names[:2] == ["principles.generate", "principles.critique"]
        assert {"response.generate", "response.critique"} <= set(names)
        assert all(span.parent_id == root.span_id for span in calls)
        assert calls[0].inputs["messages"] and calls[0].outputs["answer"]
        assert all(root.start_time_ns <= s.start_time_ns <= s.end_time_ns <= root.end_time_ns for s in calls)
        assert trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id


def test_the_same_command_again_goes_on_with_the_same_mlflow_run(store):
    uri, client = store
    for limit in (1, 2):
        code, _, err = spri("run", "sft", "--limit", limit, "--run", "r", "--track", f"mlflow:{uri}")
        assert code == 0 and "mlflow" not in err, err
    [run], experiment = logged(client)
    assert run.data.metrics["examples"] == 2
    assert len(client.search_traces(locations=[experiment])) == 2


@pytest.mark.parametrize("who", ["offline", "server"])
def test_a_judged_run_has_every_figure_with_its_coverage(store, who, start_mock):
    uri, client = store
    assert spri("run", "sft", "--run", "r")[0] == 0
    server = start_mock(MockConfig(script=["unreadable"] * 9))
    judge = "offline?unscored_rate=0.6&seed=3" if who == "offline" else post_server(server.base_url)
    asked = ("judge", "r", "--lm", f"judge={judge}", "--json", "--concurrency", 1, "--track", f"mlflow:{uri}")
    _, out, err = spri(*asked)
    [run], _ = logged(client)
    [found], metrics = json.loads(out)["findings"], run.data.metrics
    told = found if who == "offline" else found["overall"]
    assert (metrics["score.n"], metrics["score.dropped"]) == (told["n"], told["dropped"]), err
    assert told["dropped"] > 0 and told["n"] > 0
    assert metrics["score.coverage"] == pytest.approx(told["n"] / (told["n"] + told["dropped"]))
    if who == "server":
        assert [metrics[k] for k in ("score", "score.low")] == pytest.approx([told["value"], told["low"]])
    else:
        assert not {"score", "score.low", "score.high"} & set(metrics)


def test_a_tuning_is_logged_with_its_program_and_what_it_took(store, tmp_path):
    uri, client = store
    write(tmp_path / "posts.jsonl", *POSTS)
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    code, _, err = spri("tune", "recipe.toml", "--track", f"mlflow:{uri}")
    assert code == 0, err
    [run], _ = logged(client)
    assert any(name.startswith("costs.") for name in run.data.metrics)
    assert not any(
        name.startswith(("decision.", "test.")) for name in run.data.metrics
    )  # all of it is offline
    assert "metadata" in json.loads(artifact(client, run, "program.json", tmp_path))
    assert run.data.params["kind"] == "tuning"


def test_secrets_are_never_logged(store, tmp_path):
    uri, _ = store
    secret = "zq-7Kd93-very-secret-11"
    add_secret(secret)
    rows = write(
        tmp_path / "rows.jsonl", {"id": "a", "instruction": f"Explain why {secret} is a poor password."}
    )
    code, _, err = spri("run", "sft", "--data", rows, "--run", "r", "--track", f"mlflow:{uri}")
    assert code == 0, err
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.parts[len(tmp_path.parts)] not in ("r", "rows.jsonl"):
            assert secret.encode() not in path.read_bytes(), path


def test_a_tracker_that_fails_loses_nothing_but_the_tracking(store):
    code, _, err = spri(
        "run", "sft", "--limit", 2, "--run", "r", "--track", "mlflow:postgresql://127.0.0.1:1/none"
    )
    assert code == 0
    assert len([line for line in err.splitlines() if "mlflow:" in line]) == 1
    assert "the run itself goes on" in err
    assert len(list(RunDir.read("r").records())) == 2


def test_a_run_that_stops_is_marked_and_keeps_what_is_finished(store):
    uri, client = store
    code, _, _ = spri(
        "run", "sft", "--max-calls", 5, "--run", "r", "--concurrency", 1, "--track", f"mlflow:{uri}"
    )
    assert code == 4
    [run], _ = logged(client)
    assert run.info.status == "FAILED"
    assert run.data.metrics["examples"] == len(list(RunDir.read("r").records()))


def test_a_tuning_that_stops_is_marked_though_it_has_no_report(store, tmp_path):
    uri, client = store
    write(tmp_path / "posts.jsonl", *POSTS)
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    gone = "hosted_vllm/m?api_base=http://127.0.0.1:1/v1"
    lms = ("--lm", f"base={gone}", "--lm", f"judge={gone}")
    code, _, err = spri("tune", "recipe.toml", *lms, "--track", f"mlflow:{uri}")
    assert code == 3 and "mlflow:" not in err
    [run], _ = logged(client)
    assert run.info.status == "FAILED"


def test_an_unknown_tracker_is_answered_with_the_menu_before_anything_is_written(store, tmp_path):
    assert_refused(
        spri("run", "sft", "--run", "r", "--track", "wandb"), 2, "unknown tracker 'wandb'", "mlflow:URI"
    )
    assert not (tmp_path / "r").exists()

"""What `--batch` takes and refuses, what it is said to cost, and waves that are made live."""

import dataclasses
import json

import pytest

import spri_dspy as spri
from spri_dspy.errors import BudgetSpent
from spri_dspy.lms.batches.settings import BatchSettings, check_batch
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.spec import parse_lm
from tests.command import assert_refused
from tests.command import spri as spri_command
from tests.lms.batch_parts import batch_server, examples, lm_of, program, records, settings


@pytest.mark.parametrize(
    ("batch", "lm", "said"),
    [
        ("openai", "offline", "offline has no batch API"),
        ("openai", "gguf/m.gguf", "has no batch API"),
        ("openai", "anthropic/c", "has no batch API in --batch openai"),
        ("anthropic", "openai/gpt-4o-mini", "has no batch API in --batch anthropic"),
        ("openai", "hosted_vllm/m?api_base=http://h/v1", "--batch http://HOST:PORT/v1"),
        ("http://h/v1", "openai/gpt-4o-mini", "its key goes nowhere else"),
        ("openai", "openai/gpt-4o-mini?top_k=4", "LiteLLM"),
        ("mistral", "openai/gpt-4o-mini", "known: anthropic, openai"),
        ("openai?speed=1", "openai/gpt-4o-mini", "known: attempts"),
        ("openai?discount=2", "openai/gpt-4o-mini", "from 0 to 1"),
        ("openai?attempts=x", "openai/gpt-4o-mini", "whole number"),
        ("openai?live_below=-1", "openai/gpt-4o-mini", "from 0 to 1000000"),
        ("http://h:99999/v1", "hosted_vllm/m?api_base=http://h/v1", "--batch must be an http"),
        ("http://u:p@h/v1", "hosted_vllm/m?api_base=http://h/v1", "without user name"),
    ],
)
def test_what_no_batch_carries_is_refused(batch, lm, said):
    with pytest.raises(spri.UsageError, match=said):
        check_batch(batch, None, [parse_lm(lm)])


def test_settings_stand_behind_a_question_mark():
    found = BatchSettings.parse("openai,anthropic?discount=0.25&attempts=5&window=7")
    assert dataclasses.astuple(found)[:4] == (("openai", "anthropic"), 0.25, 5, 7)
    assert check_batch(found, None, [parse_lm("openai/m"), parse_lm("anthropic/c")]) is found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "openai"], "offline has no batch API in --batch openai"),
        (["--batch", "openai", "--deadline", "60"], "--deadline"),
        (["--batch", "openai", "--workers", "2"], "leave --executor and --workers out"),
        (["--batch", "openai", "--executor", "ray"], "leave --executor and --workers out"),
        (["--batch", "openai?poll=0"], "from 0.01 to 86400"),
    ],
)
def test_command_refuses_in_one_line_and_writes_nothing(tmp_path, options, said):
    lm = [] if options == ["--batch", "openai"] else ["--lm", "base=openai/gpt-4o-mini"]
    assert_refused(spri_command("run", "sft", "--run", tmp_path / "run", *lm, *options), 2, said)
    assert not (tmp_path / "run").exists()


def test_dry_run_says_the_price_in_batches():
    arguments = ["run", "sft", "--limit", "5", "--lm", "base=openai/m?usd_in=1&usd_out=1", "--batch"]
    code, out, err = spri_command(*arguments, "openai?discount=0.25", "--dry-run")
    assert code == 0, err
    assert "75% of the live price" in out
    found = json.loads(spri_command(*arguments, "openai", "--dry-run", "--json")[1])
    assert found["usd_in_batches"] == pytest.approx(found["usd_typical"] / 2)


def test_dry_run_says_what_small_waves_may_cost_at_most():
    lm = "base=openai/m?usd_in=1&usd_out=1"
    arguments = ["run", "sft", "--data", "optimize/data/sft.jsonl", "--lm", lm, "--dry-run"]
    out = spri_command(*arguments, "--limit", "40", "--batch", "openai?live_below=3")[1]
    assert "waves of fewer than 3 requests are made live: about $" in out
    for limit, least, part in ((40, 3, 12 * 2), (40, 0, 0), (10, 11, None)):
        where = ["--limit", limit, "--batch", f"openai?live_below={least}", "--json"]
        found = json.loads(spri_command(*arguments, *where)[1])
        part = 1 if part is None else part / found["calls"]["typical"]
        expected = found["usd_typical"] * (0.5 + 0.5 * part)
        assert found["usd_in_batches_most"] == pytest.approx(expected)


def test_small_waves_are_made_live_with_the_same_records_and_at_the_live_price(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-4f9a1c77d2")
    with batch_server(seconds=0.0) as server:
        lm = lm_of(server, usd_in=1000, usd_out=1000)
        budget, said = Budget(max_usd=1e9), []
        batch = settings("openai", live_below=8)
        summary = spri.run_bulk(
            program(lm), examples(12), tmp_path / "run", batch=batch, budget=budget, on_batch=said.append
        )
        stats = server.stats
        assert stats["live"] > 0 and min(stats["batches"]) >= 8
        assert stats["paid"] == stats["distinct"] == summary.usage.calls == budget.calls
        n_in_batches = sum(stats["batches"])
        assert n_in_batches + stats["live"] == stats["paid"]
        assert budget.usd == pytest.approx(460e-3 * (0.5 * n_in_batches + stats["live"]))
        assert sum("made live" in line for line in said) == 1
        spri.run_bulk(program(lm), examples(12), tmp_path / "live")
        assert records(tmp_path / "run") == records(tmp_path / "live")
    assert not list((tmp_path / "run" / "batches").glob("*.partial"))


def test_budget_of_calls_is_kept_where_small_waves_are_made_live(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-4f9a1c77d2")
    with batch_server(seconds=0.0) as server:
        batch, budget = settings("openai", live_below=6), Budget(max_calls=25)
        with pytest.raises(BudgetSpent):
            spri.run_bulk(program(lm_of(server)), examples(12), tmp_path / "run", batch=batch, budget=budget)
        assert server.stats["paid"] == server.stats["distinct"] == 25
        assert server.stats["live"] == 25

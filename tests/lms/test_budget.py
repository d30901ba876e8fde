"""What a run may spend: it stops in one line, pays at most what is in flight on top, and goes on where it stopped."""

import json
import sqlite3

import pytest

from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.runs import RunDir
from tests.command import assert_refused, files, spri, write
from tests.servers.openai_mock import MockConfig

COUNT, CONCURRENCY = 8, 3
PRICES = "&usd_in=1000&usd_out=3000"
"""Dollars a million tokens: with these a call of the mock costs dollars, not thousandths."""


@pytest.fixture
def data(tmp_path):
    posts = ({"id": f"p{n}", "post": f"The bus number {n} left without me again."} for n in range(COUNT))
    return write(tmp_path / "posts.jsonl", *posts)


@pytest.fixture
def mock(start_mock):
    return start_mock(MockConfig(latency_seconds=0.02, latency_sigma=0.5, accept=0.6))


def ask(mock, data, run, *limits, options=PRICES, model="hosted_vllm/mock"):
    """One start of the command: exit code, stdout, stderr."""
    lm = f"base={model}?api_base={mock.base_url}{options}"
    where = ["--data", data, "--run", run, "--lm", lm, "--concurrency", CONCURRENCY]
    return spri("run", "reappraisal", *where, *limits, "--json")


def whole_price(mock, data, path):
    """Answers by prompt, calls, tokens and dollars of a run without limits."""
    assert ask(mock, data, path)[0] == 0
    stats = mock.stats
    mock.reset()
    tokens = stats.input_tokens + stats.output_tokens
    return stats.answered, stats.n_answered, tokens, dollars(stats)


def dollars(stats):
    return (1000 * stats.input_tokens + 3000 * stats.output_tokens) / 1e6


def stored(run):
    with sqlite3.connect(run / "cache/calls.sqlite") as database:
        (count,) = database.execute("SELECT count(*) FROM finished").fetchone()
    database.close()
    return count


def spent_on(limit, stats):
    """What the server says was spent, in the unit of a limit, and the most that one of its calls took of it."""
    tokens = stats.input_tokens + stats.output_tokens
    one = tokens / max(1, stats.n_answered)
    return {
        "--max-calls": (stats.received, 0),
        "--max-tokens": (tokens, 3 * one),
        "--max-usd": (dollars(stats), 3 * dollars(stats) / max(1, stats.n_answered)),
    }[limit]


@pytest.mark.parametrize("limit", ["--max-calls", "--max-tokens", "--max-usd"])
def test_run_stops_at_its_limit_in_one_line_and_goes_on_with_a_larger_one(tmp_path, mock, data, limit):
    answered, calls, tokens, usd = whole_price(mock, data, tmp_path / "whole")
    whole = {"--max-calls": calls, "--max-tokens": tokens, "--max-usd": usd}[limit]
    run, third = tmp_path / "run", int(whole / 3)

    found = ask(mock, data, run, limit, third)
    assert_refused(found, 4, f"the budget of {third:,}", "is spent", f"a larger {limit} goes on")
    stopped = mock.stats
    spent, one_call = spent_on(limit, stopped)
    assert third <= spent <= third + CONCURRENCY * one_call
    assert stopped.in_flight == stopped.abandoned == 0, "a call in flight was thrown away"
    assert stored(run) == stopped.n_answered, "a call was paid and not kept"

    again = ask(mock, data, run, limit, third)
    assert_refused(again, 4, f"the budget of {third:,}")
    assert mock.stats.received == stopped.received, "what was spent before was forgotten"

    code, out, err = ask(mock, data, run, limit, 10 * int(whole + 1))
    assert code == 0, err
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == [f"p{n}" for n in range(COUNT)]
    assert mock.stats.answered == answered, "a finished call was paid twice"
    assert all(record.ok for record in RunDir.read(run).records())


def test_limits_add_up_over_starts(tmp_path, mock, data):
    received = []
    for limit in (5, 7, 7, 12):
        assert ask(mock, data, tmp_path / "run", "--max-calls", limit)[0] == 4
        received.append(mock.stats.received)
    assert received == [5, 7, 7, 12]


def test_run_that_fits_its_limit_exactly_is_finished(tmp_path, mock, data):
    _, calls, *_ = whole_price(mock, data, tmp_path / "whole")
    assert ask(mock, data, tmp_path / "run", "--max-calls", calls)[0] == 0
    assert ask(mock, data, tmp_path / "run", "--max-calls", 1)[0] == 0, "a finished run takes nothing"


def test_failed_attempts_count_and_refused_ones_do_not(tmp_path, start_mock, data):
    script = ["rate_limit", "server_error", "rate_limit", "ok", "rate_limit"]
    mock = start_mock(MockConfig(script=script, retry_after_seconds=0.01))
    assert ask(mock, data, tmp_path / "run", "--max-calls", 6)[0] == 4
    stats = mock.stats
    assert stats.faults == {"rate_limit": 3, "server_error": 1}
    assert stats.received - 3 == 6 == stats.n_answered + 1


def test_price_that_dspy_knows_needs_not_be_stated(tmp_path, mock, data, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    known = {"model": "openai/gpt-4o-mini", "options": ""}
    found = ask(mock, data, tmp_path / "run", "--max-usd", 0.003, **known)
    stats = mock.stats
    usd = (0.15 * stats.input_tokens + 0.6 * stats.output_tokens) / 1e6
    assert_refused(found, 4, "the budget of 0.003 dollars is spent (0.00")
    said = float(found[2].partition("is spent (")[2].partition(")")[0])
    assert 0.003 <= said <= round(usd, 4) < 0.006  # what was in flight then is paid too


def test_dollars_are_counted_at_every_address_of_an_lm(tmp_path, start_mock, data):
    first, second = (start_mock(MockConfig(latency_seconds=0.02)) for _ in range(2))
    lm = f"base=hosted_vllm/mock?api_base={first.base_url},{second.base_url}{PRICES}"
    found = spri("run", "reappraisal", "--data", data, "--run", tmp_path / "run", "--lm", lm, "--max-usd", 9)
    assert_refused(found, 4, "the budget of 9.0 dollars is spent")
    assert min(first.stats.n_answered, second.stats.n_answered) > 0


def test_unknown_price_is_refused_before_anything_is_made(tmp_path, mock, data):
    found = ask(mock, data, tmp_path / "run", "--max-usd", 5, options="")
    assert_refused(found, 2, "the price of hosted_vllm/mock is not known", "usd_in=0.15&usd_out=0.6")
    assert mock.stats.received == 0
    assert not (tmp_path / "run").exists()


def test_unknown_price_of_a_judge_is_refused_before_anything_is_made(tmp_path, mock, data):
    assert ask(mock, data, tmp_path / "run")[0] == 0
    mock.reset()
    before = files(tmp_path)
    lm = f"judge=hosted_vllm/mock?api_base={mock.base_url}"
    found = spri("judge", tmp_path / "run", "--judge", "generic", "--lm", lm, "--max-usd", 5)
    assert_refused(found, 2, "the price of hosted_vllm/mock is not known")
    assert (mock.stats.received, files(tmp_path)) == (0, before)


def test_judging_stops_at_its_limit_too(tmp_path, mock, data):
    assert ask(mock, data, tmp_path / "run")[0] == 0
    mock.reset()
    lm = f"judge=hosted_vllm/mock?api_base={mock.base_url}"
    assert_refused(
        spri("judge", tmp_path / "run", "--judge", "generic", "--lm", lm, "--max-calls", 3),
        4,
        "the budget of 3 LM calls",
    )
    assert mock.stats.received == 3


@pytest.mark.parametrize(("limit", "value"), [("--max-calls", 0), ("--max-tokens", -1), ("--max-usd", "nan")])
def test_limit_that_is_none_is_refused_before_anything_is_made(tmp_path, mock, data, limit, value):
    assert_refused(ask(mock, data, tmp_path / "run", limit, value), 2, f"{limit} must be above 0")
    assert not (tmp_path / "run").exists()


def test_unknown_executor_is_refused_before_anything_is_made(tmp_path, mock, data):
    assert_refused(
        ask(mock, data, tmp_path / "run", "--executor", "slurm"), 2, "unknown executor 'slurm'", "ray"
    )
    assert not (tmp_path / "run").exists()


# The budget alone


class PricedLM:
    """An LM of a known price: two dollars a token in, five out."""

    model = "test/priced"

    class spec:  # noqa: N801 - stands for an attribute
        model, options = "test/priced", {"usd_in": 2e6, "usd_out": 5e6}


def test_earlier_starts_are_counted_in_every_unit():
    budget = Budget(max_usd=1000)
    budget.resume({"test/priced": (3, 10, 20), "test/another": (1, 5, 5)}, [PricedLM()])
    assert (budget.calls, budget.tokens, budget.usd) == (4, 40, 120)


def test_nothing_begins_once_the_budget_is_spent():
    budget = Budget(max_calls=2)
    for _ in range(2):
        with budget.metered(PricedLM()):
            pass
    with pytest.raises(BudgetSpent, match="2 LM calls is spent"), budget.metered(PricedLM()):
        pytest.fail("the call began")
    assert budget.calls == 2


def test_only_dollars_need_a_price():
    unknown = type("LM", (), {"model": "nobody/knows"})()
    Budget(max_calls=1, max_tokens=1).check([unknown])
    with pytest.raises(UsageError, match="the price of nobody/knows is not known"):
        Budget(max_usd=1).check([unknown])

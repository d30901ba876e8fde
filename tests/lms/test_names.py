"""An LM has the name that its user gave it, in every error, record, log line and on every screen."""

import json
import logging
import re
import traceback

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.lms.scope import Retry, Scope, use_scope
from tests.command import files
from tests.command import spri as command
from tests.factories import make_task
from tests.servers.openai_mock import MockConfig

ROUTES = ("native", "litellm")
MADE_UP = re.compile(rb"own-[0-9a-f]{6}")
ONCE = Retry(attempts=1, patience=0)
WAYS = ("unauthorized", "no_model", "rate_limit", "server_error", "empty_body", "cut_mid_body", "hang")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),  # LiteLLM's own types
    pytest.mark.usefixtures("loop_for_litellm"),
]


def lm_at(mock, route, prefix="hosted_vllm"):
    return f"{prefix}/mine?api_base={mock.base_url}&timeout=0.5&route={route}"


def assert_users_names(*shown):
    for each in shown:
        assert not MADE_UP.search(each if isinstance(each, bytes) else each.encode()), each


def told(error):
    """All that an exception says, with what it was raised from."""
    chain, following = [], error
    while following is not None:
        chain.append(repr(following) + str(vars(following)))
        following = following.__cause__ or following.__context__
    return "".join([*traceback.format_exception(error), *chain])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("way", WAYS)
def test_error_says_the_model_as_the_user_named_it(start_mock, way, route, caplog):
    lm = spri.load_lm(lm_at(start_mock(MockConfig(rates={way: 1.0})), route))
    with (
        use_scope(Scope(retry=ONCE)),
        caplog.at_level(logging.DEBUG, "spri_dspy"),
        pytest.raises(dspy.LMError) as raised,
    ):
        lm("hello")
    assert str(raised.value).startswith("[hosted_vllm/mine] ")
    assert raised.value.model == "hosted_vllm/mine"
    assert_users_names(told(raised.value), caplog.text)
    assert "a call: hosted_vllm/mine: LM" in caplog.text


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("way", WAYS)
def test_run_says_and_writes_the_users_name(tmp_path, start_mock, way, route, caplog):
    mock = start_mock(MockConfig(rates={way: 1.0}))
    program = spri.SPRI(make_task()).set_lms(base=lm_at(mock, route))
    run = lambda: spri.run_bulk(program, [{"id": "q", "question": "why?"}], tmp_path / "run", retry=ONCE)  # noqa: E731
    with caplog.at_level(logging.DEBUG, "spri_dspy"):
        if way in ("unauthorized", "no_model"):
            said = "every example would fail: .*; check key, model and address of hosted_vllm/mine, then"
            with pytest.raises(spri.PrerequisiteError, match=said) as raised:
                run()
            assert_users_names(told(raised.value))
        else:
            run()
            (record,) = spri.RunDir.read(tmp_path / "run").records()
            assert record.error
    assert_users_names(caplog.text, *files(tmp_path).values())


def test_answers_history_and_usage_have_the_users_name(start_mock):
    lm = spri.load_lm(lm_at(start_mock(), "native"))
    with dspy.track_usage() as usage:
        lm("hello")
    assert lm.model == lm.history[-1]["model"] == "hosted_vllm/mine"
    assert list(usage.get_total_tokens()) == ["hosted_vllm/mine"]
    assert_users_names(json.dumps(lm.dump_state()))


def test_two_names_for_one_address_stay_apart(start_mock, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    mock = start_mock(MockConfig(rates={"no_model": 1.0}))
    for prefix in ("hosted_vllm", "openai", "hosted_vllm"):
        with use_scope(Scope(retry=ONCE)), pytest.raises(dspy.LMError) as raised:
            spri.load_lm(lm_at(mock, "native", prefix))("hello")
        assert raised.value.provider == prefix
        assert f"({prefix}, HTTP 404)" in told(raised.value)


@pytest.mark.parametrize("route", ROUTES)
def test_commands_show_the_users_name(tmp_path, start_mock, route, monkeypatch, caplog):
    """Doctor, run and judge, with all that they log and what they leave in files."""
    monkeypatch.chdir(tmp_path)
    command("run", "reappraisal", "--limit", "1", "--run", "good")
    lm = lm_at(start_mock(MockConfig(rates={"no_model": 1.0})), route)
    for arguments, said in (
        (["doctor", "--lm", f"base={lm}"], "DOES NOT ANSWER: LMUnsupportedModelError: "),
        (
            ["run", "reappraisal", "--run", "no", "--lm", f"base={lm}"],
            "model and address of hosted_vllm/mine",
        ),
        (["judge", "good", "--lm", f"judge={lm}"], "model and address of hosted_vllm/mine"),
    ):
        code, out, err = command("-v", *arguments)
        assert code in (2, 3) and said in out + err, err
        assert_users_names(out, err)
    assert "hosted_vllm/mine: LM" in caplog.text
    assert_users_names(caplog.text, *files(tmp_path).values())

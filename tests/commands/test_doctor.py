"""`spri doctor`: which keys are set and which LMs answer, without showing a key."""

import json

import pytest

from tests.command import KEYLESS, spri
from tests.servers.openai_mock import MockConfig


def test_doctor_works_with_nothing_set_up():
    code, out, err = spri("doctor")
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert (code, err) == (0, "")
    assert lines["keys set"] == "none" and "OPENAI_API_KEY" in lines["keys not set"]
    assert lines["python"].startswith("3.") and lines["dspy"].startswith("3.")
    assert lines["base LM offline"].startswith("answers: ")


def test_doctor_calls_the_lms_named_and_shows_names_of_keys_and_no_values(start_mock, monkeypatch):
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-secret")
    good, bad = start_mock(MockConfig(api_key="sk-secret")), start_mock(MockConfig(api_key="another"))
    lms = [
        f"--lm={role}=hosted_vllm/mock?api_base={mock.base_url}"
        for role, mock in (("base", good), ("critic", bad))
    ]
    code, out, err = spri("doctor", *lms)
    assert code == 3
    assert "keys set: HOSTED_VLLM_API_KEY\n" in out
    assert f"base LM hosted_vllm/mock?api_base={good.base_url}: answers: " in out
    assert f"critic LM hosted_vllm/mock?api_base={bad.base_url}: DOES NOT ANSWER: LMAuthError: " in out
    assert "sk-secret" not in out + err
    assert (good.stats.received, bad.stats.received) == (1, 1)
    code, out, err = spri("doctor", "--json", *lms)
    found = json.loads(out)
    assert (code, found["lms"]["base"]["ok"], found["lms"]["critic"]["ok"]) == (3, True, False)
    assert found["keys_set"] == ["HOSTED_VLLM_API_KEY"] and "sk-secret" not in out + err


def test_doctor_asks_each_of_several_addresses(start_mock):
    good, bad = start_mock(), start_mock(MockConfig(models=("another",)))
    code, out, _ = spri("doctor", f"--lm=base=hosted_vllm/mock?api_base={good.base_url}, {bad.base_url}")
    assert code == 3
    assert f"base 1 LM hosted_vllm/mock?api_base={good.base_url}: answers: " in out
    assert f"base 2 LM hosted_vllm/mock?api_base={bad.base_url}: DOES NOT ANSWER: " in out


@pytest.mark.parametrize(
    "fault", ["server_error", "cut_before_headers", "empty_body", "no_choices", "null_content"]
)
def test_doctor_asks_a_broken_server_once_and_says_what_came(start_mock, fault):
    mock = start_mock(MockConfig(rates={fault: 1.0}))
    code, out, _ = spri("doctor", "--lm", f"base=hosted_vllm/mock?api_base={mock.base_url}&timeout=5")
    assert code == 3 and "DOES NOT ANSWER: " in out
    assert mock.stats.received == 1


def test_doctor_says_which_key_is_missing():
    code, out, _ = spri("doctor", "--lm", "base=openai/gpt-4o-mini")
    assert code == 3 and f"base LM openai/gpt-4o-mini: DOES NOT ANSWER: {KEYLESS}" in out

"""What redaction finds, in which forms, and in how much time."""

import json
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.redaction import (
    MARK,
    RedactingFormatter,
    add_environment,
    add_secret,
    error_line,
    redact,
    scrub,
)

KEY = "zq-4Xy9!'\"\\%w"


@pytest.fixture(autouse=True)
def known():
    add_secret(KEY)
    add_secret("two-lines\nof-one-key")
    add_secret("none")


@pytest.mark.parametrize("shown", [KEY, repr(KEY), json.dumps(KEY), f"x{KEY}x", "zq-4Xy9%21%27%22%5C%25w"])
def test_known_secrets_are_found_in_every_form(shown):
    text = redact(f"before {shown} after")
    assert text.startswith("before ") and text.endswith(" after") and MARK in text
    assert "4Xy9" not in text


@pytest.mark.parametrize(
    "shown",
    ["two-lines\nof-one-key", r"two-lines\nof-one-key", r"two-lines\r\nof-one-key", "two-lines  of-one-key"],
)
def test_key_with_a_line_break_is_found_in_every_form(shown):
    assert redact(f"<{shown}>") == f"<{MARK}>"
    assert redact("cut off: two-lines") == f"cut off: {MARK}"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("POST http://user:pass@host/v1", f"POST http://{MARK}@host/v1"),
        ("http://user:p@ss:word@host and https://b@c", f"http://{MARK}@host and https://{MARK}@c"),
        ("GET /v1?key=abc&x=1", f"GET /v1?key={MARK}&x=1"),
        ("https://h/v1?x=1&api_key=abc", f"https://h/v1?x=1&api_key={MARK}"),
        ("?TOKEN=abc#there", f"?TOKEN={MARK}#there"),
        ("<p>Authorization: Bearer abcdef1</p>", f"<p>Authorization: Bearer {MARK}</p>"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", f"{{'authorization': 'Basic {MARK}'}}"),
        ('"x-api-key": "abcdefgh"', f'"x-api-key": "{MARK}"'),
        ("x-goog-api-key=abcdefgh, next", f"x-goog-api-key={MARK}, next"),
        ("sent Bearer abc123def", f"sent Bearer {MARK}"),
        ("Incorrect API key provided: sk-proj-a_B-12345.", f"Incorrect API key provided: {MARK}."),
    ],
)
def test_what_looks_like_a_secret_is_found(text, left):
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "hosted_vllm/m?api_base=http://gpu-1:8000/v1&key_env=MY_KEY&max_tokens=512",
        "write to me@example.org, see http://host/v1 and https://other",
        "a risk-based task-force; none of it; bearer bonds; set OPENAI_API_KEY in the environment",
        "UsageError: unknown task 'x'; known: reappraisal, rubrics",
    ],
)
def test_plain_text_stays(text):
    assert redact(text) == text


@given(st.text())
def test_redacting_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "part",
    [
        "://a",
        "authorization: ",
        "authorization: aaaa ",
        "bearer ",
        "two-lines ",
        "two-lines\\n",
        "?key=",
        "sk-",
        "@",
        " ",
    ],
)
def test_time_grows_with_the_text_and_no_faster(part):
    text = part * (400_000 // len(part))
    began = time.perf_counter()
    redact(text)
    assert time.perf_counter() - began < 5


def test_errors_are_one_short_line_without_secrets():
    error = ValueError(f"\n {KEY} is wrong.\nmore")
    assert error_line(error) == f"ValueError: {MARK} is wrong"
    assert error_line(TimeoutError()) == "TimeoutError"
    assert len(error_line(ValueError("x" * 999))) == len("ValueError: ") + 300


def test_secrets_are_taken_out_before_a_line_is_cut():
    assert "4Xy" not in error_line(ValueError("x" * 292 + KEY))


def test_our_own_errors_never_hold_a_secret():
    assert str(UsageError(f"not {KEY}")) == f"not {MARK}"
    assert "4Xy9" not in str(UnknownNameError("task", KEY, ["a"], KEY))


def test_exceptions_are_scrubbed_with_all_they_were_raised_from():
    class Told(Exception):
        def __init__(self, message):
            super().__init__(message, 7)
            self.message = message

        def __str__(self):
            return self.message

    error = Told(f"no {KEY}")
    error.__cause__, error.__context__ = ValueError(KEY), error
    scrub(error)
    assert (str(error), error.args, str(error.__cause__)) == (f"no {MARK}", (f"no {MARK}", 7), MARK)


def test_logged_lines_and_tracebacks_hold_no_secret():
    try:
        raise ValueError(KEY)
    except ValueError as error:
        found = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("x", 10, "f", 1, "sent %s", (KEY,), found)
    text = RedactingFormatter("spri: %(message)s").format(record)
    assert text.startswith(f"spri: sent {MARK}\n") and text.endswith(f"ValueError: {MARK}")


def test_environment_is_searched_by_names(monkeypatch):
    monkeypatch.setenv("SOME_CLOUD_TOKEN", "tok9tok9")
    monkeypatch.setenv("SOME_CLOUD_REGION", "region9")
    monkeypatch.setenv("OTHER_TOKEN", "settings")
    monkeypatch.setenv("MAX_TOKEN", "1000000")
    add_environment()
    assert redact("tok9tok9 region9 settings 1000000") == f"{MARK} region9 settings 1000000"

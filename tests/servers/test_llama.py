"""The tiny llama.cpp server is a real one: schema decoding, logprobs, seeds, a clean stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers.llama import MODEL_NAME, llama_server
from tests.servers.tiny_gguf import TinyShape, byte_characters, write_tiny_gguf

SCHEMA = {
    "type": "object",
    "properties": {
        "feedback": {"type": "string", "maxLength": 30},
        "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
    },
    "required": ["feedback", "score"],
    "additionalProperties": False,
}


def ask(base_url: str, *, seed: int = 0, max_tokens: int = 20, **extra: Any) -> dict[str, Any]:
    body = {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 1.0,
        "seed": seed,
        "max_tokens": max_tokens,
        **extra,
    }
    response = httpx.post(
        f"{base_url}/chat/completions", json=body, timeout=30, trust_env=False, verify=False
    )
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("seed", range(8))
def test_schema_bounds_score_and_text(llama_url: str, seed: int):
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}
    choice = ask(llama_url, seed=seed, max_tokens=200, response_format=wanted)["choices"][0]
    verdict = json.loads(choice["message"]["content"])
    assert choice["finish_reason"] == "stop"
    assert set(verdict) == {"feedback", "score"}
    assert verdict["score"] in (1, 2, 3, 4, 5)
    assert len(verdict["feedback"]) <= 30


def test_logprobs_come_with_every_token(llama_url: str):
    answer = ask(llama_url, logprobs=True, top_logprobs=3)
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    assert "".join(token["token"] for token in tokens) == answer["choices"][0]["message"]["content"]
    assert all(token["logprob"] < 0 and len(token["top_logprobs"]) == 3 for token in tokens)


def test_text_is_printable_and_depends_on_the_seed(llama_url: str):
    texts = [ask(llama_url, seed=seed)["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.isascii() and text.isprintable() for text in texts)


def test_free_text_ends_by_itself_or_at_the_limit(llama_url: str):
    ends = {ask(llama_url, seed=s, max_tokens=60)["choices"][0]["finish_reason"] for s in range(8)}
    assert ends == {"stop", "length"}


def test_server_closes_its_port_at_the_end(tmp_path: Path):
    with llama_server(tmp_path, n_slots=1) as base_url:
        ask(base_url)
    with pytest.raises(httpx.ConnectError):
        ask(base_url)


def test_same_seed_writes_the_same_model(tmp_path: Path):
    one, two, three = (
        write_tiny_gguf(tmp_path / f"{i}.gguf", shape=TinyShape(hidden=16, layers=1), seed=seed).read_bytes()
        for i, seed in enumerate((5, 5, 6))
    )
    assert one == two != three


def test_byte_characters_are_all_different():
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert characters[ord("A")] == "A"
    assert characters[ord(" ")] == "\u0120"

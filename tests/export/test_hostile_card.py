"""Cards of runs from somebody else: whatever a manifest or a record says stays text in its cell."""

import json
import re

import pytest
import yaml
from markdown_it import MarkdownIt

from spri_dspy.export.formats import export_run
from spri_dspy.runs import RunDir
from tests.command import spri
from tests.export_parts import make_record, make_run

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "comment": "<!-- Data card of data/train.jsonl, made by spri export -->",
    "unclosed comment": "<!--",
    "details": "</td></tr></table><h1>Trusted</h1>",
    "link": "[here](http://evil.example/x)",
    "picture": "![x](http://evil.example/x.png)",
    "address": "http://evil.example/x and www.evil.example and <https://evil.example>",
    "cells": "a | b | c |\n| d | e |",
    "escaped cells": "a \\| b \\",
    "front matter": "x\n---\nlicense: mit\ntags: [trusted]\n---\n# Trusted",
    "colons": "a: b: c\n- d",
    "heading": "x\n\n# Trusted\n\n## Rows",
    "code": "`` ` ``<b>x</b>` <b>y</b> `",
    "fence": "x\n```\n<b>y</b>\n```",
    "emphasis": "**trusted** _trusted_ ~~trusted~~ *x*",
    "entities": "&lt;script&gt; &amp; &#60;b&#62;",
    "control": "\x1b[2J\x00\u202e",
}
HTML = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def hostile_run(folder, text):
    record = make_record("a", 4, stop_reasons={"response": "accepted", text: "accepted"})
    other = make_record("b", 4, error=f"{text}: at", outputs={}, reason=None)
    run = make_run(
        folder,
        record,
        other,
        system=text,
        program=text,
        models={"base": text, text: f"openai/{text}"},
        lms={"base": text},
        seeds={text: {text: 3}},
        data={"hub": text, text: text},
        settings={text: text, "n": {text: [text]}},
        versions={text: text},
    )
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "created": text, "seed": text}))
    return RunDir.read(run.path)


def shape(card):
    """A card's header, and the tags and table cells of its body as a browser would have them."""
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    html = HTML.render(body)
    tags = re.findall(r"</?[a-zA-Z][^>]*>|<!--.*?-->", html, re.DOTALL)
    return yaml.safe_load(header), [re.sub(r"^<(\w+).*", r"<\1", tag) for tag in tags]


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harmless")
    done = export_run(
        hostile_run(folder / "run", "plain"), "sft", to=f"hf:{folder / 'hub'}", include_all=True
    )
    return shape(done.card.read_text("utf-8"))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_manifest_adds_no_tag_no_cell_and_no_line_to_a_card(tmp_path, harmless, text):
    run = hostile_run(tmp_path / "run", text)
    done = export_run(run, "sft", to=f"hf:{tmp_path / 'hub'}", include_all=True)
    card = done.card.read_text("utf-8")
    header, tags = shape(card)
    assert header == harmless[0]
    assert tags == harmless[1]
    assert "\n# Trusted" not in card and card.count("\n---\n") == 1
    assert done.card.read_text("utf-8").splitlines()[0] == "---"


@pytest.mark.parametrize("value", [None, 3, "x", [], [["a"]], {"a": None}, {"a": "x"}, {"a": ["b"]}])
@pytest.mark.parametrize("field", ["models", "settings", "data", "versions", "seeds", "lms", "leaks", "task"])
def test_a_manifest_of_another_shape_ends_in_a_card_or_in_one_line(tmp_path, field, value):
    run = make_run(tmp_path / "run", make_record("a", 4))
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, field: value}))
    code, _, err = spri("export", run.path, "--format", "sft", "--all")
    assert code in (0, 2) and "Traceback" not in err, err
    assert code == 0 or err.count("\n") == 1

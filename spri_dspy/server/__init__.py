"""A program as an OpenAI-compatible endpoint: /v1/chat/completions, /v1/models, /health, /metrics.

    spri serve reappraisal --lm base=openai/gpt-4o-mini --program tuned/program.json

    client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
    client.chat.completions.create(
        model="spri/reappraisal",
        messages=[{"role": "user", "content": "I failed my exam ..."}],
        extra_body={"spri": {"inputs": {"aim": "..."}, "trace": True}},
    )

What a request means:

- The last user message is the task's text input (a post, an instruction). A system or developer message is the task's
  other input where it has one (reappraisal: the aim), else it stands before the text.
- `spri.inputs` holds fields of a data row as `spri run --data` takes them (aim, dimension, response ...), in place of a
  system message that would be one; a name that the task does not read is refused. The answer is the response; where a
  task ends after its principles (a rubric), those; typed ones as JSON.
- Earlier turns, temperature, max_tokens, seed and the like change nothing: LMs and their sampling are the operator's.
  The header x-spri-ignored names what was left out. What a caller would build on and cannot have is refused with 400:
  n above 1, stop, tools, other formats than text, logprobs, other parts of a message than text, and parameters that
  nobody knows.
- `usage` sums all LM calls, in a stream with `stream_options.include_usage`. With `spri.trace`, `spri` has principles,
  scores, stop reasons, trace, flags (answers cut off or repeating) and usage by role.
- `system_fingerprint` is "offline-stand-in" where no language model answered.

What a stream holds:

- At once and before each LM call a comment (`: critique_response`), which clients skip; with `spri.progress` a chunk
  too. A comment every ten seconds keeps proxies from cutting a stream that waits.
- `delta.content` holds the text that stands, in pieces, and nothing else: a client appends all of it. Which candidate
  stands is known only after the last verdict, so by default nobody sees one that the critic turned down.
- With `spri.drafts` (`spri serve --drafts` for clients that cannot ask), every candidate comes token by token as its
  LM writes it, under its stage's name, in `delta.reasoning_content`, which chat clients show as thinking. Its chunks
  have `spri.stage` too. LMs that cannot stream (offline, replay) write none.

Errors have OpenAI's shape: 400 wrong input, 401 no token, 404 no such model, 408 a body that does not end, 413 one that
is too large, 429 a full queue (Retry-After), 502 an LM that failed, 503 stopping, 504 out of time; in a stream that has
begun, as its last event. Web pages in a browser cannot use a server unless their origin is named (`--cors`): it answers
JSON bodies only, and without a token only to loopback names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.lms.spec import LMSpec, check_offline_roles, check_roles, load_lm
from spri_dspy.program import Program, load_program
from spri_dspy.redaction import add_secret
from spri_dspy.server.app import create_app
from spri_dspy.server.listen import serve
from spri_dspy.server.service import Limits
from spri_dspy.systems import load_system
from spri_dspy.tasks import Task, load_task

__all__ = ["Limits", "create_app", "make_program", "serve", "token_from"]


def make_program(
    task_name: str,
    lms: Mapping[str, str],
    saved: Path | None = None,
    system: str = "spri",
    settings: Mapping[str, Any] | None = None,
) -> tuple[Program, Task]:
    """The program that a command names, with its LMs, and its task.

    Args:
        task_name: as `load_task` takes it.
        lms: LM strings of base and critic; none is the offline stand-in.
        saved: a program's file, whose prompts and demos are used.
        system: as `load_system` takes it.
        settings: of the system.

    Raises:
        UsageError: one of them is wrong, or a real base has an offline critic.
        PrerequisiteError: a key or an address is missing.
    """
    specs = {"base": LMSpec("offline"), **check_roles(lms)}
    if "judge" in specs:
        raise UsageError("an endpoint judges nothing: leave --lm judge=... out")
    check_offline_roles(specs)
    task = load_task(task_name)
    program = load_system(system, task, **settings or {})
    if saved:
        load_program(program, saved)
    return program.set_lms(**{role: load_lm(spec) for role, spec in specs.items()}), task


def token_from(name: str | None) -> str | None:
    """The token in an environment variable, known from then on as a secret; None without a name.

    Raises:
        PrerequisiteError: the variable is not set, or cannot be a token.
    """
    if name is None:
        return None
    token = os.environ.get(name, "").strip()
    if not token or not token.isascii() or len(token.split()) > 1:
        raise PrerequisiteError(f"--token-env {name}: set {name} in the environment to one word of ASCII")
    add_secret(token)
    return token

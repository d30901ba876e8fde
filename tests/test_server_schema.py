"""The endpoint against its own OpenAPI description, with requests that nobody would think of."""

import pytest
from hypothesis import HealthCheck, settings

from spri_dspy.server import Limits, create_app
from tests.server_parts import MODEL, POST, program

schemathesis = pytest.importorskip("schemathesis", reason="made requests for the endpoint: make test-serve")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

TOKEN = {"Authorization": "Bearer for-the-tests"}
app = create_app(program(), limits=Limits(concurrency=4), token="for-the-tests")
schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=TOKEN)


many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
shapes = [
    schemathesis.checks.not_a_server_error,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
]


@schema.parametrize()
@many
def test_the_endpoint_keeps_to_its_description(case):
    case.call_and_validate(headers=TOKEN)


@schema.include(method="POST").parametrize()
@many
def test_requests_for_the_model_that_there_is(case):
    if isinstance(case.body, dict):
        case.body["model"] = MODEL
        if isinstance(case.body.get("messages"), list):
            case.body["messages"].append({"role": "user", "content": POST})
    answer = case.call(headers=TOKEN)
    case.validate_response(answer, checks=shapes)
    seen.add(answer.status_code)


seen = set()


def test_some_of_these_were_answered_and_some_refused():
    assert {200, 400} <= seen

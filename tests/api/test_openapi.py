"""The OpenAPI document, and docs/api.md beside it."""

from pathlib import Path

import pytest

from asr_service import errors
from asr_service.api.openapi import ERRORS
from tests.api.conftest import Serve, build
from tests.fakes import FakeDecoder, FakeEngine

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def every_error(parent: type[errors.AsrError] = errors.AsrError) -> set[type[errors.AsrError]]:
    return {parent}.union(*(every_error(child) for child in parent.__subclasses__()))


@pytest.mark.anyio
async def test_describes_uploads_options_and_errors(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        document = (await client.get("/openapi.json")).json()
        page = await client.get("/docs")

    assert page.status_code == 200
    operation = document["paths"]["/transcribe"]["post"]
    options = {"language", "prompt", "hotwords", "task", "temperature", "words", "timestamps", "response_format"}
    assert {parameter["name"] for parameter in operation["parameters"]} == options
    content = operation["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "audio/*", "video/*", "application/octet-stream"}
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"file", *options}
    assert set(operation["responses"]) == {
        *("200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504")
    }
    examples = operation["responses"]["413"]["content"]["application/problem+json"]["examples"]
    assert set(examples) == {"upload_too_large", "audio_too_long"}
    assert document["components"]["schemas"]["Problem"]["required"]
    assert set(document["paths"]["/readyz"]["get"]["responses"]) == {"200", "503"}


@pytest.mark.anyio
async def test_every_reference_in_the_document_resolves(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        document = (await client.get("/openapi.json")).json()

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        if isinstance(node, list):
            return set().union(*(references(value) for value in node))
        return set()

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_every_error_is_described() -> None:
    # The bare base class and the one that ends the start of the service are never an answer by design.
    assert set(ERRORS) == every_error() - {errors.AsrError, errors.ModelUnavailable}


def test_every_error_code_and_endpoint_is_documented() -> None:
    documented = DOCS.read_text()
    codes = {error.code for error in every_error()} | {"not_found", "method_not_allowed"}
    for code in codes:
        assert f"`{code}`" in documented, f"{code} is missing in docs/api.md"
    paths = build(FakeEngine(), FakeDecoder()).openapi()["paths"]
    for path, operations in paths.items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in documented, f"{method} {path} is missing in docs/api.md"

"""The whole path: a recording over TLS through the shipped nginx to the real service, and text back."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import OUTSIDE
from tests.e2e.proxy import Certificates, Proxy, needs_nginx, proxy
from tests.e2e.service import Service, serve
from tests.e2e.test_lifetime import speech
from tests.recordings import packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(300), needs_nginx]

CLIP = next(path for path in packaged_clips() if path.parent.name == "en")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    settings = {"ASR_TRUSTED_PROXIES": "127.0.0.1", "ASR_WINDOWS_IN_FLIGHT": "1", "ASR_MAX_UPLOAD_MB": "4"}
    with serve(**settings) as running:
        running.wait_for("ready")
        yield running


@pytest.fixture(scope="module")
def front(service: Service, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("service") / "nginx"
    with proxy(folder, certificates, [service.url.removeprefix("http://")], ASR_MAX_UPLOAD_MB="4") as running:
        yield running


@pytest.mark.parametrize("http2", [False, True])
async def test_a_recording_becomes_text_through_the_proxy(front: Proxy, service: Service, http2: bool) -> None:
    request_id = f"through.nginx-{http2}"
    async with front.client(OUTSIDE, http2=http2) as client:
        files = {"file": (CLIP.name, CLIP.read_bytes())}
        headers = {"X-Request-ID": request_id, "X-Forwarded-For": "10.0.0.1"}
        response = await client.post("/transcribe", files=files, data={"language": "en"}, headers=headers)
    assert response.status_code == 200, response.text
    assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert response.json()["text"]
    assert response.json()["request_id"] == request_id
    assert response.headers.get_list("x-request-id") == [request_id]
    line = service.wait_for("request")
    assert line["request_id"] == request_id
    assert line["caller"] == f"address:{OUTSIDE}", "the service knows who called, whatever the caller said"


async def test_text_arrives_while_the_rest_is_still_being_transcribed(front: Proxy, service: Service) -> None:
    headers = {"Accept": "application/x-ndjson"}
    async with (
        front.client() as client,
        client.stream("POST", "/transcribe?language=en", content=speech(35), headers=headers) as response,
    ):
        assert response.status_code == 200
        lines = response.aiter_lines()
        assert json.loads(await anext(lines))["type"] == "segment"
        # The first line is here, the request is still in work: nobody has kept it back until the end.
        assert service.metric("asr_requests_in_flight") >= 1
        rest = [json.loads(line) async for line in lines]
    assert rest[-1]["type"] == "transcript"
    assert len(rest) >= 2


async def test_both_refuse_the_same_size_and_say_the_same(front: Proxy, service: Service) -> None:
    body = bytes(4 * 2**20 + 1)
    async with front.client() as outside, httpx.AsyncClient(base_url=service.url) as direct:
        answers = [await client.post("/transcribe", content=body) for client in (outside, direct)]
        largest = await outside.post("/transcribe", content=body[:-1])
    first, second = (answer.json() for answer in answers)
    assert [answer.status_code for answer in answers] == [413, 413]
    assert first.keys() == second.keys()
    for field in ("type", "title", "status", "code"):
        assert first[field] == second[field]
    assert largest.json()["code"] == "unreadable_audio", "the service has read all of it"


async def test_only_trusted_proxies_say_who_calls(service: Service) -> None:
    transport = httpx.AsyncHTTPTransport(local_address=OUTSIDE)
    async with httpx.AsyncClient(base_url=service.url, transport=transport) as client:
        await client.post(
            "/transcribe", content=b"?", headers={"X-Forwarded-For": "10.0.0.1", "X-Request-ID": "forged"}
        )
    while (line := service.wait_for("request"))["request_id"] != "forged":
        continue
    assert line["caller"] == f"address:{OUTSIDE}"


async def test_a_service_that_has_ended_is_a_502(front: Proxy, service: Service) -> None:
    """The last test here: the service is gone after it."""
    assert service.stop() == 0
    async with front.client() as client:
        response = await client.post("/v1/audio/transcriptions", content=b"RIFF")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "bad_gateway")

"""The real service and a collector: what happened in three kinds of processes is one tree."""

import httpx
import pytest

from tests.collector import collector
from tests.e2e.service import serve
from tests.recordings import packaged_clips
from tests.spans import Seen, check_nesting

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(150)]

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_request_is_one_tree_whose_times_are_those_of_its_reply_and_its_log_line() -> None:
    with collector() as kept, serve(ASR_TRACES__ENDPOINT=kept.url) as service:
        service.wait_for("ready")
        clip = packaged_clips()[0]
        answer = httpx.post(
            f"{service.url}/transcribe",
            files={"file": (clip.name, clip.read_bytes())},
            data={"words": "true"},
            headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
            timeout=60,
        )
        line = service.wait_for("request")
        # What was not sent yet is sent at the end.
        assert service.stop() == 0
        spans = kept.spans_until("POST /transcribe")

    assert answer.status_code == 200, answer.text
    check_nesting(spans)
    by_name: dict[str, Seen] = {span.name: span for span in spans}
    assert sorted(span.name for span in spans) == sorted(
        ("POST /transcribe", "upload", "transcribe", "decode", "vad", "window")
        + ("prepare", "queue", "encode", "decode_steps", "align")
    )
    root = by_name["POST /transcribe"]
    assert (root.trace, root.parent) == (TRACE, CALLER)
    assert (line["trace_id"], line["span_id"]) == (TRACE, root.id)
    timings = answer.json()["timings_ms"]
    for stage in ("queue", "encode", "decode_steps", "align"):
        assert by_name[stage].ms == pytest.approx(timings[stage], abs=0.1)
        assert line[f"{stage}_ms"] == pytest.approx(timings[stage], abs=0.1)
    assert root.ms == pytest.approx(line["request_ms"], abs=50)
    assert by_name["decode"].end_ns <= by_name["align"].end_ns
    assert by_name["window"].ms - sum(by_name[s].ms for s in ("queue", "encode", "decode_steps", "align")) < 500

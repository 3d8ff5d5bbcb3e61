"""A collector of traces: takes OTLP over HTTP on a free port, and keeps it."""

import contextlib
import gzip
import http.server
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.spans import Seen


@dataclass
class Collector:
    url: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    _spans: "queue.SimpleQueue[Seen]" = field(default_factory=queue.SimpleQueue)

    def spans_until(self, name: str, limit_s: float = 20.0) -> list[Seen]:
        """All spans up to the first whose name begins so."""
        spans = [self._spans.get(timeout=limit_s)]
        while not spans[-1].name.startswith(name):
            spans.append(self._spans.get(timeout=limit_s))
        return spans

    def take(self, headers: dict[str, str], body: bytes) -> None:
        self.headers.append(headers)
        for resource in ExportTraceServiceRequest.FromString(gzip.decompress(body)).resource_spans:
            self.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._spans.put(
                        Seen(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.code == Status.STATUS_CODE_ERROR,
                            {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes},
                        )
                    )


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A running collector."""
    kept = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = self.path == "/v1/traces"
            if found:
                kept.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()

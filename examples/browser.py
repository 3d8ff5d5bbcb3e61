"""Shows `browser.html`, and passes what it sends on to the service, so that both have one origin: for trying it out.

    python examples/browser.py [http://127.0.0.1:8000]

and open http://127.0.0.1:8080. In earnest a reverse proxy such as nginx does this.

http://127.0.0.1:8080/realtime.html, the microphone, speaks to the service directly, whose ASR_CORS_ORIGINS has to be
http://127.0.0.1:8080.
"""

import http.client
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PAGES = {"/": "browser.html", "/realtime.html": "realtime.html"}
PORT = 8080


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.0: the end of an answer is the end of the connection, so pieces are passed on as they come."""

    service = "127.0.0.1:8000"

    def do_GET(self) -> None:
        if self.path not in PAGES:
            self.send_error(404)
            return
        self._begin(200, {"Content-Type": "text/html; charset=utf-8"})
        self.wfile.write(Path(__file__).with_name(PAGES[self.path]).read_bytes())

    def do_POST(self) -> None:
        if self.path != "/transcribe":
            self.send_error(404)
            return
        length = int(self.headers.get("Content-Length", 0))
        names = ("Accept", "Content-Type", "Content-Length")
        connection = http.client.HTTPConnection(self.service)
        try:
            body = self.rfile.read(length)
            connection.request("POST", "/transcribe", body, {name: self.headers.get(name, "") for name in names})
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name in ("content-type", "retry-after")}
            self._begin(answer.status, kept)
            while piece := answer.read1():
                self.wfile.write(piece)
        except ConnectionRefusedError:
            self.send_error(502, f"The service at {self.service} does not answer")
        except http.client.IncompleteRead:
            self.log_message("the service has broken off")
        except (BrokenPipeError, ConnectionResetError):
            self.log_message("the page has gone")
        finally:
            connection.close()

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        Handler.service = urlsplit(sys.argv[1]).netloc
    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        print(f"http://127.0.0.1:{PORT}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()

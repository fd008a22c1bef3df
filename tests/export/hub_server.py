"""As much of the Hugging Face hub's HTTP interface as one upload of a data set or model needs, on a local port."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """What was asked for, and the repositories."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.kinds: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False
        self.url = ""

    def address(self, name: str) -> str:
        return f"{self.url}/{'datasets/' if self.kinds[name] == 'dataset' else ''}{name}"


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def tell(self, told: object, status: int = 200) -> None:
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            _, _, kinds, *rest = self.path.partition("/revision/")[0].split("/")
            name = "/".join(rest)
            if name in hub.private and kinds == f"{hub.kinds[name]}s":
                self.tell({"id": name, "private": hub.private[name], "sha": "0" * 40, "siblings": [], "tags": []})
            else:
                self.tell({"error": "Repository not found"}, 404)

        def do_POST(self) -> None:
            hub.tokens.add(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if hub.refuses:
                self.tell({"error": "You may not do that"}, 403)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.kinds[name] = asked.get("type", "model")
                if name in hub.private:
                    self.tell({"url": hub.address(name), "error": "You already created it"}, 409)
                else:
                    hub.private[name] = asked.get("visibility") == "private"
                    self.tell({"url": hub.address(name)})
            elif "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                self.tell({"files": files})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                (name,) = hub.private
                self.tell({"commitUrl": f"{hub.address(name)}/commit/1", "commitOid": "1" * 40, "success": True})
            else:
                self.tell({})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

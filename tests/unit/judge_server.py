"""An endpoint on this machine that speaks OpenAI's protocol and misbehaves on request."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST_BYTES = 1_000_000
HANG = 2.0

# (completion, number of the attempt, from 1) -> what the model says, or (status, body), or a word below.
Behaviour = Callable[[str, int], str | tuple[int, Any]]
CUT, SILENT, NO_JSON, NO_CHOICES = "cut!", "silent!", "no json!", "no choices!"
DRIPPING, ENDLESS, PACKED = "dripping!", "endless!", "packed!"


class JudgeServer(ThreadingHTTPServer):
    """Counts what it is asked; `behaviour` decides what it says."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.said_well: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.counting = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def settings(self, **more: Any) -> dict[str, Any]:
        """An entry of `judges:` for it."""
        return {"kind": "openai", "url": self.url, "model": "tiny", "wait": 0.001, "timeout": 20} | more

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def judge_server(behaviour: Behaviour) -> Iterator[JudgeServer]:
    server = JudgeServer(behaviour)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: JudgeServer

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        if self.path != "/v1/chat/completions" or length > MOST_BYTES:
            self._send(404, {"error": {"message": f"no {self.path}"}})
            return
        body = json.loads(self.rfile.read(length))
        material = json.loads(body["messages"][-1]["content"])
        subject = material.get("completion") or material["reference"]
        with self.server.counting:
            self.server.keys.add(self.headers.get("authorization", ""))
            self.server.bodies.append(body)
            self.server.asked[subject] += 1
            attempt = self.server.asked[subject]
        said = self.server.behaviour(subject, attempt)
        if said == CUT:
            self.connection.shutdown(2)
            self.close_connection = True
        elif said == SILENT:
            time.sleep(HANG)
            self.close_connection = True
        elif said in (DRIPPING, ENDLESS):
            self._send_pieces(b" ", 0.1, 40) if said == DRIPPING else self._send_pieces(b" " * 2**20, 0, 100)
        elif said == PACKED:
            self._send(200, b"\x1f\x8b", encoding="gzip")
        elif said == NO_JSON:
            self._send(200, b"<html>good day</html>", "text/html")
        elif said == NO_CHOICES:
            self._send(200, {"choices": []})
        elif isinstance(said, tuple):
            self._send(said[0], {"error": {"message": said[1]}})
        else:
            with self.server.counting:
                self.server.answered[subject] += 1
                self.server.said_well[subject] += said.startswith('{"score": ') and "NaN" not in said
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
            self._send(200, answer | {"choices": [choice]})

    def _send_pieces(self, piece: bytes, seconds: float, count: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(piece) * count))
        self.end_headers()
        for _ in range(count):
            self.wfile.write(piece)
            time.sleep(seconds)

    def _send(self, status: int, body: Any, kind: str = "application/json", encoding: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        if encoding:
            self.send_header("content-encoding", encoding)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silence."""

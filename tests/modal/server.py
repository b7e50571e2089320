"""A loopback control plane for the real Modal client: gRPC and HTTP on 127.0.0.1, real containers.

Run as `python -m tests.modal.server`: it prints one JSON line with its addresses and lives until its
standard input closes. It knows nothing of the product. Faults and questions come over HTTP under
`/control/`; `tests.modal.loopback.Server` is the client for that.
"""

import argparse
import asyncio
import fnmatch
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Server as GrpcServer
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

from tests.modal.containers import Container, status_name
from tests.modal.service import Service
from tests.modal.state import Secret, State

CONTAINER_ONLY = frozenset(
    [
        "container_hello",
        "container_heartbeat",
        "function_get_inputs",
        "function_put_outputs",
        "task_result",
        "volume_commit",
        "volume_reload",
    ]
)


class Protocol:
    """Puts the service under grpclib: decoding, tokens, the record of requests, faults, repeated requests."""

    def __init__(self, service: Service) -> None:
        self.service, self.state = service, service.state
        self.answered: dict[tuple[str, str], asyncio.Future[Message]] = {}

    def __mapping__(self) -> dict[str, Handler]:
        class Base(ModalClientBase):
            pass

        Base.__abstractmethods__ = frozenset()
        handlers = Base().__mapping__()
        return {
            path: Handler(self.handler(path.rpartition("/")[2]), *handler[1:])
            for path, handler in handlers.items()
        }

    def handler(self, name: str) -> Any:
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
        method = getattr(self.service, snake, None)

        async def handle(stream: Stream) -> None:
            request = await stream.recv_message()
            container = self.admit(name, stream)
            self.state.requests.append((name, time.time(), container.id if container else "", request))
            await self.fault("before", name, stream)
            if method is None:
                print(f"unimplemented: {name}", file=sys.stderr, flush=True)
                raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not part of the loopback server")
            if snake in CONTAINER_ONLY and container is None:
                raise GRPCError(
                    Status.FAILED_PRECONDITION, f"{name} can only be called from inside a container"
                )
            arguments = (request, container) if snake in CONTAINER_ONLY else (request,)
            await self.answer(name, method, arguments, stream)

        return handle

    async def answer(self, name: str, method: Any, arguments: tuple[Any, ...], stream: Stream) -> None:
        result = method(*arguments)
        if hasattr(result, "__aiter__"):
            async for message in result:
                await stream.send_message(message)
            return
        key = (name, str(stream.metadata.get("x-idempotency-key", "")))
        if not name.startswith("Function") or not key[1]:
            message = await result
        elif key in self.answered:  # the answer to the first attempt was lost on its way
            result.close()
            message = await asyncio.shield(self.answered[key])
        else:
            task = self.answered[key] = asyncio.ensure_future(result)
            try:
                message = await asyncio.shield(task)
            except GRPCError:
                del self.answered[key]
                raise
        await self.fault("after", name, stream)
        await stream.send_message(message)

    def admit(self, name: str, stream: Stream) -> Container | None:
        """The container that asks, or None for a client with the right token."""
        task = stream.metadata.get("x-loopback-task")
        if task in self.state.containers:
            return self.state.containers[str(task)]
        token = tuple(stream.metadata.get(f"x-modal-token-{part}") for part in ("id", "secret"))
        if token != self.state.token or self.state.faults.take("token", name):
            raise GRPCError(Status.UNAUTHENTICATED, "Token validation failed")
        return None

    async def fault(self, when: str, name: str, stream: Stream) -> None:
        if when == "before" and (fault := self.state.faults.take("fail", name)):
            raise GRPCError(Status[fault["status"]], f"{name} fails on demand")
        if self.state.faults.take(f"drop_{when}", name):
            stream._stream.connection.close()
            raise asyncio.CancelledError


class Http:
    """Blobs and blocks for the client, and the control endpoint."""

    def __init__(self, state: State) -> None:
        self.state = state

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_get("/blobs/{name}", self.get_blob)
        application.router.add_put("/blobs/{name}", self.put_blob)
        application.router.add_get("/blocks/{name}", self.get_block)
        application.router.add_put("/blocks/{name}", self.put_block)
        application.router.add_post("/control/{verb}", self.control)
        return application

    async def get_blob(self, request: web.Request) -> web.StreamResponse:
        path = self.state.folder / "blobs" / Path(request.match_info["name"]).name
        if not path.exists():
            raise web.HTTPNotFound
        return web.Response(body=path.read_bytes())

    async def put_blob(self, request: web.Request) -> web.Response:
        data = await request.read()
        (self.state.folder / "blobs" / Path(request.match_info["name"]).name).write_bytes(data)
        self.state.uploaded["blob"] += len(data)
        return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def put_block(self, request: web.Request) -> web.Response:
        data = await request.read()
        if self.state.store.put(data) != request.match_info["name"]:
            raise web.HTTPBadRequest(text="the block's SHA-256 is another")
        self.state.uploaded["volume"] += len(data)
        return web.Response(body=b"stored")

    async def get_block(self, request: web.Request) -> web.StreamResponse:
        name = Path(request.match_info["name"]).name
        if name not in self.state.store:
            raise web.HTTPNotFound
        data = self.state.store.get(name)
        if self.state.faults.take("corrupt_block", name) and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif self.state.faults.take("cut_block", name):
            data = data[: len(data) // 2]
        elif self.state.faults.take("break_block", name):
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=data)

    async def control(self, request: web.Request) -> web.Response:
        verb, details = request.match_info["verb"], await request.json()
        return web.json_response(getattr(self, f"control_{verb}")(**details))

    def control_requests(self, name: str) -> list[dict[str, Any]]:
        return [
            {
                "time": moment,
                "task": task,
                "name": found,
                "request": MessageToDict(message, preserving_proto_field_name=True),
            }
            for found, moment, task, message in self.state.requests
            if fnmatch.fnmatch(found, name)
        ]

    def control_calls(self) -> list[dict[str, Any]]:
        return [
            {
                "call": call.id,
                "function": call.function.name,
                "pool": call.function.id,
                "method": entry.content.method_name,
                "input": entry.id,
                "attempts": entry.attempts,
                "status": status_name(entry.output.result) if entry.output else "",
            }
            for call in self.state.calls.values()
            for entry in call.inputs
        ]

    def control_containers(self) -> list[dict[str, Any]]:
        return [container.describe() for container in self.state.containers.values()]

    def control_images(self) -> dict[str, Any]:
        return {
            id: [
                MessageToDict(layer, preserving_proto_field_name=True) for layer in self.state.image_chain(id)
            ]
            for id in self.state.images
        }

    def control_volume(self, name: str) -> dict[str, Any]:
        volume = self.state.named(self.state.volumes, name)
        if volume is None:
            return {}
        return {
            path: {"size": file.size, "sha256": volume.digest(path)} for path, file in volume.files.items()
        }

    def control_logs(self) -> list[dict[str, Any]]:
        return self.state.logs.entries

    def control_rates(self, rates: dict[str, str]) -> None:
        self.state.rates = rates

    def control_uploaded(self) -> dict[str, int]:
        return dict(self.state.uploaded)

    def control_fault(self, kind: str, **details: Any) -> None:
        self.state.faults.set(kind, **details)

    def control_preempt(self, grace: float) -> None:
        for container in self.state.containers.values():
            for entry in list(container.inputs.values()):
                container.preempt(entry, len(entry.attempts), grace)

    def control_clear(self) -> None:
        self.state.faults.active.clear()

    def control_secret(self, name: str, values: dict[str, str] | None) -> None:
        known = self.state.named(self.state.secrets, name)
        if known is not None:
            del self.state.secrets[known.id]
        if values is not None:
            secret = Secret(self.state.new("st"), name, values)
            self.state.secrets[secret.id] = secret


async def serve(python: str, environment: dict[str, str], folder: Path) -> None:
    state = State(folder, python, environment)
    runner = web.AppRunner(Http(state).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    state.http = f"http://127.0.0.1:{runner.addresses[0][1]}"
    grpc = GrpcServer([Protocol(Service(state))])
    await grpc.start("127.0.0.1", 0)
    assert grpc._server is not None
    state.url = f"http://127.0.0.1:{grpc._server.sockets[0].getsockname()[1]}"
    token = dict(zip(("token_id", "token_secret"), state.token, strict=True))
    print(json.dumps({"url": state.url, "http": state.http, "folder": str(folder), **token}), flush=True)

    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    state.closing = True
    for container in state.containers.values():
        container.signal(signal.SIGKILL)
    tasks = [container.task for container in state.containers.values() if container.task]
    await asyncio.gather(*tasks, return_exceptions=True)
    grpc.close()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", default=sys.executable, help="the containers' python")
    parser.add_argument("--environment", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    environment = dict(pair.split("=", 1) for pair in options.environment)
    folder = Path(tempfile.mkdtemp(prefix="loopback-"))
    try:
        asyncio.run(serve(options.python, environment, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

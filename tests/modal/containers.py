"""Containers of the loopback server: real processes in a pool per function variant, and their inputs."""

import asyncio
import codecs
import contextlib
import json
import os
import shlex
import signal
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modal_proto import api_pb2

from tests.modal.volumes import View

if TYPE_CHECKING:
    from tests.modal.server import Function, State

START = Path(__file__).with_name("start_container.py")
SCALEDOWN_WINDOW = 60  # seconds, where the function sets none
GRACE = 30.0  # seconds between the signal and the kill
FAILED_STARTS = 2  # in a row, before the waiting inputs fail

Result = api_pb2.GenericResult
CANCELLED = Result(status=Result.GENERIC_STATUS_TERMINATED, exception="Input was cancelled by user")
PREEMPTED = Result(status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception="Container was preempted")
STOPPED = Result(status=Result.GENERIC_STATUS_TERMINATED, exception="The app was stopped")


def status_name(result: Result) -> str:
    return Result.GenericStatus.Name(result.status).removeprefix("GENERIC_STATUS_")


@dataclass
class Input:
    """One input of a call, with its attempts."""

    id: str
    call: "Call"
    index: int
    content: api_pb2.FunctionInput
    retry_count: int = 0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    output: api_pb2.FunctionGetOutputsItem | None = None
    cancelled: bool = False

    @property
    def jwt(self) -> str:
        return f"{self.id}:{self.retry_count}"


@dataclass
class Call:
    """A function call and its inputs."""

    id: str
    function: "Function"
    invocation: int
    inputs: list[Input] = field(default_factory=list)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)  # as they came
    created: float = field(default_factory=time.time)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def retried_by_client(self) -> bool:
        return self.invocation == api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC

    def finish(self, entry: Input, item: api_pb2.FunctionGetOutputsItem) -> None:
        item.idx, item.input_id, item.retry_count = entry.index, entry.id, entry.retry_count
        entry.output = item
        self.outputs.append(item)
        self.changed.set()
        self.changed = asyncio.Event()


def retry_delay(policy: api_pb2.FunctionRetryPolicy, retry: int) -> float:
    """Seconds before the given retry (0 is the first)."""
    delay = policy.initial_delay_ms * (policy.backoff_coefficient or 1) ** retry
    return min(delay, policy.max_delay_ms or 60_000) / 1000


class Pool:
    """The containers and the queue of one function variant."""

    def __init__(self, state: "State", function: "Function") -> None:
        self.state, self.function = state, function
        self.queue: deque[Input] = deque()
        self.containers: list[Container] = []
        self.failed_starts = 0

    @property
    def alive(self) -> list["Container"]:
        return [container for container in self.containers if container.ended is None]

    def add(self, entry: Input, first: bool = False) -> None:
        if entry.cancelled or entry.output is not None:
            return
        self.queue.appendleft(entry) if first else self.queue.append(entry)
        self.schedule()

    def schedule(self) -> None:
        """Wake waiting containers, and start as many as the queue asks for and the limit allows."""
        if self.state.closing:
            return
        for container in self.alive:
            container.wake.set()
        definition = self.function.definition()
        width = definition.max_concurrent_inputs or 1
        usable = [container for container in self.alive if not container.draining]
        free = sum(max(0, width - len(container.inputs)) for container in usable)
        limit = self.function.settings().max_containers or 100
        missing = -(-(len(self.queue) - free) // width)
        for _ in range(min(missing, limit - len(self.alive))):
            container = Container(self, definition)
            self.containers.append(container)
            self.state.containers[container.id] = container
            container.task = asyncio.create_task(container.run())

    def failed(self, entry: Input, item: api_pb2.FunctionGetOutputsItem) -> None:
        """An attempt ended badly: retried as the policy says, else it is the output."""
        policy = self.function.definition().retry_policy
        if entry.call.retried_by_client or entry.retry_count >= policy.retries or entry.cancelled:
            entry.call.finish(entry, item)
            return
        delay = retry_delay(policy, entry.retry_count)
        entry.retry_count += 1
        asyncio.get_running_loop().call_later(delay, self.add, entry)

    def fail_all(self, result: Result) -> None:
        """No container starts: what waits gets the reason."""
        while self.queue:
            entry = self.queue.popleft()
            entry.call.finish(entry, api_pb2.FunctionGetOutputsItem(result=result))

    def stop(self) -> None:
        self.fail_all(STOPPED)
        for container in self.alive:
            container.stop(STOPPED, grace=10)


class Container:
    """A process of Modal's own runtime, with its view of each volume."""

    numbers = count(1)

    def __init__(self, pool: Pool, definition: api_pb2.Function) -> None:
        self.id = f"ta-{next(Container.numbers):08d}"
        self.pool, self.state, self.definition = pool, pool.state, definition
        self.version = pool.function.version
        self.folder = self.state.folder / "containers" / self.id
        self.files = self.folder / "files"
        self.home = self.files / "root"
        self.inputs: dict[str, Input] = {}
        self.served: list[str] = []
        self.views: dict[str, View] = {}
        self.cancellations: list[str] = []
        self.wake, self.news = asyncio.Event(), asyncio.Event()
        self.started = time.time()
        self.ready: float | None = None
        self.ended: float | None = None
        self.draining = False
        self.ending: Result | None = None  # of an end that the server brought about
        self.start_failure: Result | None = None
        self.current: Input | None = None  # to which its output belongs
        self.process: asyncio.subprocess.Process | None = None
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """From the first file to the last line of its log."""
        try:
            await asyncio.to_thread(self.lay_out)
            spec = self.folder / "start.json"
            spec.write_text(json.dumps(self.specification()))
            self.process = await asyncio.create_subprocess_exec(
                *(self.state.python, "-I", "-S", str(START), str(spec)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            if self.ending is not None:
                self.signal(signal.SIGKILL)
            later = asyncio.get_running_loop().call_later
            limit = self.definition.startup_timeout_secs or 300
            timer = later(limit, self.check_start, limit)
            output = asyncio.gather(
                self.read(self.process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT),
                self.read(self.process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR),
            )
            await self.process.wait()
            timer.cancel()
            self.signal(signal.SIGKILL)  # what it left behind, which may hold its output open
            await output
        except Exception:
            traceback.print_exc()
        finally:
            self.signal(signal.SIGKILL)
            self.end()

    def lay_out(self) -> None:
        """Files of the mounts, views of the volumes, arguments."""
        self.home.mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        for source, target in self.state.mount_files(self.definition):
            path = self.files / target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
        for mount in self.definition.volume_mounts:
            volume = self.state.volumes[mount.volume_id]
            folder = self.folder / "volumes" / mount.volume_id
            self.views[mount.volume_id] = View(volume, folder, mount.read_only, mount.sub_path)
        function = self.pool.function
        arguments = api_pb2.ContainerArguments(
            task_id=self.id,
            function_id=function.id,
            app_id=function.app.id,
            function_def=self.definition,
            serialized_params=function.parameters,
            environment_name="main",
            app_layout=self.state.layout(function.app, self.definition),
        )
        (self.folder / "arguments").write_bytes(arguments.SerializeToString())

    def specification(self) -> dict[str, Any]:
        """What `start_container.py` reads."""
        environment = {
            **{name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ},
            "PATH": os.environ.get("PATH", os.defpath),
            **self.state.environment,
            **self.state.image_environment(self.definition.image_id),
        }
        for secret in self.definition.secret_ids:
            environment |= self.state.secrets[secret].values
        home = self.visible_home()
        environment |= {
            "HOME": home,
            "PYTHONPATH": home,
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONUNBUFFERED": "1",
            "MODAL_SERVER_URL": self.state.url,
            "MODAL_TASK_ID": self.id,
            "MODAL_IMAGE_ID": self.definition.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOOPBACK",
            "MODAL_REGION": "loopback",
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(self.folder / "arguments"),
            "MODAL_OVERRIDE_HEADERS": f"x-loopback-task:{self.id}",
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_CONFIG_PATH": "/dev/null",
        }
        return {
            "server": os.getpid(),
            "argv": [self.state.python, "-m", "modal._container_entrypoint"],
            "environment": environment,
            "folder": str(self.folder),
            "mounts": self.mounts(),
            "memory": self.state.faults.memory(self.pool.function.name),
        }

    def visible_home(self) -> str:
        """`/root` where the container may have its own, else the folder's path on this machine."""
        needed = (self.state.python, os.path.realpath(self.state.python), str(self.folder))
        return str(self.home) if any(path.startswith("/root/") for path in needed) else "/root"

    def mounts(self) -> list[tuple[str, str, bool]]:
        """Source, target and whether it is read-only, of all that the container sees at paths of its own."""
        others = (path for path in self.files.iterdir() if path != self.home)
        found = [place for path in others for place in spread(path, f"/{path.name}")]
        if self.visible_home() == "/root":
            found.append((str(self.home), "/root", False))
        else:
            found += [(str(path), f"/root/{path.name}", False) for path in self.home.iterdir()]
        for mount in self.definition.volume_mounts:
            found.append((str(self.views[mount.volume_id].source), mount.mount_path, mount.read_only))
        return found

    async def read(self, stream: asyncio.StreamReader | None, descriptor: int) -> None:
        """Pass the output on in chunks, whole lines where they come within a moment."""
        assert stream is not None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        held = ""
        while True:
            try:
                chunk = await asyncio.wait_for(stream.read(65536), 0.2 if held else None)
            except TimeoutError:
                self.log(held, descriptor)
                held = ""
                continue
            text = held + decoder.decode(chunk, final=not chunk)
            lines, end, held = text.rpartition("\n")
            self.log(lines + end, descriptor)
            if not chunk:
                self.log(held, descriptor)
                return

    def log(self, text: str, descriptor: int) -> None:
        current = self.current
        self.state.logs.add(
            text,
            descriptor,
            app=self.pool.function.app.id,
            function=self.pool.function.id,
            task=self.id,
            call=current.call.id if current else "",
            input=current.id if current else "",
        )

    async def next_input(self) -> Input | None:
        """The next input, or None when the container is to end."""
        self.ready = self.ready or time.time()
        self.pool.failed_starts = 0
        idle = time.monotonic()
        while True:
            self.wake.clear()
            if self.draining or self.ended is not None or self.version != self.pool.function.version:
                self.draining = True
                return None
            if self.pool.queue:
                return self.give(self.pool.queue.popleft())
            window = self.pool.function.settings().scaledown_window or SCALEDOWN_WINDOW
            left = idle + window - time.monotonic()
            kept = len(self.pool.alive) <= self.pool.function.settings().min_containers
            if left <= 0 and not kept and not self.inputs:
                self.draining = True
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), left if left > 0 else 1)

    def give(self, entry: Input) -> Input:
        self.inputs[entry.id] = self.current = entry
        self.served.append(entry.id)
        entry.attempts.append({"container": self.id, "started": time.time(), "status": "running"})
        if self.definition.single_use_containers or self.definition.max_inputs == 1:
            self.draining = True
        later = asyncio.get_running_loop().call_later
        attempt = len(entry.attempts)
        if limit := self.definition.timeout_secs:
            later(limit, self.check_timeout, entry, attempt, limit)
        if fault := self.state.faults.take("preempt", self.pool.function.name):
            later(fault["after"], self.preempt, entry, attempt, fault["grace"])
        if fault := self.state.faults.take("crash", self.pool.function.name):
            later(fault["after"], self.crash, entry, attempt)
        return entry

    def busy_with(self, entry: Input, attempt: int) -> bool:
        return self.inputs.get(entry.id) is entry and len(entry.attempts) == attempt and self.ended is None

    def check_start(self, limit: int) -> None:
        if self.ready is None and self.ended is None:
            words = f"Container did not start within its startup timeout of {limit}s"
            self.start_failure = Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=words)
            self.signal(signal.SIGKILL)

    def check_timeout(self, entry: Input, attempt: int, limit: int) -> None:
        if self.busy_with(entry, attempt):
            words = f"Task's current input {entry.id} hit its timeout of {limit}s"
            self.stop(Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=words), grace=0)

    def preempt(self, entry: Input, attempt: int, grace: float) -> None:
        if self.busy_with(entry, attempt):
            self.stop(PREEMPTED, grace)

    def crash(self, entry: Input, attempt: int) -> None:
        if self.busy_with(entry, attempt):
            self.signal(signal.SIGKILL)

    def stop(self, result: Result, grace: float = GRACE) -> None:
        """End it: the interrupt, and the kill after the grace period (at once without one)."""
        self.ending, self.draining = result, True
        self.wake.set()
        if grace:
            self.signal(signal.SIGINT, group=False)
            asyncio.get_running_loop().call_later(grace, self.signal, signal.SIGKILL)
        else:
            self.signal(signal.SIGKILL)

    def signal(self, number: int, group: bool = True) -> None:
        if self.process is None or self.ended is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def processes(self) -> list[int]:
        """The container's process and its descendants (they share its session)."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(entry.name)) == self.process.pid:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
        return found

    def cancel(self, entry: Input, kill: bool) -> None:
        if kill:
            self.stop(CANCELLED, grace=0)
            return
        self.cancellations.append(entry.id)
        self.news.set()

    def put_output(self, item: api_pb2.FunctionPutOutputsItem) -> None:
        """The container says how an input ended; late words about an earlier attempt do not count."""
        entry = self.inputs.get(item.input_id)
        if entry is None or entry.retry_count != item.retry_count:
            return
        del self.inputs[item.input_id]
        entry.attempts[-1] |= {"ended": time.time(), "status": status_name(item.result)}
        if self.state.faults.take("lose_output", self.pool.function.name):
            entry.attempts[-1]["status"] = "LOST"
            self.pool.add(entry, first=True)
            return
        output = api_pb2.FunctionGetOutputsItem(
            result=item.result,
            data_format=item.data_format,
            task_id=self.id,
            input_started_at=item.input_started_at,
            output_created_at=item.output_created_at,
        )
        if item.result.status == Result.GENERIC_STATUS_SUCCESS:
            entry.call.finish(entry, output)
        elif item.result.status == Result.GENERIC_STATUS_TERMINATED:
            output.result.MergeFrom(CANCELLED)
            entry.call.finish(entry, output)
        else:
            self.pool.failed(entry, output)
        self.pool.schedule()

    def end(self) -> None:
        """The process is gone: its inputs go elsewhere, or fail."""
        self.ended = time.time()
        self.wake.set()
        code = self.process.returncode if self.process else None
        words = f"Runner failed with exit code: {code}"
        crashed = Result(status=Result.GENERIC_STATUS_FAILURE, exception=words)
        for entry in list(self.inputs.values()):
            del self.inputs[entry.id]
            result = CANCELLED if entry.cancelled else self.ending or crashed
            entry.attempts[-1] |= {"ended": time.time(), "status": status_name(result)}
            item = api_pb2.FunctionGetOutputsItem(result=result, task_id=self.id)
            if result.status == Result.GENERIC_STATUS_INTERNAL_FAILURE:
                self.pool.add(entry, first=True)
            elif result.status == Result.GENERIC_STATUS_TERMINATED:
                entry.call.finish(entry, item)
            else:
                self.pool.failed(entry, item)
        if self.ready is None and self.ending is None:
            self.failed_to_start(code)
        for view in self.views.values():
            view.discard()
        self.pool.schedule()

    def failed_to_start(self, code: int | None) -> None:
        self.pool.failed_starts += 1
        if self.pool.failed_starts >= FAILED_STARTS:
            words = f"Container exited with code {code} before it was ready"
            default = Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=words)
            self.pool.fail_all(self.start_failure or default)
            self.pool.failed_starts = 0

    def describe(self) -> dict[str, Any]:
        gpu = self.definition.resources.gpu_config
        return {
            "id": self.id,
            "function": self.pool.function.name,
            "pool": self.pool.function.id,
            "gpu": f"{gpu.gpu_type}:{gpu.count}" if gpu.count else "",
            "image": self.definition.image_id,
            "pid": self.process.pid if self.process else None,
            "inputs": self.served,
            "started": self.started,
            "ready": self.ready,
            "ended": self.ended,
            "code": self.process.returncode if self.process else None,
        }


def spread(source: Path, target: str) -> list[tuple[str, str, bool]]:
    """Bind points of a mounted tree: as deep as the machine has folders of its own at these paths."""
    if source.is_dir() and Path(target).is_dir():
        return [place for path in source.iterdir() for place in spread(path, f"{target}/{path.name}")]
    return [(str(source), target, False)]


def image_variables(commands: list[str]) -> dict[str, str]:
    """Variables that the ENV lines of a Dockerfile set."""
    found: dict[str, str] = {}
    for command in commands:
        word, _, rest = command.partition(" ")
        if word.upper() != "ENV":
            continue
        pairs = shlex.split(rest)
        if "=" in pairs[0]:
            found |= dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        else:
            found[pairs[0]] = rest.split(maxsplit=1)[1]
    return found

"""What the loopback service remembers: apps, functions, secrets, images, logs, faults to come."""

import asyncio
import fnmatch
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.containers import Call, Container, Input, Pool, image_variables
from tests.modal.volumes import Store, Volume

LONGEST_TIMEOUT = 86_400  # seconds, the service's limit for a function
WINDOW = range(2, 3601)  # seconds that an idle container may be kept
GPUS = {
    "T4",
    "L4",
    "A10",
    "A10G",
    "A100",
    "A100-40GB",
    "A100-80GB",
    "L40S",
    "H100",
    "H100!",
    "H200",
    "B200",
    "ANY",
}
BUILDER = "2025.06"
# The client passes the service's keys through and names none; these are a guess.
RATES = {"GPU_T4": "0.000164", "GPU_H100": "0.001097", "CPU": "0.0000131", "MEMORY": "0.00000222"}


def missing(words: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, words)


def invalid(words: str) -> GRPCError:
    return GRPCError(Status.INVALID_ARGUMENT, words)


@dataclass
class App:
    id: str
    name: str
    state: int
    created: float = field(default_factory=time.time)
    deployed: float = 0.0
    stopped: float = 0.0
    version: int = 0
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)

    def metadata(self) -> api_pb2.AppHandleMetadata:
        lifecycle = api_pb2.AppLifecycle(
            app_state=self.state,
            created_at=self.created,
            deployed_at=self.deployed,
            stopped_at=self.stopped,
            version=self.version,
        )
        return api_pb2.AppHandleMetadata(
            description=self.name,
            app_id=self.id,
            environment_name="main",
            lifecycle=lifecycle,
            functions=self.function_ids,
        )


@dataclass
class Secret:
    id: str
    name: str
    values: dict[str, str]
    created: float = field(default_factory=time.time)

    def metadata(self) -> api_pb2.SecretMetadata:
        created = api_pb2.CreationInfo(created_at=self.created)
        return api_pb2.SecretMetadata(name=self.name, creation_info=created, keys=sorted(self.values))


class Function:
    """A function, a class's service function, or a variant of one with bound parameters and options."""

    def __init__(self, state: "State", id: str, app: App, base: "Function | None" = None) -> None:
        self.id, self.app, self.base = id, app, base
        self.own = api_pb2.Function()
        self.data = api_pb2.FunctionData()
        self.options = api_pb2.FunctionOptions()
        self.parameters = b""
        self.override = api_pb2.AutoscalerSettings()
        self._version = 0
        self.pool = Pool(state, self)

    @property
    def name(self) -> str:
        return self.base.name if self.base else self.own.function_name

    @property
    def version(self) -> int:
        return self.base.version if self.base else self._version

    def define(self, definition: api_pb2.Function, data: api_pb2.FunctionData) -> None:
        if definition != self.own:
            self._version += 1
        self.own, self.data = definition, data
        self.override.Clear()

    def definition(self) -> api_pb2.Function:
        """The definition with the options of the variant applied."""
        if self.base is None:
            return self.own
        result, options = api_pb2.Function(), self.options
        result.CopyFrom(self.base.definition())
        for name in ("secret_ids", "volume_mounts"):  # given ones replace the decorator's
            if getattr(options, name):
                result.ClearField(name)
                getattr(result, name).extend(getattr(options, name))
        if options.HasField("resources"):
            result.resources.MergeFrom(options.resources)
        for name in ("retry_policy", "scheduler_placement"):
            if options.HasField(name):
                getattr(result, name).CopyFrom(getattr(options, name))
        for name in (
            "timeout_secs",
            "max_concurrent_inputs",
            "target_concurrent_inputs",
            "cloud_provider_str",
        ):
            if options.HasField(name):
                setattr(result, name, getattr(options, name))
        if options.HasField("concurrency_limit"):
            result.autoscaler_settings.max_containers = options.concurrency_limit
        if options.HasField("task_idle_timeout_secs"):
            result.autoscaler_settings.scaledown_window = options.task_idle_timeout_secs
        return result

    def settings(self) -> api_pb2.AutoscalerSettings:
        result = api_pb2.AutoscalerSettings()
        result.CopyFrom(self.definition().autoscaler_settings)
        result.MergeFrom(self.override)
        return result

    def function_data(self) -> api_pb2.FunctionData:
        result = api_pb2.FunctionData()
        result.CopyFrom(self.base.function_data() if self.base else self.data)
        if not result.ranked_functions:
            definition = self.definition()
            shared = {field.name for field in api_pb2.FunctionData.DESCRIPTOR.fields}
            for descriptor, value in definition.ListFields():
                if descriptor.name not in shared:
                    continue
                if descriptor.is_repeated or descriptor.message_type:
                    getattr(result, descriptor.name).MergeFrom(value)
                else:
                    setattr(result, descriptor.name, value)
            result.ranked_functions.add(rank=0, function=definition)
        return result

    def metadata(self) -> api_pb2.FunctionHandleMetadata:
        source = self.base.own if self.base else self.own
        result = api_pb2.FunctionHandleMetadata(
            function_name=source.function_name,
            function_type=source.function_type,
            is_method=source.is_method,
            definition_id=f"de-{self.id.removeprefix('fu-')}-{self.version}",
            class_parameter_info=source.class_parameter_info,
            function_schema=source.function_schema,
            supported_input_formats=source.supported_input_formats,
            supported_output_formats=source.supported_output_formats,
            app_id=self.app.id,
            base_function_id=self.base.id if self.base else "",
        )
        for name, method in source.method_definitions.items():
            result.method_handle_metadata[name].CopyFrom(
                api_pb2.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    use_method_name=name,
                    is_method=True,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                    app_id=self.app.id,
                )
            )
        return result


class Logs:
    """What containers printed, in order; readers wait for more."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.more = asyncio.Event()

    def add(self, text: str, descriptor: int, **origin: str) -> None:
        if text:
            self.entries.append({"data": text, "descriptor": descriptor, "time": time.time(), **origin})
            self.wake()

    def wake(self) -> None:
        self.more.set()
        self.more = asyncio.Event()

    def matching(self, request: Any, start: int, source: int) -> list[tuple[int, dict[str, Any]]]:
        def wanted(entry: dict[str, Any]) -> bool:
            asked = {
                "app": request.app_id,
                "function": request.parametrized_function_id,
                "task": request.task_id,
                "call": request.function_call_id,
            }
            same = all(entry[name] == value for name, value in asked.items() if value)
            return same and (not source or entry["descriptor"] == source)

        return [(start + n, entry) for n, entry in enumerate(self.entries[start:], 1) if wanted(entry)]


def log_batch(number: int, entry: dict[str, Any]) -> api_pb2.TaskLogsBatch:
    item = api_pb2.TaskLogs(
        data=entry["data"],
        file_descriptor=entry["descriptor"],
        timestamp=entry["time"],
        timestamp_ns=int(entry["time"] * 1e9),
        function_call_id=entry["call"],
        input_id=entry["input"],
    )
    return api_pb2.TaskLogsBatch(
        task_id=entry["task"],
        function_id=entry["function"],
        input_id=entry["input"],
        entry_id=f"{number}-0",
        items=[item],
    )


class Faults:
    """Faults on demand, each for a number of times."""

    def __init__(self) -> None:
        self.active: list[dict[str, Any]] = []

    def set(self, kind: str, **details: Any) -> None:
        self.active.append({"kind": kind, "times": 1, "match": "*", **details})

    def take(self, kind: str, name: str) -> dict[str, Any] | None:
        """The first fault of a kind that fits a name, counted as used."""
        for fault in self.active:
            if fault["kind"] == kind and fault["times"] and fnmatch.fnmatch(name, fault["match"]):
                if fault.get("skip"):
                    fault["skip"] -= 1
                    continue
                fault["times"] -= 1
                return fault
        return None

    def memory(self, name: str) -> int:
        fault = self.take("memory", name)
        return fault["bytes"] if fault else 0


class State:
    """All that the service remembers."""

    def __init__(self, folder: Path, python: str, environment: dict[str, str]) -> None:
        self.folder, self.python, self.environment = folder, python, environment
        (folder / "blobs").mkdir(parents=True)
        self.store = Store(folder / "contents")
        self.token = ("ak-loopback", "as-loopback")
        self.url = self.http = ""
        self.numbers = count(1)
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, tuple[str, App, str]] = {}
        self.secrets: dict[str, Secret] = {}
        self.volumes: dict[str, Volume] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, Input] = {}
        self.containers: dict[str, Container] = {}
        self.logs, self.faults = Logs(), Faults()
        self.uploaded: dict[str, int] = defaultdict(int)
        self.rates = dict(RATES)
        self.closing = False
        self.requests: list[tuple[str, float, str, Message]] = []

    def new(self, prefix: str) -> str:
        return f"{prefix}-{next(self.numbers):08d}"

    def find(self, table: dict[str, Any], id: str) -> Any:
        if id not in table:
            raise missing(f"Object {id!r} was not found")
        return table[id]

    def running(self, app: App | None) -> list[Container]:
        functions = (function for function in self.functions.values() if app in (None, function.app))
        return [container for function in functions for container in function.pool.alive]

    def named(self, table: dict[str, Any], name: str) -> Any:
        return next((entry for entry in table.values() if entry.name == name), None)

    def deployed(self, name: str, but: App | None = None) -> App | None:
        live = (app for app in self.apps.values() if app.state == api_pb2.APP_STATE_DEPLOYED)
        return next((app for app in live if app.name == name and app is not but), None)

    def layout(self, app: App, definition: api_pb2.Function | None = None) -> api_pb2.AppLayout:
        """The app's functions and classes, and what a function depends on, with their metadata."""
        result = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        for id in app.function_ids.values():
            result.objects.add(object_id=id, function_handle_metadata=self.functions[id].metadata())
        for name, id in app.class_ids.items():
            function = self.functions.get(app.function_ids.get(f"{name}.*", ""))
            metadata = api_pb2.ClassHandleMetadata()
            if function:
                metadata.class_function_id = function.id
                metadata.class_function_metadata.CopyFrom(function.metadata())
            result.objects.add(object_id=id, class_handle_metadata=metadata)
        for dependency in definition.object_dependencies if definition else ():
            entry = result.objects.add(object_id=dependency.object_id)
            if dependency.object_id in self.volumes:
                entry.volume_metadata.CopyFrom(volume_metadata(self.volumes[dependency.object_id]))
        return result

    def mount_files(self, definition: api_pb2.Function) -> list[tuple[Path, str]]:
        """(content, path in the container) of all mounts, those copied into the image first."""
        found: list[tuple[Path, str]] = []
        for image in self.image_chain(definition.image_id):
            for command in image.dockerfile_commands if image.context_mount_id else ():
                if command.startswith("COPY . "):
                    folder = command.removeprefix("COPY . ").rstrip("/")
                    files = self.mounts[image.context_mount_id]
                    found += [
                        (self.store.path(file.sha256_hex), f"{folder}/{file.filename.lstrip('/')}")
                        for file in files
                    ]
        for id in definition.mount_ids:
            found += [(self.store.path(file.sha256_hex), file.filename) for file in self.mounts[id]]
        return found

    def image_chain(self, id: str) -> list[api_pb2.Image]:
        """An image's layers, the base first."""
        image = self.images.get(id)
        if image is None:
            return []
        base = [layer for entry in image.base_images for layer in self.image_chain(entry.image_id)]
        return [*base, image]

    def image_environment(self, id: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for image in self.image_chain(id):
            found |= image_variables(list(image.dockerfile_commands))
        return found


def volume_metadata(volume: Volume) -> api_pb2.VolumeMetadata:
    created = api_pb2.CreationInfo(created_at=volume.created)
    return api_pb2.VolumeMetadata(version=volume.version, name=volume.name, creation_info=created)


def image_metadata() -> api_pb2.ImageMetadata:
    version = ".".join(map(str, sys.version_info[:3]))
    return api_pb2.ImageMetadata(python_version_info=f"Python {version}", image_builder_version=BUILDER)


def check_definition(definition: api_pb2.Function) -> None:
    """Refuse what the service refuses."""
    if definition.timeout_secs > LONGEST_TIMEOUT:
        raise invalid(f"Function timeout must be between 1 and {LONGEST_TIMEOUT} seconds")
    window = definition.autoscaler_settings.scaledown_window
    if window and window not in WINDOW:
        raise invalid(f"scaledown_window must be between {WINDOW[0]} and {WINDOW[-1]} seconds")
    gpu = definition.resources.gpu_config
    if gpu.count and gpu.gpu_type.upper() not in GPUS:
        raise invalid(f"Unknown GPU type {gpu.gpu_type!r}")
    if gpu.count > 8:
        raise invalid(f"At most 8 GPUs to a container, not {gpu.count}")

"""A loopback control plane for the real Modal client: gRPC and HTTP on 127.0.0.1, real containers.

Run as `python -m tests.modal.server`: it prints one JSON line with its addresses and lives until its
standard input closes. It knows nothing of the product. Faults and questions come over HTTP under
`/control/`; `tests.modal.loopback.Server` is the client for that.
"""

import argparse
import asyncio
import base64
import contextlib
import fnmatch
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Server as GrpcServer
from grpclib.server import Stream
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

from tests.modal.containers import Call, Container, Input, Pool, image_variables
from tests.modal.volumes import BLOCK, File, Store, Volume, clean

Result = api_pb2.GenericResult

LONGEST_TIMEOUT = 86_400  # seconds, the service's limit for a function
LONGEST_WINDOW = 3600
GPUS = set(
    [
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
        "H200!",
        "B200",
        "B200+",
        "ANY",
        "RTX-PRO-6000",
    ]
)
BUILDER = "2025.06"
HEARTBEAT = 14.5  # seconds a heartbeat is held while there is nothing to tell; the client gives up at 15.1
RATES = {  # dollars, as `Workspace.billing.rates()` returns them
    "GPU_T4": "0.000164",
    "GPU_H100": "0.001097",
    "CPU": "0.0000131",
    "MEMORY": "0.00000222",
}


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
        for name in ("secret_ids", "volume_mounts", "mount_ids"):
            if name == "mount_ids" or not getattr(options, name):
                continue
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
        self.requests: list[tuple[str, float, str, Message]] = []

    def new(self, prefix: str) -> str:
        return f"{prefix}-{next(self.numbers):08d}"

    def find(self, table: dict[str, Any], id: str) -> Any:
        if id not in table:
            raise missing(f"Object {id!r} was not found")
        return table[id]

    def named(self, table: dict[str, Any], name: str) -> Any:
        return next((entry for entry in table.values() if entry.name == name), None)

    def deployed(self, name: str) -> App | None:
        live = (api_pb2.APP_STATE_DEPLOYED,)
        return next((app for app in self.apps.values() if app.name == name and app.state in live), None)

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


class Service:
    """The remote procedures, each named as in the protocol but in snake case."""

    def __init__(self, state: State) -> None:
        self.state = state

    # The client and its workspace

    async def client_hello(self, request: Any) -> Message:
        return api_pb2.ClientHelloResponse(image_builder_version=BUILDER)

    async def auth_token_get(self, request: Any) -> Message:
        def part(values: dict[str, Any]) -> str:
            return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")

        return api_pb2.AuthTokenGetResponse(token=f"{part({})}.{part({'exp': int(time.time()) + 3600})}.x")

    async def token_info_get(self, request: Any) -> Message:
        return api_pb2.TokenInfoGetResponse(token_id=self.state.token[0], workspace_name="loopback")

    async def workspace_name_lookup(self, request: Any) -> Message:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="loopback", username="loopback")

    async def workspace_billing_rates(self, request: Any) -> Message:
        return api_pb2.WorkspaceBillingRatesResponse(rates=RATES)

    async def environment_get_or_create(self, request: Any) -> Message:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER)
        metadata = api_pb2.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-00000001", metadata=metadata)

    async def environment_list(self, request: Any) -> Message:
        item = api_pb2.EnvironmentListItem(name="main", default=True, environment_id="en-00000001")
        return api_pb2.EnvironmentListResponse(items=[item])

    # Apps

    async def app_create(self, request: Any) -> Message:
        app = App(self.state.new("ap"), request.description, request.app_state)
        self.state.apps[app.id] = app
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=f"{self.state.http}/apps/{app.id}")

    async def app_get_by_deployment_name(self, request: Any) -> Message:
        app = self.state.deployed(request.name)
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app.id if app else "", environment_name="main")

    async def app_get_or_create(self, request: Any) -> Message:
        app = self.state.deployed(request.app_name)
        if app is None:
            if request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise missing(f"App '{request.app_name}' not found in environment 'main'")
            app = App(self.state.new("ap"), request.app_name, api_pb2.APP_STATE_DEPLOYED)
            self.state.apps[app.id] = app
        return api_pb2.AppGetOrCreateResponse(app_id=app.id)

    async def app_get_layout(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        return api_pb2.AppGetLayoutResponse(app_layout=self.state.layout(app))

    async def app_heartbeat(self, request: Any) -> Message:
        return Empty()

    async def app_publish(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        app.name, app.state = request.name or app.name, request.app_state
        app.deployed, app.version = time.time(), app.version + 1
        for function in self.state.functions.values():
            function.pool.schedule()
        url = f"{self.state.http}/apps/{app.id}"
        return api_pb2.AppPublishResponse(url=url, deployed_at=app.deployed)

    async def app_client_disconnect(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        if app.state != api_pb2.APP_STATE_DEPLOYED:
            self.stop(app)
        return Empty()

    async def app_stop(self, request: Any) -> Message:
        self.stop(self.state.find(self.state.apps, request.app_id))
        return Empty()

    def stop(self, app: App) -> None:
        app.state, app.stopped = api_pb2.APP_STATE_STOPPED, time.time()
        for function in self.state.functions.values():
            if function.app is app:
                function.pool.stop()
        self.state.logs.wake()

    async def app_list(self, request: Any) -> Message:
        items = [
            api_pb2.AppListItem(
                app_id=app.id,
                name=app.name,
                description=app.name,
                state=app.state,
                created_at=app.created,
                stopped_at=app.stopped,
                n_running_tasks=len(self.running(app)),
            )
            for app in self.state.apps.values()
        ]
        return api_pb2.AppListResponse(apps=items)

    def running(self, app: App | None) -> list[Container]:
        functions = (f for f in self.state.functions.values() if app is None or f.app is app)
        return [container for function in functions for container in function.pool.alive]

    async def task_list(self, request: Any) -> Message:
        app = self.state.apps.get(request.app_id)
        tasks = [
            api_pb2.TaskStats(
                task_id=container.id,
                app_id=container.pool.function.app.id,
                app_description=container.pool.function.app.name,
                started_at=container.started,
                enqueued_at=container.started,
            )
            for container in self.running(app)
        ]
        return api_pb2.TaskListResponse(tasks=tasks)

    async def app_get_logs(self, request: Any) -> AsyncIterator[Message]:
        state = self.state
        position = int(request.last_entry_id.partition("-")[0] or 0)
        deadline = time.monotonic() + (request.timeout or 0)
        while True:
            more = state.logs.more
            for number, entry in state.logs.matching(request, position, request.file_descriptor):
                yield log_batch(number, entry)
            position = len(state.logs.entries)
            app = state.apps.get(request.app_id)
            if app and app.state == api_pb2.APP_STATE_STOPPED and not self.running(app):
                yield api_pb2.TaskLogsBatch(app_done=True)
                return
            left = deadline - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(more.wait(), left)

    async def app_fetch_logs(self, request: Any) -> Message:
        since, until = (stamp.ToNanoseconds() / 1e9 for stamp in (request.since, request.until))
        found = [
            (number, entry)
            for number, entry in self.state.logs.matching(request, 0, request.source)
            if since <= entry["time"] <= until and request.search_text in entry["data"]
        ]
        limit = request.limit or len(found)
        return api_pb2.AppFetchLogsResponse(batches=[log_batch(*item) for item in found[-limit:]])

    # Functions and classes

    async def function_precreate(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        id = request.existing_function_id or self.state.new("fu")
        function = self.state.functions.get(id)
        if function is None:
            function = self.state.functions[id] = Function(self.state, id, app)
            function.own.function_name = request.function_name
            function.own.function_type = request.function_type
            for name, method in request.method_definitions.items():
                function.own.method_definitions[name].CopyFrom(method)
        return api_pb2.FunctionPrecreateResponse(function_id=id, handle_metadata=function.metadata())

    async def function_create(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        ranked = request.function_data.ranked_functions
        definition = ranked[0].function if ranked else request.function
        check_definition(definition)
        for id in definition.secret_ids:
            self.state.find(self.state.secrets, id)
        id = request.existing_function_id or self.state.new("fu")
        function = self.state.functions.setdefault(id, Function(self.state, id, app))
        function.define(definition, request.function_data)
        return api_pb2.FunctionCreateResponse(
            function_id=id,
            function=definition,
            handle_metadata=function.metadata(),
            function_data=function.function_data(),
        )

    async def class_create(self, request: Any) -> Message:
        id = request.existing_class_id or self.state.new("cs")
        return api_pb2.ClassCreateResponse(class_id=id, handle_metadata=api_pb2.ClassHandleMetadata())

    def published(self, app_name: str, tag: str, classes: bool) -> tuple[App, str]:
        app = self.state.deployed(app_name)
        if app is None:
            raise missing(f"App '{app_name}' not found in environment 'main'")
        table = app.class_ids if classes else app.function_ids
        if tag not in table:
            raise missing(f"App has no {'class' if classes else 'function'} named '{tag}'")
        return app, table[tag]

    async def class_get(self, request: Any) -> Message:
        _, id = self.published(request.app_name, request.object_tag, classes=True)
        return api_pb2.ClassGetResponse(class_id=id, handle_metadata=api_pb2.ClassHandleMetadata())

    async def function_get(self, request: Any) -> Message:
        _, id = self.published(request.app_name, request.object_tag, classes=False)
        function = self.state.functions[id]
        return api_pb2.FunctionGetResponse(
            function_id=id, handle_metadata=function.metadata(), function=function.function_data()
        )

    async def function_get_by_id(self, request: Any) -> Message:
        function = self.state.find(self.state.functions, request.function_id)
        return api_pb2.FunctionGetByIdResponse(
            handle_metadata=function.metadata(), function=function.function_data()
        )

    async def function_bind_params(self, request: Any) -> Message:
        base = self.state.find(self.state.functions, request.function_id)
        key = request.SerializeToString(deterministic=True)
        id = f"fu-{hashlib.sha256(key).hexdigest()[:22]}"
        if id not in self.state.functions:
            function = Function(self.state, id, base.app, base)
            function.parameters = request.serialized_params
            function.options.CopyFrom(request.function_options)
            for secret in function.options.secret_ids:
                self.state.find(self.state.secrets, secret)
            check_definition(function.definition())
            self.state.functions[id] = function
        metadata = self.state.functions[id].metadata()
        return api_pb2.FunctionBindParamsResponse(bound_function_id=id, handle_metadata=metadata)

    async def function_get_current_stats(self, request: Any) -> Message:
        pool = self.state.find(self.state.functions, request.function_id).pool
        running = sum(len(container.inputs) for container in pool.alive)
        return api_pb2.FunctionStats(
            backlog=len(pool.queue), num_total_tasks=len(pool.alive), num_running_inputs=running
        )

    async def function_get_scheduling_params(self, request: Any) -> Message:
        function = self.state.find(self.state.functions, request.function_id)
        return api_pb2.FunctionGetSchedulingParamsResponse(
            autoscaler_configuration=api_pb2.AutoscalerConfiguration(settings=function.settings())
        )

    async def function_update_scheduling_params(self, request: Any) -> Message:
        function = self.state.find(self.state.functions, request.function_id)
        function.override.MergeFrom(request.settings)
        function.pool.schedule()
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=function.settings())

    # Calls

    def queue(self, call: Call, item: api_pb2.FunctionPutInputsItem) -> api_pb2.FunctionPutInputsResponseItem:
        entry = Input(self.state.new("in"), call, item.idx, item.input)
        call.inputs.append(entry)
        self.state.inputs[entry.id] = entry
        call.function.pool.add(entry)
        return api_pb2.FunctionPutInputsResponseItem(idx=item.idx, input_id=entry.id, input_jwt=entry.jwt)

    async def function_map(self, request: Any) -> Message:
        function = self.state.find(self.state.functions, request.function_id)
        if function.app.state == api_pb2.APP_STATE_STOPPED:
            raise GRPCError(Status.FAILED_PRECONDITION, f"App {function.app.id} is stopped")
        call = Call(self.state.new("fc"), function, request.function_call_invocation_type)
        self.state.calls[call.id] = call
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            function_call_jwt=call.id,
            pipelined_inputs=[self.queue(call, item) for item in request.pipelined_inputs],
            retry_policy=function.definition().retry_policy,
            sync_client_retries_enabled=True,
            max_inputs_outstanding=1000,
        )

    async def function_put_inputs(self, request: Any) -> Message:
        call = self.state.find(self.state.calls, request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=[self.queue(call, item) for item in request.inputs])

    async def function_retry_inputs(self, request: Any) -> Message:
        jwts = []
        for item in request.inputs:
            entry = self.state.find(self.state.inputs, item.input_jwt.partition(":")[0])
            entry.retry_count += 1
            entry.output = None
            entry.call.function.pool.add(entry)
            jwts.append(entry.jwt)
        return api_pb2.FunctionRetryInputsResponse(input_jwts=jwts)

    async def function_get_outputs(self, request: Any) -> Message:
        call = self.state.find(self.state.calls, request.function_call_id)
        deadline = time.monotonic() + request.timeout
        seen = int(request.last_entry_id.partition("-")[0] or 0)
        while True:
            done = [entry.output for entry in call.inputs if entry.output is not None]
            if request.HasField("start_idx"):
                last = request.end_idx if request.HasField("end_idx") else request.start_idx
                fresh = [item for item in done if request.start_idx <= item.idx <= last]
            else:
                fresh = sorted(done, key=lambda item: item.output_created_at)[seen:]
            left = deadline - time.monotonic()
            if fresh or left <= 0:
                return api_pb2.FunctionGetOutputsResponse(
                    outputs=fresh,
                    idxs=[item.idx for item in fresh],
                    last_entry_id=f"{seen + len(fresh)}-0",
                    num_unfinished_inputs=len(call.inputs) - len(done),
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call.changed.wait(), left)

    async def function_call_cancel(self, request: Any) -> Message:
        call = self.state.find(self.state.calls, request.function_call_id)
        for entry in call.inputs:
            if entry.output is not None:
                continue
            entry.cancelled = True
            holder = next((c for c in call.function.pool.alive if entry.id in c.inputs), None)
            if holder is not None:
                holder.cancel(entry, request.terminate_containers)
                continue
            with contextlib.suppress(ValueError):
                call.function.pool.queue.remove(entry)
            words = "Input was cancelled by user"
            result = Result(status=Result.GENERIC_STATUS_TERMINATED, exception=words)
            call.finish(entry, api_pb2.FunctionGetOutputsItem(result=result))
        return Empty()

    async def function_call_from_id(self, request: Any) -> Message:
        call = self.state.find(self.state.calls, request.function_call_id)
        metadata = api_pb2.FunctionCallHandleMetadata(
            app_id=call.function.app.id, function_id=call.function.id
        )
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=len(call.inputs), metadata=metadata
        )

    async def function_call_get_info(self, request: Any) -> Message:
        call = self.state.find(self.state.calls, request.function_call_id)
        totals: dict[str, int] = defaultdict(int)
        names = {
            None: "pending_inputs",
            Result.GENERIC_STATUS_SUCCESS: "succeeded_inputs",
            Result.GENERIC_STATUS_TIMEOUT: "timeout_inputs",
            Result.GENERIC_STATUS_TERMINATED: "cancelled_inputs",
        }
        for entry in call.inputs:
            status = entry.output.result.status if entry.output else None
            totals[names.get(status, "failed_inputs")] += 1
        info = api_pb2.FunctionCallInfo(
            function_call_id=call.id, created_at=call.created, total_inputs=len(call.inputs)
        )
        for name, total in totals.items():
            getattr(info, name).total = total
        return api_pb2.FunctionCallGetInfoResponse(info=info)

    # What containers ask

    async def container_hello(self, request: Any, container: Container) -> Message:
        return Empty()

    async def container_heartbeat(self, request: Any, container: Container) -> Message:
        if not container.cancellations:
            container.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(container.news.wait(), HEARTBEAT)
        response = api_pb2.ContainerHeartbeatResponse()
        if container.cancellations:
            response.cancel_input_event.input_ids.extend(container.cancellations)
            container.cancellations.clear()
        return response

    async def function_get_inputs(self, request: Any, container: Container) -> Message:
        entry = await container.next_input()
        if entry is None:
            stop = api_pb2.FunctionGetInputsItem(kill_switch=True)
            return api_pb2.FunctionGetInputsResponse(inputs=[stop])
        item = api_pb2.FunctionGetInputsItem(
            input_id=entry.id,
            input=entry.content,
            function_call_id=entry.call.id,
            function_call_invocation_type=entry.call.invocation,
            retry_count=entry.retry_count,
            function_map_idx=entry.index,
        )
        return api_pb2.FunctionGetInputsResponse(inputs=[item])

    async def function_put_outputs(self, request: Any, container: Container) -> Message:
        for item in request.outputs:
            container.put_output(item)
        return Empty()

    async def task_result(self, request: Any, container: Container) -> Message:
        if request.result.status != Result.GENERIC_STATUS_SUCCESS:
            container.start_failure = request.result
        return Empty()

    async def container_stop(self, request: Any, container: Container | None = None) -> Message:
        target = self.state.find(self.state.containers, request.task_id)
        if request.graceful:
            target.draining = True
            target.wake.set()
        elif target.ended is None:
            target.stop(Result.GENERIC_STATUS_INTERNAL_FAILURE, "Container was stopped")
        return api_pb2.ContainerStopResponse()

    async def volume_commit(self, request: Any, container: Container) -> Message:
        view = self.state.find(container.views, request.volume_id)
        await asyncio.to_thread(view.commit)
        return api_pb2.VolumeCommitResponse(skip_reload=False)

    async def volume_reload(self, request: Any, container: Container) -> Message:
        view = self.state.find(container.views, request.volume_id)
        if open_files := view.open_files(container.processes()):
            words = f"there are open files preventing the operation: {', '.join(open_files)}"
            raise GRPCError(Status.FAILED_PRECONDITION, words)
        await asyncio.to_thread(view.reload)
        return Empty()

    # Secrets, images, mounts, blobs

    async def secret_get_or_create(self, request: Any) -> Message:
        kinds = api_pb2
        secret = (
            self.state.named(self.state.secrets, request.deployment_name) if request.deployment_name else None
        )
        creates = request.object_creation_type != kinds.OBJECT_CREATION_TYPE_UNSPECIFIED
        if (
            secret is not None
            and request.object_creation_type == kinds.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
        ):
            raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{request.deployment_name}' already exists")
        if secret is None and not creates:
            raise missing(f"Secret '{request.deployment_name}' not found in environment 'main'")
        if secret is None:
            secret = Secret(self.state.new("st"), request.deployment_name, dict(request.env_dict))
            self.state.secrets[secret.id] = secret
        elif request.object_creation_type == kinds.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            secret.values = dict(request.env_dict)
        if lacking := sorted(set(request.required_keys) - secret.values.keys()):
            raise GRPCError(Status.FAILED_PRECONDITION, f"Secret is missing key(s): {', '.join(lacking)}")
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.id, metadata=secret.metadata())

    async def secret_list(self, request: Any) -> Message:
        items = [
            api_pb2.SecretListItem(
                label=secret.name,
                created_at=secret.created,
                environment_name="main",
                secret_id=secret.id,
                metadata=secret.metadata(),
            )
            for secret in self.state.secrets.values()
            if secret.name
        ]
        return api_pb2.SecretListResponse(items=items, environment_name="main")

    async def image_get_or_create(self, request: Any) -> Message:
        """Nothing is built: the definition is kept, and the image is there at once."""
        key = request.image.SerializeToString(deterministic=True)
        id = f"im-{hashlib.sha256(key).hexdigest()[:22]}"
        self.state.images[id] = request.image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=id, result=Result(status=Result.GENERIC_STATUS_SUCCESS), metadata=image_metadata()
        )

    async def image_join_streaming(self, request: Any) -> AsyncIterator[Message]:
        yield api_pb2.ImageJoinStreamingResponse(
            result=Result(status=Result.GENERIC_STATUS_SUCCESS), eof=True, metadata=image_metadata()
        )

    async def mount_get_or_create(self, request: Any) -> Message:
        files = list(request.files)
        key = json.dumps([request.deployment_name, *((file.filename, file.sha256_hex) for file in files)])
        checksum = hashlib.sha256(key.encode()).hexdigest()
        id = f"mo-{checksum[:22]}"
        for file in files:
            if file.sha256_hex not in self.state.store:
                raise GRPCError(Status.FAILED_PRECONDITION, f"{file.filename} was not uploaded")
        self.state.mounts[id] = files
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return api_pb2.MountGetOrCreateResponse(mount_id=id, handle_metadata=metadata)

    async def mount_batched_check_existence(self, request: Any) -> Message:
        lacking = [sha256 for sha256 in request.sha256_hex_hashes if sha256 not in self.state.store]
        now = Timestamp()
        now.GetCurrentTime()
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=lacking, checked_at=now)

    async def mount_put_file(self, request: Any) -> Message:
        data = request.data
        if request.WhichOneof("data_oneof") == "data_blob_id":
            data = (self.state.folder / "blobs" / request.data_blob_id).read_bytes()
        elif data:
            self.state.uploaded["mount"] += len(data)
        if data or request.WhichOneof("data_oneof"):
            self.state.store.put(data)
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self.state.store)

    async def blob_create(self, request: Any) -> Message:
        id = self.state.new("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self.state.http}/blobs/{id}"])
        return api_pb2.BlobCreateResponse(blob_id=id, blob_ids=[id], upload_urls=urls)

    async def blob_get(self, request: Any) -> Message:
        return api_pb2.BlobGetResponse(download_url=f"{self.state.http}/blobs/{request.blob_id}")

    # Volumes, from outside

    async def volume_get_or_create(self, request: Any) -> Message:
        volume = (
            self.state.named(self.state.volumes, request.deployment_name) if request.deployment_name else None
        )
        kind = request.object_creation_type
        if volume is not None and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Volume '{request.deployment_name}' already exists")
        if volume is None:
            if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise missing(f"Volume '{request.deployment_name}' not found in environment 'main'")
            version = request.version or api_pb2.VOLUME_FS_VERSION_V1
            volume = Volume(self.state.new("vo"), request.deployment_name, version, self.state.store)
            self.state.volumes[volume.id] = volume
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.id, version=volume.version, metadata=volume_metadata(volume)
        )

    async def volume_get_by_id(self, request: Any) -> Message:
        volume = self.state.find(self.state.volumes, request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.id, metadata=volume_metadata(volume))

    async def volume_heartbeat(self, request: Any) -> Message:
        return Empty()

    async def volume_delete(self, request: Any) -> Message:
        self.state.find(self.state.volumes, request.volume_id)
        del self.state.volumes[request.volume_id]
        return Empty()

    async def volume_list(self, request: Any) -> Message:
        items = [
            api_pb2.VolumeListItem(
                label=volume.name,
                volume_id=volume.id,
                created_at=volume.created,
                metadata=volume_metadata(volume),
            )
            for volume in self.state.volumes.values()
            if volume.name
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name="main")

    async def volume_list_files2(self, request: Any) -> AsyncIterator[Message]:
        volume = self.state.find(self.state.volumes, request.volume_id)
        entries = [
            api_pb2.FileEntry(
                path=path,
                type=api_pb2.FileEntry.FILE if file else api_pb2.FileEntry.DIRECTORY,
                mtime=file.mtime if file else int(volume.created),
                size=file.size if file else 0,
            )
            for path, file in volume.entries(request.path, request.recursive)
        ]
        for start in range(0, len(entries), 100):
            yield api_pb2.VolumeListFiles2Response(entries=entries[start : start + 100])

    async def volume_put_files2(self, request: Any) -> Message:
        volume = self.state.find(self.state.volumes, request.volume_id)
        response = api_pb2.VolumePutFiles2Response()
        for number, file in enumerate(request.files):
            if request.disallow_overwrite_existing_files and clean(file.path) in volume.files:
                raise GRPCError(Status.ALREADY_EXISTS, f"{file.path}: already exists")
            if len(file.blocks) != -(-file.size // BLOCK):
                raise invalid(f"{file.path}: {len(file.blocks)} blocks for {file.size} bytes")
            for position, block in enumerate(file.blocks):
                sha256 = block.contents_sha256.hex()
                if sha256 not in self.state.store:
                    url = f"{self.state.http}/blocks/{sha256}"
                    response.missing_blocks.add(file_index=number, block_index=position, put_url=url)
        if not response.missing_blocks:
            for file in request.files:
                blocks = tuple(block.contents_sha256.hex() for block in file.blocks)
                volume.add(clean(file.path), File(file.size, blocks, file.mode or 0o644, int(time.time())))
        return response

    async def volume_get_file2(self, request: Any) -> Message:
        volume = self.state.find(self.state.volumes, request.volume_id)
        file = volume.files.get(clean(request.path))
        if file is None:
            raise missing(f"No such file or directory: {request.path!r}")
        urls = [f"{self.state.http}/blocks/{sha256}" for sha256 in file.blocks]
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=file.size, start=0, len=file.size)

    async def volume_remove_file2(self, request: Any) -> Message:
        self.state.find(self.state.volumes, request.volume_id).remove(request.path, request.recursive)
        return Empty()


def image_metadata() -> api_pb2.ImageMetadata:
    version = ".".join(map(str, sys.version_info[:3]))
    return api_pb2.ImageMetadata(python_version_info=f"Python {version}", image_builder_version=BUILDER)


def check_definition(definition: api_pb2.Function) -> None:
    """Refuse what the service refuses."""
    if definition.timeout_secs > LONGEST_TIMEOUT:
        raise invalid(f"Function timeout must be between 1 and {LONGEST_TIMEOUT} seconds")
    if definition.autoscaler_settings.scaledown_window > LONGEST_WINDOW:
        raise invalid(f"scaledown_window must be between 2 and {LONGEST_WINDOW} seconds")
    gpu = definition.resources.gpu_config
    if gpu.count and gpu.gpu_type.upper() not in GPUS:
        raise invalid(f"Unknown GPU type {gpu.gpu_type!r}")
    if gpu.count > 8:
        raise invalid(f"At most 8 GPUs to a container, not {gpu.count}")


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
                "status": Result.GenericStatus.Name(entry.output.result.status).removeprefix(
                    "GENERIC_STATUS_"
                )
                if entry.output
                else "",
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

    def control_uploaded(self) -> dict[str, int]:
        return dict(self.state.uploaded)

    def control_fault(self, kind: str, **details: Any) -> None:
        self.state.faults.set(kind, **details)

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
    print(json.dumps({"url": state.url, "http": state.http, **token}), flush=True)

    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    for container in state.containers.values():
        container.signal(signal.SIGKILL)
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
        os._exit(0)


if __name__ == "__main__":
    main()

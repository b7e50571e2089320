"""The remote procedures of the loopback service, as far as clients and containers here call them."""

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.containers import CANCELLED, PREEMPTED, Call, Container, Input, Result
from tests.modal.state import (
    BUILDER,
    App,
    Function,
    Secret,
    State,
    check_definition,
    image_metadata,
    invalid,
    log_batch,
    missing,
    volume_metadata,
)
from tests.modal.volumes import BLOCK, File, Volume, clean

HEARTBEAT = 14.5  # seconds a heartbeat is held while there is nothing to tell; the client gives up at 15.1


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
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.state.rates)

    async def environment_get_or_create(self, request: Any) -> Message:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER)
        metadata = api_pb2.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-00000001", metadata=metadata)

    async def environment_list(self, request: Any) -> Message:
        item = api_pb2.EnvironmentListItem(name="main", default=True, image_builder_version=BUILDER)
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
        return api_pb2.AppGetOrCreateResponse(app_id=app.id, handle_metadata=app.metadata())

    async def app_get_info(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        return api_pb2.AppGetInfoResponse(info=app.metadata())

    async def app_get_layout(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        return api_pb2.AppGetLayoutResponse(app_layout=self.state.layout(app))

    async def app_heartbeat(self, request: Any) -> Message:
        return Empty()

    async def app_publish(self, request: Any) -> Message:
        app = self.state.find(self.state.apps, request.app_id)
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        app.name, app.state = request.name or app.name, request.app_state
        former = self.state.deployed(app.name, but=app)
        if former is not None and app.state == api_pb2.APP_STATE_DEPLOYED:
            self.stop(former)
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
            api_pb2.AppListResponse.AppListItem(
                app_id=app.id,
                name=app.name,
                description=app.name,
                state=app.state,
                created_at=app.created,
                stopped_at=app.stopped,
                n_running_tasks=len(self.state.running(app)),
            )
            for app in self.state.apps.values()
        ]
        return api_pb2.AppListResponse(apps=items)

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
            for container in self.state.running(app)
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
            if app and app.state == api_pb2.APP_STATE_STOPPED and not self.state.running(app):
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

    async def app_count_logs(self, request: Any) -> Message:
        since, until, width = request.since.seconds, request.until.seconds + 1, request.bucket_secs or 1
        response = api_pb2.AppCountLogsResponse(app_id=request.app_id)
        starts = range(since - since % width, until, width)
        buckets = {start: response.buckets.add() for start in starts}
        for start, bucket in buckets.items():
            bucket.bucket_start_at.seconds = start
        for _, entry in self.state.logs.matching(request, 0, request.source):
            bucket = buckets.get(int(entry["time"]) // width * width)
            if bucket is not None and request.search_text in entry["data"]:
                bucket.stdout_logs += entry["descriptor"] == api_pb2.FILE_DESCRIPTOR_STDOUT
                bucket.stderr_logs += entry["descriptor"] == api_pb2.FILE_DESCRIPTOR_STDERR
        return response

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
                fresh = [item for item in done if request.start_idx <= item.idx <= request.end_idx]
            else:
                fresh = call.outputs[seen:]
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
            call.finish(entry, api_pb2.FunctionGetOutputsItem(result=CANCELLED))
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
            target.stop(PREEMPTED)
        return api_pb2.ContainerStopResponse()

    async def volume_commit(self, request: Any, container: Container) -> Message:
        view = self.state.find(container.views, request.volume_id)
        for path in view.commit():
            if fault := self.state.faults.take("preempt_at", path):
                container.stop(PREEMPTED, fault["grace"])
        return api_pb2.VolumeCommitResponse(skip_reload=False)

    async def volume_reload(self, request: Any, container: Container) -> Message:
        view = self.state.find(container.views, request.volume_id)
        if open_files := view.open_files(container.processes()):
            words = f"there are open files preventing the operation: {', '.join(open_files)}"
            raise GRPCError(Status.FAILED_PRECONDITION, words)
        view.reload()
        return Empty()

    # Secrets, images, mounts, blobs

    async def secret_get_or_create(self, request: Any) -> Message:
        secret = (
            self.state.named(self.state.secrets, request.deployment_name) if request.deployment_name else None
        )
        creates = request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        if (
            secret is not None
            and request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
        ):
            raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{request.deployment_name}' already exists")
        if secret is None and not creates:
            raise missing(f"Secret '{request.deployment_name}' not found in environment 'main'")
        if secret is None:
            secret = Secret(self.state.new("st"), request.deployment_name, dict(request.env_dict))
            self.state.secrets[secret.id] = secret
        elif request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
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

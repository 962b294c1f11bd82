"""The messages of NRI that are spoken here, and ttRPC's own: names, types and numbers of their fields as
in NRI's ``pkg/api/api.proto`` (v0.10) and ttRPC's ``request.proto`` (v1.2).  Fields that nobody here asks for
are left out; ``protobuf`` keeps or skips them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELDS: Final = {
    "Request": "service:string:1 method:string:2 payload:bytes:3 timeout_nano:int64:4",
    "Status": "code:int32:1 message:string:2",
    "Response": "status:Status:1 payload:bytes:2",
    "Empty": "",
    "RegisterPluginRequest": "plugin_name:string:1 plugin_idx:string:2 NRI_version:string:3",
    "ConfigureRequest": "config:string:1 runtime_name:string:2 runtime_version:string:3",
    "ConfigureResponse": "events:int32:2",
    "SynchronizeRequest": "more:bool:3",
    "SynchronizeResponse": "more:bool:2",
    "PodSandbox": "id:string:1 name:string:2 uid:string:3 namespace:string:4 labels:map:5 annotations:map:6",
    "SecurityProfile": "profile_type:int32:1 localhost_ref:string:2",
    "OptionalUInt32": "value:uint32:1",
    "LinuxSeccompArg": "index:uint32:1 value:uint64:2 value_two:uint64:3 op:string:4",
    "LinuxSyscall": "names:string*:1 action:string:2 errno_ret:OptionalUInt32:3 args:LinuxSeccompArg*:4",
    "LinuxSeccomp": "default_action:string:1 default_errno:OptionalUInt32:2 architectures:string*:3 "
    "flags:string*:4 listener_path:string:5 listener_metadata:string:6 syscalls:LinuxSyscall*:7",
    "LinuxContainer": "seccomp_profile:SecurityProfile:7 seccomp_policy:LinuxSeccomp:8",
    "Image": "name:string:1",
    "Container": "id:string:1 pod_sandbox_id:string:2 name:string:3 labels:map:5 annotations:map:6 "
    "linux:LinuxContainer:11 image:Image:22",
    "CreateContainerRequest": "pod:PodSandbox:1 container:Container:2",
    "LinuxContainerAdjustment": "seccomp_policy:LinuxSeccomp:6",
    "ContainerAdjustment": "annotations:map:2 linux:LinuxContainerAdjustment:6",
    "CreateContainerResponse": "adjust:ContainerAdjustment:1",
}

#: SecurityProfile.ProfileType.
RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = range(3)
#: Of Event; events are asked for by ``1 << event - 1``.
CREATE_CONTAINER: Final = 4


def _add(package: str, message: Any, fields: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    for each in fields.split():
        name, kind, number = each.split(":")
        field = message.field.add(name=name, number=int(number), label=kinds.LABEL_OPTIONAL)
        if kind == "map":
            entry = message.nested_type.add(name=f"{name.title()}Entry")
            entry.options.map_entry = True
            _add(package, entry, "key:string:1 value:string:2")
            kind = f"{message.name}.{entry.name}*"
        if kind.endswith("*"):
            field.label = kinds.LABEL_REPEATED
            kind = kind[:-1]
        if kind[0].isupper():
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
        else:
            field.type = getattr(kinds, f"TYPE_{kind.upper()}")


def made(package: str, messages: Mapping[str, str]) -> dict[str, Any]:
    """Classes of messages, whose fields are given as ``name:type:number``, with ``*`` where there are many."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        _add(package, file.message_type.add(name=name), fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


_MADE: Final = made("nri.pkg.api.v1alpha1", _FIELDS)


def message(name: str, /, **fields: Any) -> Any:
    """A message of that name.

    >>> from proctor.agent.nri.messages import message
    >>> message("Status", code=5).code
    5
    """
    return _MADE[name](**fields)


def parsed(name: str, data: bytes) -> Any:
    """
    :raises ValueError: that is no such message."""
    from google.protobuf.message import DecodeError

    try:
        return _MADE[name].FromString(data)
    except DecodeError as problem:
        raise ValueError(f"{name}: {problem}") from None

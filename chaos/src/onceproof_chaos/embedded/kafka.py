"""A Kafka broker on this machine: one node, KRaft, its data in a folder that goes with the run.

Nothing is fsynced, as in any Kafka with its default settings: what it promises it promises by
replication, which one node has not. It survives the death of its clients, which is what a run is about.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from onceproof.service.child import with_parent
from onceproof_chaos.embedded import kafka_jars
from onceproof_chaos.embedded.server import EmbeddedServer, spawn
from onceproof_chaos.ports import free_port

_START_TIMEOUT_S: Final = 90.0
_POLL_S: Final = 0.05
_JAVA: Final = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SETTINGS: Final = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    # A topic's partitions and retention are decisions: nobody makes one by misspelling its name.
    "auto.create.topics.enable": "false",
    "num.partitions": "6",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A dead consumer is to be missed soon; 6 s are the least otherwise.
    "group.min.session.timeout.ms": "1000",
    "log.retention.check.interval.ms": "3600000",
}
_LOGGING: Final = """
<Configuration><Appenders>
<Console name="C"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="C"/></Root></Loggers></Configuration>
"""


class EmbeddedKafka(EmbeddedServer):
    """A broker of its own; usable as a context manager.

    Args:
        directory: where its data, settings and log go; made if it does not exist.
        settings: further broker settings, by their names in `server.properties`.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = (free_port(), free_port())

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self._ports[0]}"

    def start(self) -> str:
        """Start the broker, on the data that is there, and wait until it serves. Blocks for about 5 s.

        Raises:
            BrokerUnavailableError: it did not start; the message holds the end of its log.
            ConfigurationError: its jars cannot be had.
        """
        if self._process is not None:
            return self.bootstrap
        jars = kafka_jars.fetch()
        self._directory.mkdir(parents=True, exist_ok=True)
        properties = self._write()
        log = self._directory / "kafka.log"
        logging = f"-Dlog4j2.configurationFile={self._directory / 'log4j2.xml'}"
        java = [*_JAVA, logging, "-cp", f"{jars}/*"]
        with log.open("ab") as output:
            if not (self._directory / "data" / "meta.properties").exists():
                subprocess.run(
                    # With =, because an id that begins with a dash would be taken for an option.
                    [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={_cluster_id()}",
                     f"--config={properties}"],
                    stdout=output, stderr=subprocess.STDOUT, check=True,
                )  # fmt: skip
            command = with_parent(*java, "kafka.Kafka", properties)
            self._process = process = spawn(command, output)
        self._until_up(
            process, self._serves, what="the embedded Kafka", log=log,
            timeout_s=_START_TIMEOUT_S, poll_s=_POLL_S,
        )  # fmt: skip
        return self.bootstrap

    def stop(self) -> None:
        """Kill the broker; its data stays in the folder. Harmless when it does not run."""
        self.resume()
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        process.wait(30)

    def pause(self) -> None:
        """Let the broker stand still: its connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, number)

    def _serves(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[0]), 0.2):
            return True
        return False

    def _write(self) -> str:
        broker, controller = self._ports
        settings = {
            **_SETTINGS,
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._directory / "data"),
            **self._settings,
        }
        (self._directory / "log4j2.xml").write_text(_LOGGING)
        path = self._directory / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return str(path)


def _cluster_id() -> str:
    """22 characters of base64, as Kafka wants it."""
    return base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")

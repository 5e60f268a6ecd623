"""A real Kafka broker (KRaft) for tests and benchmarks: downloaded once with Maven, started in about 3 s.

Its fixtures, and clusters of several, are in support/kafka_cluster.py.
"""

from __future__ import annotations

import base64
import fcntl
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from support.parts import CACHE, KAFKA_JARS, KAFKA_POM, has_kafka_jars
from support.ports import free_port

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed broker can register again only after its old session has ended.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "300",
    # Short, so that the partitions of a killed consumer move within seconds.
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "250",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
    "log.retention.check.interval.ms": "300000",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "2",
    "log.cleaner.enable": "false",
}


def download() -> Path:
    """The folder with the broker's jars. Fills it with Maven if they are of another version. Runs may share it."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if has_kafka_jars():
            return KAFKA_JARS
        folder = KAFKA_JARS.parent
        folder.mkdir(exist_ok=True)
        shutil.copy(KAFKA_POM, folder / "pom.xml")
        fresh = folder / "fresh"
        subprocess.run(
            [
                "mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies",
                f"-DoutputDirectory={fresh}", "-DincludeScope=runtime",
            ],
            check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        shutil.copy(KAFKA_POM, fresh)
        shutil.rmtree(KAFKA_JARS, ignore_errors=True)
        fresh.rename(KAFKA_JARS)
    return KAFKA_JARS


def new_cluster_id() -> str:
    """A cluster id that does not begin with a hyphen, which would read as an option."""
    return base64.urlsafe_b64encode(b"\x00" + uuid.uuid4().bytes[1:]).rstrip(b"=").decode()


class KafkaBroker:
    """One broker with its data in `folder`. `settings` override SETTINGS (server.properties).

    `listeners` are more of them, name to security protocol; `scram` are users as StorageTool takes them; `java` are
    options of the virtual machine; `advertised` is the host that clients are told.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        listeners: Mapping[str, str] | None = None,
        scram: Sequence[str] = (),
        java: Sequence[str] = (),
        advertised: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.controller_port = free_port()
        self.ports = {name: free_port() for name in listeners or {}}
        self.node, self.voters, self.cluster_id = 1, f"1@127.0.0.1:{self.controller_port}", new_cluster_id()
        self._protocols = dict(listeners or {})
        self._scram = [word for entry in scram for word in ("--add-scram", entry)]
        self._java = list(java)
        self._advertised = advertised
        self._settings = dict(SETTINGS) | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The bootstrap string."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's process id, for measuring its CPU time."""
        if self._process is None:
            raise RuntimeError("the broker does not run")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The broker's output."""
        return self.folder / "broker.log"

    def start(self, timeout: float = 120.0) -> None:
        """Start, and return once it answers. Keeps the data of an earlier run."""
        self.launch()
        self.wait(timeout)

    def launch(self) -> None:
        """Start, and return at once."""
        jars = download()
        file = self.folder / "server.properties"
        if not file.exists():
            self._format(jars, file)
        memory = ["-Xms256m", "-Xmx384m", "-XX:+UseSerialGC"]
        command = ["java", *memory, *self._java, "-cp", f"{jars}/*", "kafka.Kafka", str(file)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder
            )
        # If this process is killed, the pipe closes and the broker ends.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'cat > /dev/null; kill -9 "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill it, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def stop(self, timeout: float = 30.0) -> None:
        """Shut it down."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._ended()

    def restart(self) -> None:
        """Kill it and start it again on the same port with the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, and nothing answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _ended(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _format(self, jars: Path, file: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        own = [f"{name}://127.0.0.1:{port}" for name, port in {"PLAINTEXT": self.port, **self.ports}.items()]
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", **self._protocols}
        settings = self._settings | {
            "node.id": str(self.node),
            "listeners": ",".join([*own, f"CONTROLLER://127.0.0.1:{self.controller_port}"]),
            "advertised.listeners": ",".join(own).replace("//127.0.0.1", f"//{self._advertised}"),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "controller.quorum.voters": self.voters,
            "log.dirs": str(self.folder / "data"),
        }
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        tool = ["java", "-Xmx128m", "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format"]
        command = [*tool, "-t", self.cluster_id, "-c", str(file), *self._scram]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the broker's folder was not formatted:\n{done.stdout}{done.stderr}")

    def wait(self, timeout: float = 120.0) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + timeout
        # Without logs: librdkafka would print every refused connection until the broker listens.
        probe = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the broker ended while starting; its last words:\n{self._last_words()}")
            try:
                probe.list_topics(timeout=1)
            except KafkaException:
                if time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"no answer in {timeout} s; its last words:\n{self._last_words()}") from None
            else:
                return

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

"""Mails over SMTP to a server that is not Python: the rows `flow batch, SMTP` and `flow batch, STARTTLS`.

`python -m bench.smtp [--count 20000] [--rounds 3] [--only none|starttls]` measures them alone. `sh .ci/smtp-sink`
brings the server: smtp-sink of Debian's postfix, which throws mails away and counts them. It has no TLS; stunnel stands
in front of it and answers STARTTLS. Both are the vendor's side and are not counted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import ipaddress
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import workload
from bench.measure import Bench, Figure
from bench.postgres import Postgres
from bench.servers import ROOT, Process, free_port
from bench.system import Tidings
from bench.vendor import Count

ROWS = {"flow batch, SMTP": "none", "flow batch, STARTTLS": "starttls"}
"""Row to the setting `security`."""
_FOLDER = ROOT / ".cache" / "smtp-sink"
_SINK = _FOLDER / "usr" / "sbin" / "smtp-sink"
_TLS = _FOLDER / "usr" / "bin" / "stunnel4"
_LIBRARIES = (_FOLDER / "usr/lib/postfix", *(_FOLDER / "usr/lib").glob("*-linux-gnu"))
_COUNTED = re.compile(rb"mesg=(\d+)(?=\D)")
_LOOPBACK = ipaddress.ip_address("127.0.0.1")


def missing() -> list[str]:
    """The programs that are not there."""
    return [path.name for path in (_SINK, _TLS) if not path.exists()]


class Sink:
    """smtp-sink, and stunnel in front of it where STARTTLS is asked for."""

    def __init__(self, folder: Path, security: str) -> None:
        libraries = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, _LIBRARIES))}
        self.port = free_port()
        self.certificate = folder / "certificate.pem"
        self._counted_before = 0
        # It must not run as root, and writes its counters when a mail has come.
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        self._sink = Process(
            [str(_SINK), "-c", *user, f"127.0.0.1:{self.port}", "256"], folder / "smtp-sink.log", libraries
        )
        self._processes = [self._sink]
        self._sink.await_port(self.port)
        if security == "starttls":
            behind, self.port = self.port, free_port()
            settings = folder / "stunnel.conf"
            _certify(folder / "key.pem", self.certificate)
            settings.write_text(
                f"foreground = yes\npid =\n[smtp]\naccept = 127.0.0.1:{self.port}\nconnect = 127.0.0.1:{behind}\n"
                f"protocol = smtp\ncert = {self.certificate}\nkey = {folder / 'key.pem'}\n",
                encoding="utf-8",
            )
            tls = Process([str(_TLS), str(settings)], folder / "stunnel.log", libraries)
            self._processes.insert(0, tls)
            tls.await_port(self.port)

    def _counted(self) -> int:
        with self._sink.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 1000))
            found = _COUNTED.findall(log.read())
        return int(found[-1]) if found else 0

    def count(self) -> Count:
        """The mails that it took since the last reset, each a request of its own."""
        self._sink.is_running()
        mails = self._counted() - self._counted_before
        return Count(requests=mails, arrivals=mails, repeated=0)

    def arrivals(self, first: int, count: int) -> list[int]:
        """Not told: smtp-sink throws mails away."""
        raise NotImplementedError("smtp-sink does not say when a mail came")

    def reset(self) -> None:
        """Count from zero again."""
        self._counted_before = self._counted()

    def stop(self) -> None:
        """End it."""
        for process in self._processes:
            process.stop()


def measure(security: str, count: int) -> Figure:
    """`count` notifications in requests of 500, each a mail of its own, after some to warm up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidings-bench-smtp-")))
        folder.chmod(0o755)  # PostgreSQL's own user must be able to pass
        sink = Sink(folder, security)
        stack.callback(sink.stop)
        postgres = Postgres(folder / "postgres")
        stack.callback(postgres.stop)
        settings: dict[str, object] = {"host": "127.0.0.1", "port": sink.port, "security": security}
        if security == "starttls":
            settings["ca_file"] = str(sink.certificate)
        system = Tidings("tidings", folder / "system", postgres, free_port(), smtp=settings)
        stack.callback(system.close)
        bench = Bench(folder, sink)
        system.start_workers()
        bench.flow(system, workload.PERSONAL, 2 * workload.BATCH)
        return bench.flow(system, workload.PERSONAL, count)


def _certify(key_file: Path, certificate_file: Path) -> None:
    """A key and a certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(_LOOPBACK)]), False)
        .sign(key, hashes.SHA256())
    )
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for, and print a line for each round."""
    parser = argparse.ArgumentParser(prog="python -m bench.smtp", description="Mails over SMTP, 500 in a request.")
    parser.add_argument("--count", type=int, default=20_000, help="notifications in each round, a multiple of 500")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=sorted(ROWS.values()), help="only with this security")
    chosen = parser.parse_args(arguments)
    if absent := missing():
        parser.error(f"{', '.join(absent)} not found; `sh .ci/smtp-sink` brings them on Debian")
    for _ in range(chosen.rounds):
        for row, security in ROWS.items():
            if chosen.only in (None, security):
                figure = measure(security, chosen.count)
                parts = ", ".join(f"{name} {used:.1f}" for name, used in figure.parts.items())
                print(f"{row:<22}{figure.cpu_us:>8.1f} µs{figure.rate_per_s:>8.0f}/s   {parts}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

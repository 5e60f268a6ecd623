"""The sections of the settings file, each a frozen model with its defaults and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, field_validator

from tidings.model.days import DAY_MS
from tidings.model.tenant import DefaultRates, Rate, Rates
from tidings.model.user import Retries
from tidings.model.vocabulary import Channel
from tidings.policy.admission import AdmissionRules
from tidings.policy.breaker import BreakerRules
from tidings.policy.days import SETTLED_DAYS
from tidings.policy.keeping import Keeping
from tidings.policy.retry import RetryPolicy
from tidings.policy.shares import ShareRules


class Section(BaseModel):
    """A section of the settings: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Http(Section):
    """Where the API listens, how it is reached from outside, and its limits for each process."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535, description="0 takes any free port")
    public_url: str | None = Field(
        default=None, description="the base URL at which vendors and browsers reach the API; without it, host and port"
    )
    docs: bool = Field(default=True, description="serve the API reference at /docs and /openapi.json")
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="a larger request body is refused with 413")
    max_bodies_bytes: int = Field(
        default=268_435_456, ge=16_777_216, description="all bodies under way together; more are refused with 503"
    )
    max_header_bytes: int = Field(
        default=16_384, ge=1024, description="a request line and headers that are larger together are refused with 431"
    )
    max_connections: int = Field(default=2_000, ge=1, description="of one process; further ones are refused with 503")
    header_timeout: float = Field(
        default=10.0, gt=0, description="seconds for a request's headers to arrive; later is 408"
    )
    body_timeout: float = Field(
        default=60.0, gt=0, description="seconds for a request's body to arrive (later is 408), or to take an answer"
    )

    @property
    def local_url(self) -> str:
        """The base URL of the API from this machine."""
        return url_of(self.host, self.port)


class Operations(Section):
    """A separate listener for /healthz, /readyz and /metrics."""

    host: str = "127.0.0.1"
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="a port of their own; with it, the API's port does not answer them; 0 takes any free one",
        examples=[8402],
    )

    def url(self, http: Http) -> str:
        """The base URL of the operations, from this machine."""
        return http.local_url if self.port is None else url_of(self.host, self.port)


class Database(Section):
    """PostgreSQL."""

    dsn: str | None = Field(default=None, description="where it runs; without it, `tidings up` starts its own")
    server: Literal["bundled", "system"] | None = Field(
        default=None,
        description="the PostgreSQL that `tidings up` starts: `bundled` comes with Tidings, `system` is installed on "
        "this machine; without it, `system` if there is one. Always of the version that created the data folder",
        examples=["bundled"],
    )
    pool_size: int = Field(default=10, ge=2, description="connections of one process, besides those of the queue")


class QueueSettings(Section):
    """The queue between the stages."""

    kind: str = Field(default="postgres", pattern="^(postgres|kafka)$", description="postgres or kafka")
    brokers: str = Field(default="", description="Kafka's bootstrap servers: host:port,host:port")
    partitions: int = Field(default=8, ge=1, description="partitions of each Kafka topic")
    replication: int = Field(default=1, ge=1, description="of each topic; 3 for production, with min.insync.replicas=2")
    prefix: str = Field(default="", description="of the name of every topic, if several systems share a cluster")


def _revealed(value: SecretStr) -> str:
    return value.get_secret_value()


Secret = Annotated[SecretStr, PlainSerializer(_revealed, when_used="json")]
"""A secret that is hidden when it is printed. As JSON, which goes to a child process, it is readable."""


class KafkaSection(Section):
    """The connection to Kafka's brokers, if `queue.kind` is kafka."""

    tls: bool = Field(default=False, description="use TLS; the brokers' certificates and names are verified")
    ca_file: str = Field(
        default="", description="PEM file of the brokers' certificate authorities; without it, the system's authorities"
    )
    certificate_file: str = Field(default="", description="PEM file of this client's certificate (mutual TLS)")
    key_file: str = Field(default="", description="PEM file of the key that belongs to certificate_file")
    key_password: Secret = Field(default=SecretStr(""), description="the password of key_file, if it has one")
    sasl: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="", description="how this client logs in: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    )
    username: str = Field(default="", description="for PLAIN and SCRAM")
    password: Secret = Field(default=SecretStr(""), description="for PLAIN and SCRAM")
    token_url: str = Field(
        default="", description="for OAUTHBEARER: the token endpoint of the OpenID provider (client credentials)"
    )
    token_ca_file: str = Field(default="", description="PEM file of the token endpoint's certificate authorities")
    client_id: str = Field(default="", description="for OAUTHBEARER")
    client_secret: Secret = Field(default=SecretStr(""), description="for OAUTHBEARER")
    scope: str = Field(default="", description="for OAUTHBEARER, if the OpenID provider wants one")
    allow_plaintext: bool = Field(
        default=False,
        description="connect to brokers on other machines without TLS: only in a network that nobody else can read",
    )
    group_protocol: Literal["auto", "consumer", "classic"] = Field(
        default="auto", description="auto: consumer (KIP-848), or classic if the brokers do not know it"
    )
    drain: float = Field(
        default=5.0, ge=0, le=120, description="seconds that a process which loses a partition has to finish its claims"
    )


class Sandbox(Section):
    """The sandbox, which stands in for the vendors, with its viewer."""

    enabled: bool | None = Field(
        default=None,
        description="without this setting, the sandbox serves every channel until a real provider is named, then none",
        examples=[True],
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8401, ge=0, le=65535, description="of its HTTP and its viewer; 0 takes any free port")
    smtp_port: int = Field(default=8425, ge=0, le=65535, description="of its SMTP server; 0 takes any free port")
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="host names, besides localhost, by which browsers reach the viewer; it then asks for a token",
        examples=[["sandbox.example.internal"]],
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A list from the environment's `one, other`; anything else as it is."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @property
    def local_url(self) -> str:
        """The base URL of the sandbox from this machine."""
        return url_of(self.host, self.port)


class Retrying(Section):
    """How often deliveries of one channel are tried, and the waits between; without a value, as `[deliver]` says."""

    attempts: int | None = Field(default=None, ge=1, le=20)
    backoff_base: float | None = Field(default=None, gt=0)
    backoff_cap: float | None = Field(default=None, gt=0)


class Delivering(Section):
    """How deliveries are tried."""

    attempts: int = Field(default=3, ge=1, le=20, description="attempts of a delivery, the first one included")
    backoff_base: float = Field(
        default=2.0, gt=0, description="seconds before the second attempt, at most; doubles each time"
    )
    backoff_cap: float = Field(default=900.0, gt=0, description="seconds between two attempts, at most")
    patient_attempts: int = Field(
        default=8,
        ge=1,
        le=30,
        description="attempts when a mail server defers a mail (a greylist, a full mailbox): after 5 minutes, 10, 20, "
        "40, then each hour. A channel or category with `attempts` of its own has that many here too",
    )
    outage_hold_s: float = Field(
        default=86_400.0,
        gt=0,
        description="seconds that a delivery without expires_at waits for a provider that is out, at most",
    )
    outage_pause_s: float = Field(
        default=1_800.0, ge=1, description="seconds until held deliveries are offered to their provider again, at most"
    )
    lease: float = Field(default=60.0, ge=5, description="seconds until a killed worker's batch goes to another worker")
    channels: dict[Channel, Retrying] = Field(default={}, description="other values for single channels")

    def retry_policy(self, channel: Channel) -> RetryPolicy:
        """The channel's own values, completed with the general ones."""
        own = self.channels.get(channel, Retrying())
        general = RetryPolicy(
            self.attempts,
            self.backoff_base,
            self.backoff_cap,
            self.patient_attempts,
            self.outage_hold_s,
            self.outage_pause_s,
        )
        return general.of(Retries(own.attempts, own.backoff_base, own.backoff_cap))


_PER_SECOND = "a second, on average; 0: no limit"
_BURST = "at once; without it, one second's worth"


class LimitSettings(Section):
    """How much each tenant (all its keys together) and each key may ask of the API.

    `tidings tenant limit` and `tidings key create` set other limits for one tenant or key.
    """

    tenant_requests_per_second: float = Field(default=0.0, ge=0, description=f"requests of a tenant {_PER_SECOND}")
    tenant_requests_burst: int | None = Field(default=None, ge=1, description=f"requests {_BURST}", examples=[100])
    tenant_notifications_per_second: float = Field(
        default=0.0, ge=0, description=f"notifications of a tenant (a batch of 1,000 is 1,000) {_PER_SECOND}"
    )
    tenant_notifications_burst: int | None = Field(
        default=None,
        ge=1,
        description=f"notifications {_BURST}; a larger batch is accepted whole, and later ones wait for it",
        examples=[1000],
    )
    key_requests_per_second: float = Field(default=0.0, ge=0, description=f"requests with one key {_PER_SECOND}")
    key_requests_burst: int | None = Field(default=None, ge=1, description=f"requests {_BURST}", examples=[100])
    key_notifications_per_second: float = Field(
        default=0.0, ge=0, description=f"notifications with one key {_PER_SECOND}"
    )
    key_notifications_burst: int | None = Field(
        default=None, ge=1, description=f"notifications {_BURST}", examples=[1000]
    )

    def rates(self) -> DefaultRates:
        """The limits as the API takes them."""
        return DefaultRates(
            tenant=Rates(
                Rate.of(self.tenant_requests_per_second, self.tenant_requests_burst),
                Rate.of(self.tenant_notifications_per_second, self.tenant_notifications_burst),
            ),
            key=Rates(
                Rate.of(self.key_requests_per_second, self.key_requests_burst),
                Rate.of(self.key_notifications_per_second, self.key_notifications_burst),
            ),
        )


class BreakerSettings(Section):
    """When a provider's circuit breaker opens: its traffic then goes to the channel's other providers."""

    window: float = Field(default=4.0, gt=0, description="seconds; older sends do not count")
    least: int = Field(default=5, ge=1, description="fewer sends than this within the window never open it")
    failing: float = Field(default=0.5, gt=0, le=1, description="the share of failed sends that opens it")
    slow: float = Field(default=0.5, gt=0, le=1, description="the share of slow answers that opens it")
    slow_after: float = Field(default=2.5, gt=0, description="seconds; an answer that takes longer is slow")
    pause: float = Field(default=2.0, gt=0, description="seconds until a retry; doubles while retries fail")
    longest_pause: float = Field(default=60.0, gt=0, description="seconds; the pause does not grow beyond")
    step: float = Field(
        default=2.0, gt=0, description="seconds of each step of the recovery, which doubles its traffic"
    )

    def rules(self) -> BreakerRules:
        """The rules as the policy takes them, in milliseconds."""
        return BreakerRules(
            window_ms=round(self.window * 1000),
            least=self.least,
            failing=self.failing,
            slow=self.slow,
            slow_after_ms=round(self.slow_after * 1000),
            pause_ms=round(self.pause * 1000),
            longest_pause_ms=round(self.longest_pause * 1000),
            step_ms=round(self.step * 1000),
        )


class Overload(Section):
    """When the API refuses notifications with 503: bulk at half of these values, critical only when memory is full."""

    held: int = Field(default=20_000, ge=1, description="notifications in memory that wait for their commit")
    lag: float = Field(default=0.5, gt=0, le=0.9, description="seconds that a commit takes")
    backlog: int = Field(
        default=50_000, ge=1, description="items in the queues; set it to the number that your workers send in 30 s"
    )

    def rules(self) -> AdmissionRules:
        """The rules as the policy takes them."""
        return AdmissionRules(in_memory=self.held, lag_s=self.lag, backlog=self.backlog)


class Fairness(Section):
    """Each tenant's share of each lane, in each process. The surplus is sent with the capacity that others leave."""

    per_second: float = Field(
        default=100.0, ge=0, description="notifications a second, on average; 0: no shares, first come, first served"
    )
    burst: int = Field(default=200, ge=1, description="notifications at once")

    def rules(self) -> ShareRules:
        """The rules as the policy takes them."""
        return ShareRules(per_second=self.per_second, burst=self.burst)


class AuditSettings(Section):
    """The audit: rounds that look for notifications that are missing or stuck. One process at a time makes them."""

    interval: float = Field(default=30.0, ge=1, description="seconds between two rounds")


class RetentionSettings(Section):
    """How long the history stays in the database. Older days go into the archive, in the object store."""

    days: int = Field(
        default=30, ge=0, description="0 keeps everything; else 9 or more, as an occurrence may be sent a week late"
    )

    @field_validator("days")
    @classmethod
    def _late_receipts(cls, value: int) -> int:
        if 0 < value <= SETTLED_DAYS:
            raise ValueError(f"must be 0, or more than {SETTLED_DAYS}: an occurrence may be sent a week late")
        return value


class CanarySettings(Section):
    """The canary: a notification that Tidings sends to itself, to check that all parts work together."""

    enabled: bool = True
    interval: float = Field(default=30.0, ge=1, description="seconds between two canaries")
    deadline: float = Field(default=10.0, gt=0, description="seconds within which a canary must arrive")


class KeepSettings(Section):
    """How many days ever-growing data is kept; 0 keeps it for ever. One worker at a time deletes, once an hour."""

    inbox_days: int = Field(default=90, ge=0, description="items of the users' inboxes")
    inbox_items: int = Field(default=1_000, ge=0, description="the newest items of each inbox; older ones go sooner")
    cancellations_days: int = Field(
        default=400, ge=30, description="cancellations; longer than any notification may wait or be replayed"
    )
    gaps_days: int = Field(default=90, ge=1, description="confirmed gaps in the accounts; they are reported until then")
    replays_days: int = Field(default=90, ge=1, description="replays of dead letters that have ended")
    aside_days: int = Field(default=90, ge=0, description="items that could not be read")

    def rules(self) -> Keeping:
        """The rules as the policy takes them."""
        return Keeping(
            inbox_ms=self.inbox_days * DAY_MS,
            inbox_items=self.inbox_items,
            cancellations_ms=self.cancellations_days * DAY_MS,
            gaps_ms=self.gaps_days * DAY_MS,
            replays_ms=self.replays_days * DAY_MS,
            aside_ms=self.aside_days * DAY_MS,
        )


class StopSettings(Section):
    """How a process stops on SIGTERM."""

    grace: float = Field(default=20.0, ge=0, description="seconds that work under way may take; then it is given up")
    drain: float = Field(default=2.0, ge=0, description="the part of `grace` in which the API tells clients to leave")

    @property
    def kill_after(self) -> float:
        """Seconds after SIGTERM when a supervisor kills a process that has not ended."""
        return self.grace + 5.0


class Telemetry(Section):
    """Logs."""

    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error"
    )
    log_format: str = Field(default="json", pattern="^(json|text)$", description="json or text")
    whole_messages: bool = Field(
        default=False, description="log the messages of unforeseen exceptions; they may contain notifications' content"
    )


def url_of(host: str, port: int) -> str:
    """The HTTP URL, from this machine, of a server that listens on `host` and `port`."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - a name to replace
    name = wildcards.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

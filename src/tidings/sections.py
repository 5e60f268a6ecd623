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
    """A part of the settings: frozen, and without room for a name that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Http(Section):
    """Where the API listens, and how it is reached from outside."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535, description="0 takes any free port")
    public_url: str | None = Field(
        default=None, description="the base URL that vendors and browsers reach; without it, host and port"
    )
    docs: bool = Field(default=True, description="serve the API reference at /docs and /openapi.json")
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="a larger request body is refused with 413")
    max_bodies_bytes: int = Field(
        default=268_435_456, ge=16_777_216, description="bodies under way that are together larger are refused with 503"
    )
    max_header_bytes: int = Field(
        default=16_384, ge=1024, description="a longer request line with its headers is refused with 431"
    )
    max_connections: int = Field(default=2_000, ge=1, description="more at once in one process are refused with 503")
    header_timeout: float = Field(
        default=10.0, gt=0, description="seconds until the headers must have arrived, else 408"
    )
    body_timeout: float = Field(
        default=60.0, gt=0, description="seconds until the body must have arrived, else 408; or an answer was taken"
    )

    @property
    def local_url(self) -> str:
        """The base URL of the API from this machine."""
        return url_of(self.host, self.port)


class Operations(Section):
    """Where /healthz, /readyz and /metrics are answered, if not beside the API."""

    host: str = "127.0.0.1"
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="a port of its own, which the API's then does not answer for; 0 takes any free one",
        examples=[8402],
    )

    def url(self, http: Http) -> str:
        """The base URL at which this machine asks."""
        return http.local_url if self.port is None else url_of(self.host, self.port)


class Database(Section):
    """PostgreSQL."""

    dsn: str | None = Field(default=None, description="where it runs; without it, `tidings up` starts its own")
    server: Literal["bundled", "system"] | None = Field(
        default=None,
        description="which PostgreSQL `tidings up` starts: the one that comes with Tidings, or the one that is "
        "installed here; without it the latter, if there is one; always of the version that made the data folder",
        examples=["bundled"],
    )
    pool_size: int = Field(default=10, ge=2, description="connections of one process for all but the queue")


class QueueSettings(Section):
    """The queue between the stages."""

    kind: str = Field(default="postgres", pattern="^(postgres|kafka)$")
    brokers: str = Field(default="", description="Kafka bootstrap servers: host:port,host:port")
    partitions: int = Field(default=8, ge=1)
    replication: int = Field(default=1, ge=1, description="3 for production, with min.insync.replicas=2")
    prefix: str = Field(default="", description="before the name of every topic, when several systems share a cluster")


def _revealed(value: SecretStr) -> str:
    return value.get_secret_value()


Secret = Annotated[SecretStr, PlainSerializer(_revealed, when_used="json")]
"""A secret that hides from whoever prints it. A child process is given it with all settings, as JSON."""


class KafkaSection(Section):
    """How the brokers of Kafka are spoken to, where `queue.kind` is kafka."""

    tls: bool = Field(default=False, description="speak TLS; the brokers' certificates and names are verified")
    ca_file: str = Field(
        default="", description="PEM file of the authorities that signed them; without it, those that the system trusts"
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
    token_ca_file: str = Field(default="", description="PEM file of the authorities that signed its certificate")
    client_id: str = Field(default="", description="for OAUTHBEARER")
    client_secret: Secret = Field(default=SecretStr(""), description="for OAUTHBEARER")
    scope: str = Field(default="", description="for OAUTHBEARER, if the provider wants one")
    allow_plaintext: bool = Field(
        default=False,
        description="speak to brokers on other machines without TLS: only in a network that nobody else can read",
    )
    group_protocol: Literal["auto", "consumer", "classic"] = Field(
        default="auto", description="auto: consumer (KIP-848), and classic where the brokers do not know it"
    )
    drain: float = Field(
        default=5.0,
        ge=0,
        le=120,
        description="seconds that a partition which moves to another process waits for the claims over it to end",
    )


class Sandbox(Section):
    """The vendors' stand-in with its viewer."""

    enabled: bool | None = Field(
        default=None,
        description="without it, the sandbox serves every channel until one real provider is named, and then none",
        examples=[True],
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8401, ge=0, le=65535)
    smtp_port: int = Field(default=8425, ge=0, le=65535)
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="names by which browsers reach the viewer, besides localhost; it then asks for a token",
        examples=[["sandbox.example.internal"]],
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """The environment has `one, other`."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @property
    def local_url(self) -> str:
        """The base URL of the sandbox from this machine."""
        return url_of(self.host, self.port)


class Retrying(Section):
    """How often and how patiently one channel is tried; what is not set is as `[deliver]` says."""

    attempts: int | None = Field(default=None, ge=1, le=20)
    backoff_base: float | None = Field(default=None, gt=0)
    backoff_cap: float | None = Field(default=None, gt=0)


class Delivering(Section):
    """How `deliver` tries."""

    attempts: int = Field(default=3, ge=1, le=20)
    backoff_base: float = Field(
        default=2.0, gt=0, description="seconds before the second try, at most; doubles each time"
    )
    backoff_cap: float = Field(default=900.0, gt=0, description="no wait between two tries is longer, in seconds")
    patient_attempts: int = Field(
        default=8,
        ge=1,
        le=30,
        description="tries where a mail server puts one mail off (a greylist, a full mailbox): after 5 minutes, 10, "
        "20, 40, then each hour. A channel or category with attempts of its own has that many here, too",
    )
    outage_hold_s: float = Field(
        default=86_400.0,
        gt=0,
        description="seconds that a delivery without expires_at waits for a provider that is out, at most",
    )
    outage_pause_s: float = Field(
        default=1_800.0, ge=1, description="seconds after which what waits for a provider is offered again, at most"
    )
    lease: float = Field(default=60.0, ge=5, description="seconds that a killed worker's batch stays with it")
    channels: dict[Channel, Retrying] = Field(default={}, description="what one channel does otherwise")

    def retry_policy(self, channel: Channel) -> RetryPolicy:
        """What holds for the channel."""
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


_PER_SECOND = "a second, over time; 0: no limit"
_BURST = "at once; without it, one second's worth"


class LimitSettings(Section):
    """How much each tenant, all its keys together, and each key may ask of the API.

    `tidings tenant limit` and `tidings key create` set other limits for one of them.
    """

    tenant_requests_per_second: float = Field(default=0.0, ge=0, description=f"requests of a tenant {_PER_SECOND}")
    tenant_requests_burst: int | None = Field(default=None, ge=1, description=f"requests {_BURST}", examples=[100])
    tenant_notifications_per_second: float = Field(
        default=0.0, ge=0, description=f"notifications of a tenant (a batch of 1,000 is 1,000) {_PER_SECOND}"
    )
    tenant_notifications_burst: int | None = Field(
        default=None,
        ge=1,
        description=f"notifications {_BURST}; a larger batch is taken whole and waited off",
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
        """As the API wants them."""
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
    """When a provider is left alone because it fails or is slow; the traffic goes to the channel's others. Seconds."""

    window: float = Field(default=4.0, gt=0, description="the sends of so many last seconds count")
    least: int = Field(default=5, ge=1, description="fewer sends than this say nothing")
    failing: float = Field(default=0.5, gt=0, le=1, description="the share of failures at which it is left alone")
    slow: float = Field(default=0.5, gt=0, le=1, description="the share of slow answers at which it is left alone")
    slow_after: float = Field(default=2.5, gt=0, description="an answer that takes longer is slow")
    pause: float = Field(default=2.0, gt=0, description="until it is tried again; doubles while that fails")
    longest_pause: float = Field(default=60.0, gt=0)
    step: float = Field(default=2.0, gt=0, description="each step of the recovery doubles what it gets")

    def rules(self) -> BreakerRules:
        """As the policy wants them, in milliseconds."""
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
    """When the API turns notifications away: bulk at half of what is too much, critical only when memory is full."""

    held: int = Field(default=20_000, ge=1, description="notifications that wait in memory for their commit")
    lag: float = Field(default=0.5, gt=0, le=0.9, description="seconds that a commit may take")
    backlog: int = Field(
        default=50_000, ge=1, description="what waits in the queues; set it to what your workers send in half a minute"
    )

    def rules(self) -> AdmissionRules:
        """As the policy wants them."""
        return AdmissionRules(in_memory=self.held, lag_s=self.lag, backlog=self.backlog)


class Fairness(Section):
    """Each tenant's fair share of a lane, in each process. What exceeds it is sent too, with what the others leave."""

    per_second: float = Field(
        default=100.0,
        ge=0,
        description="notifications that a tenant is sure of, in each lane, over time; 0: no shares, first come first "
        "served",
    )
    burst: int = Field(default=200, ge=1, description="the same at once")

    def rules(self) -> ShareRules:
        """As the policy wants them."""
        return ShareRules(per_second=self.per_second, burst=self.burst)


class AuditSettings(Section):
    """The rounds that look for what is missing or stuck. One process at a time makes them."""

    interval: float = Field(default=30.0, ge=1, description="seconds between two rounds")


class RetentionSettings(Section):
    """How long the history stays in the database; what is older goes into the archive, in the object store."""

    days: int = Field(
        default=30, ge=0, description="0 keeps everything; else 9 or more: occurrences may be a week late"
    )

    @field_validator("days")
    @classmethod
    def _late_receipts(cls, value: int) -> int:
        if 0 < value <= SETTLED_DAYS:
            raise ValueError(f"must be 0, or more than {SETTLED_DAYS}: an occurrence may be sent a week late")
        return value


class CanarySettings(Section):
    """The notification that Tidings sends to itself, to know that all parts work together."""

    enabled: bool = True
    interval: float = Field(default=30.0, ge=1, description="seconds between two canaries")
    deadline: float = Field(default=10.0, gt=0, description="seconds within which it must arrive")


class KeepSettings(Section):
    """How long what only grows is kept, in days; 0 keeps it for ever. One worker at a time deletes, once an hour."""

    inbox_days: int = Field(default=90, ge=0, description="items of the users' inboxes")
    inbox_items: int = Field(default=1_000, ge=0, description="each user's newest items; older ones go sooner")
    cancellations_days: int = Field(
        default=400, ge=30, description="marks of cancelled notifications; longer than anything may wait or be replayed"
    )
    gaps_days: int = Field(
        default=90, ge=1, description="gaps in the accounts that are confirmed, and told of till then"
    )
    replays_days: int = Field(default=90, ge=1, description="replays of dead letters that have ended")
    aside_days: int = Field(default=90, ge=0, description="items that could not be read")

    def rules(self) -> Keeping:
        """As the policy wants them."""
        return Keeping(
            inbox_ms=self.inbox_days * DAY_MS,
            inbox_items=self.inbox_items,
            cancellations_ms=self.cancellations_days * DAY_MS,
            gaps_ms=self.gaps_days * DAY_MS,
            replays_ms=self.replays_days * DAY_MS,
            aside_ms=self.aside_days * DAY_MS,
        )


class StopSettings(Section):
    """How a process ends that is told to (SIGTERM). Seconds."""

    grace: float = Field(default=20.0, ge=0, description="what is under way may take so long; then it is left")
    drain: float = Field(default=2.0, ge=0, description="how long the API sends clients away first; a part of `grace`")

    @property
    def kill_after(self) -> float:
        """Whoever supervises the process kills it when it has not ended by then."""
        return self.grace + 5.0


class Telemetry(Section):
    """Logs."""

    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field(default="json", pattern="^(json|text)$")
    whole_messages: bool = Field(
        default=False, description="log the messages of unforeseen exceptions, which may hold what people are told"
    )


def url_of(host: str, port: int) -> str:
    """The HTTP URL of what listens on `host` and `port`, from this machine."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - a name to replace
    name = everywhere.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

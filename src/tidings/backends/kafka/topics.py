"""Creates topics as Tidings needs them. Corrects existing ones, or refuses them with the command to run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    PartitionMetadata,
)

from tidings.backends.kafka.settings import MOST_ITEM_BYTES, KafkaSettings
from tidings.model.errors import SettingsError, Unavailable

_CALL_WITHIN_S = 15.0
"""The most seconds for one request."""
_KNOWN_WITHIN_S = 5.0
"""The most seconds until every broker lists a new topic."""
_PAUSE_S = 0.05
_SEGMENT_BYTES = 128 * 1024 * 1024
"""Smaller than the default, because Kafka deletes only whole segments."""
_AT_LEAST = {"min.insync.replicas", "max.message.bytes"}
"""Settings for which a larger value is fine."""
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
}
_WRONG = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.TOPIC_EXCEPTION,
}
_log = structlog.get_logger("tidings.kafka")


def needed(settings: KafkaSettings) -> dict[str, str]:
    """The settings that every topic must have: only `Administration.trim` deletes items, once all groups did them."""
    return {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MOST_ITEM_BYTES),
        "min.insync.replicas": str(settings.min_insync),
        "retention.bytes": "-1",
        "retention.ms": "-1",
        "unclean.leader.election.enable": "false",
    }


def ensure(admin: AdminClient, settings: KafkaSettings, topics: Iterable[str]) -> None:
    """Create missing topics and correct the settings of the others (blocks).

    Partitions are never added: keys would move to other partitions, and their items would lose their order.

    Raises:
        SettingsError: a topic cannot be used as it is, or this client may not correct it. The text says what to run.
        Unavailable: Kafka does not answer.
    """
    names = [settings.topic(topic) for topic in topics]
    try:
        replicas: dict[str, int] = {}
        for name, partitions in _existing(admin, settings, names).items():
            replicas[name] = min(len(found.replicas) for found in partitions.values())
            _judge(settings, name, len(partitions), replicas[name])
        if replicas:
            _set_right(admin, settings, replicas)
    except (KafkaException, TimeoutError) as error:
        raise Unavailable(f"Kafka did not make the topics ready: {error}") from error


def _existing(
    admin: AdminClient, settings: KafkaSettings, names: list[str]
) -> Mapping[str, Mapping[int, PartitionMetadata]]:
    """Create the topics that are missing; the partitions of the others, by topic and number."""
    existing: dict[str, Mapping[int, PartitionMetadata]] = {}
    deadline = time.monotonic() + _KNOWN_WITHIN_S
    while True:
        listed = admin.list_topics(timeout=_CALL_WITHIN_S).topics
        existing |= {name: listed[name].partitions for name in names if name in listed and listed[name].partitions}
        # A topic may exist although the asked broker does not list it, or lists it without partitions: it is new.
        names = _create(admin, settings, [name for name in names if name not in existing])
        if not names:
            return existing
        if time.monotonic() > deadline:
            raise Unavailable(f"Kafka says that these topics exist, but does not list them: {', '.join(names)}")
        time.sleep(_PAUSE_S)


def _create(admin: AdminClient, settings: KafkaSettings, names: list[str]) -> list[str]:
    """Create topics; the names of those that exist already."""
    existing: list[str] = []
    if not names:
        return existing
    config = needed(settings) | {"segment.bytes": str(_SEGMENT_BYTES)}
    wanted = [
        NewTopic(name, num_partitions=settings.partitions, replication_factor=settings.replication, config=config)
        for name in names
    ]
    for name, created in admin.create_topics(wanted, request_timeout=_CALL_WITHIN_S).items():
        error = _error_of(created.exception(_CALL_WITHIN_S))
        if error is None:
            continue
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            existing.append(name)
        elif error.code() in _FORBIDDEN | _WRONG:
            raise SettingsError(f"Kafka refuses to create the topic {name}: {error.str()}\n{_by_hand(settings, name)}")
        else:
            raise KafkaException(error)
    return existing


def _judge(settings: KafkaSettings, name: str, partitions: int, replicas: int) -> None:
    """Check an existing topic: raises for too few replicas, and logs a warning for too few partitions."""
    if replicas < settings.replication:
        raise SettingsError(
            f"the topic {name} has {replicas} replicas, fewer than queue.replication = {settings.replication}: add "
            f"some with kafka-reassign-partitions.sh, or set queue.replication = {replicas}"
        )
    if partitions < settings.partitions:
        _log.warning(
            "a topic has fewer partitions than queue.partitions; it is left so, because keys would move: stop every "
            "process when nothing waits, then run the command",
            topic=name, partitions=partitions, wanted=settings.partitions,
            command=f"kafka-topics.sh --bootstrap-server {settings.brokers} --alter --topic {name} "
            f"--partitions {settings.partitions}",
        )  # fmt: skip


def _set_right(admin: AdminClient, settings: KafkaSettings, replicas: Mapping[str, int]) -> None:
    """Correct the settings of these topics. `replicas` is the number of replicas of each."""
    changes: list[ConfigResource] = []
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in replicas]
    for resource, answer in admin.describe_configs(asked, request_timeout=_CALL_WITHIN_S).items():
        try:
            entries = answer.result(_CALL_WITHIN_S)
        except KafkaException as error:
            if error.args[0].code() not in _FORBIDDEN:
                raise
            _log.warning(
                "this client may not read a topic's configuration; see to it that it is as needed",
                topic=resource.name, needed=needed(settings),
            )  # fmt: skip
            continue
        if wrong := _wrong(settings, entries, replicas[resource.name]):
            edits = [
                ConfigEntry(key, right, incremental_operation=AlterConfigOpType.SET) for key, right in wrong.items()
            ]
            changes.append(ConfigResource(ConfigResource.Type.TOPIC, resource.name, incremental_configs=edits))
            found = {key: entries[key].value for key in wrong if key in entries}
            _log.warning("a topic is not as needed, and is set right", topic=resource.name, found=found, needed=wrong)
    if not changes:
        return
    for resource, answer in admin.incremental_alter_configs(changes, request_timeout=_CALL_WITHIN_S).items():
        refusal = _error_of(answer.exception(_CALL_WITHIN_S))
        if refusal is None:
            continue
        if refusal.code() in _FORBIDDEN | _WRONG:
            raise SettingsError(
                f"the topic {resource.name} is not as needed, and Kafka refuses to change it: {refusal.str()}\n"
                f"{_alter(settings, resource.name)}"
            )
        raise KafkaException(refusal)


def _wrong(settings: KafkaSettings, entries: Mapping[str, ConfigEntry], replicas: int) -> dict[str, str]:
    """The wrong settings of a topic, with the right values."""
    most = {"min.insync.replicas": replicas}  # with more than the topic has, no item can be put
    wrong = {}
    for key, value in needed(settings).items():
        found = entries[key].value if key in entries else None
        if found is not None and key in _AT_LEAST:
            fine = int(value) <= int(found) <= most.get(key, int(found))
        else:
            fine = found == value
        if not fine:
            wrong[key] = value
    return wrong


def _by_hand(settings: KafkaSettings, name: str) -> str:
    config = " ".join(f"--config {key}={value}" for key, value in needed(settings).items())
    return (
        f"Check queue.replication and queue.partitions, or let somebody who may create it run: kafka-topics.sh "
        f"--bootstrap-server {settings.brokers} --create --topic {name} --partitions {settings.partitions} "
        f"--replication-factor {settings.replication} {config}"
    )


def _alter(settings: KafkaSettings, name: str) -> str:
    config = ",".join(f"{key}={value}" for key, value in needed(settings).items())
    return (
        f"Let somebody who may change it run: kafka-configs.sh --bootstrap-server {settings.brokers} --alter "
        f"--topic {name} --add-config {config}"
    )


def _error_of(problem: BaseException | None) -> KafkaError | None:
    if problem is None:
        return None
    if isinstance(problem, KafkaException):
        error = problem.args[0]
        if isinstance(error, KafkaError):
            return error
    raise problem

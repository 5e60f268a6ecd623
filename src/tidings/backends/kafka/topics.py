"""The topics: made as Tidings needs them, and, where they exist, brought to that or refused with what to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from tidings.backends.kafka.settings import LARGEST_ITEM, KafkaSettings
from tidings.model.errors import SettingsError, Unavailable

_CALL = 15.0
"""Seconds that one request may take."""
_SEGMENT_BYTES = 128 * 1024 * 1024
"""Kafka deletes whole segments."""
_AT_LEAST = {"min.insync.replicas", "max.message.bytes"}
"""Where more than what is needed is fine."""
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
    """What every topic must be set to: nothing is deleted from it but what every group has done, by `trim`."""
    return {
        "cleanup.policy": "delete",
        "max.message.bytes": str(LARGEST_ITEM),
        "min.insync.replicas": str(settings.min_insync),
        "retention.bytes": "-1",
        "retention.ms": "-1",
        "unclean.leader.election.enable": "false",
    }


def ensure(admin: AdminClient, settings: KafkaSettings, topics: Iterable[str]) -> None:
    """Create the topics that are missing, and set right what can be set in the others (blocks).

    Partitions are never added: keys would move, and with them the order of their items.

    Raises:
        SettingsError: a topic cannot serve as it is, or this client may not set it right; the text says what to run.
        Unavailable: Kafka does not answer.
    """
    names = [settings.topic(topic) for topic in topics]
    try:
        known = admin.list_topics(timeout=_CALL).topics
        _create(admin, settings, [name for name in names if name not in known])
        replicas: dict[str, int] = {}
        for name in [name for name in names if name in known]:
            if partitions := known[name].partitions:  # none: another process is just creating it
                replicas[name] = min(len(found.replicas) for found in partitions.values())
                _judge(settings, name, len(partitions), replicas[name])
        if replicas:
            _set_right(admin, settings, replicas)
    except (KafkaException, TimeoutError) as error:
        raise Unavailable(f"Kafka did not make the topics ready: {error}") from error


def _create(admin: AdminClient, settings: KafkaSettings, names: list[str]) -> None:
    if not names:
        return
    config = needed(settings) | {"segment.bytes": str(_SEGMENT_BYTES)}
    wanted = [
        NewTopic(name, num_partitions=settings.partitions, replication_factor=settings.replication, config=config)
        for name in names
    ]
    for name, created in admin.create_topics(wanted, request_timeout=_CALL).items():
        error = _error_of(created.exception(_CALL))
        if error is None or error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            continue
        if error.code() in _FORBIDDEN | _WRONG:
            raise SettingsError(f"Kafka refuses to create the topic {name}: {error.str()}\n{_by_hand(settings, name)}")
        raise KafkaException(error)


def _judge(settings: KafkaSettings, name: str, partitions: int, replicas: int) -> None:
    """A topic that exists: is it large and safe enough?"""
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
    """Change what is not as needed in these topics, of so many replicas each."""
    changes: list[ConfigResource] = []
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in replicas]
    for resource, answer in admin.describe_configs(asked, request_timeout=_CALL).items():
        try:
            entries = answer.result(_CALL)
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
    for resource, answer in admin.incremental_alter_configs(changes, request_timeout=_CALL).items():
        refusal = _error_of(answer.exception(_CALL))
        if refusal is None:
            continue
        if refusal.code() in _FORBIDDEN | _WRONG:
            raise SettingsError(
                f"the topic {resource.name} is not as needed, and Kafka refuses to change it: {refusal.str()}\n"
                f"{_alter(settings, resource.name)}"
            )
        raise KafkaException(refusal)


def _wrong(settings: KafkaSettings, entries: Mapping[str, ConfigEntry], replicas: int) -> dict[str, str]:
    """What is not as needed, with the right values."""
    most = {"min.insync.replicas": replicas}  # with more than there are, nothing can be put at all
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

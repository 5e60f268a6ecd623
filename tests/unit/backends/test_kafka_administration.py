"""Questions to Kafka about offsets, while leaders and coordinators move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from tidings.backends.kafka.administration import Administration
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import Unavailable
from tidings.ports.queue import Extent

FOUND = Extent((3,), (1,))


@pytest.fixture
def administration() -> Administration:
    return Administration(KafkaSettings(brokers="127.0.0.1:1"))


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # a broker that does not know the new topic yet
        KafkaError.UNKNOWN_LEADER_EPOCH,  # or not yet who leads it
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError._NOENT,  # no broker says who leads the partition
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ],
)
def test_a_question_is_repeated_while_a_leader_or_coordinator_moves(
    administration: Administration, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    answers: Iterator[KafkaException | Extent] = iter(
        [KafkaException(KafkaError(code)), KafkaException(KafkaError(code)), FOUND]
    )

    def ask(*_: str) -> Extent:
        answer = next(answers)
        if isinstance(answer, KafkaException):
            raise answer
        return answer

    monkeypatch.setattr(administration, "_extent", ask)
    assert administration.extent("requests.normal", "route") == FOUND


def test_another_error_ends_the_question_at_once(
    administration: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(topic: str, _: str) -> Extent:
        asked.append(topic)
        raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    monkeypatch.setattr(administration, "_extent", ask)
    with pytest.raises(Unavailable, match=r"a question about requests\.normal"):
        administration.extent("requests.normal", "route")
    assert len(asked) == 1

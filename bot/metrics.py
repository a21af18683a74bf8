"""What is counted for Prometheus: how much is said, how fast, and what goes wrong.

No metric holds what a person said, who they are or a token: labels are platforms, ends, kinds of
votes and alarms, names of this program's modules and of adapter versions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from persona.reply import Outcome
from persona.service import InferenceService

CONTENT_TYPE = CONTENT_TYPE_LATEST

End = Literal["done", "failed", "cancelled", "late", "refused"]
"""How a turn ended: `late` met its deadline, `refused` found the queue full and was not begun."""

_FIRST_TOKEN = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0, 120.0)
_TURN = (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 60.0, 120.0)
_VOTES = {
    "rated_good": "good",
    "rated_bad": "bad",
    "rated_correction": "correction",
    "correction_waits": "correction",
    "rating_cancelled": "taken back",
}
"""Of what a person is told of their rating, the kind of vote that it was."""


class Metrics:
    """Counts from the start of the process on. `page` is all of it as Prometheus reads it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._turns = Counter(
            "daiyu_turns", "Turns, by how they ended", ["platform", "end"], registry=self._registry
        )
        self._tokens = Counter(
            "daiyu_tokens", "Tokens of prompts and of spoken replies", ["of"],
            registry=self._registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "daiyu_first_token_seconds", "Time from asking the engine to its first token",
            buckets=_FIRST_TOKEN, registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "daiyu_turn_seconds", "Time from writing a message down to the end of its reply",
            buckets=_TURN, registry=self._registry,
        )  # fmt: skip
        self._guarded = Counter(
            "daiyu_guard_hits", "Replies that the guard spoke instead, by alarm", ["alarm"],
            registry=self._registry,
        )  # fmt: skip
        self._votes = Counter(
            "daiyu_votes", "Votes cast, replaced and taken back ones too", ["kind"],
            registry=self._registry,
        )  # fmt: skip
        self._errors = Counter(
            "daiyu_errors", "Errors in the log, by the module that tells them", ["module"],
            registry=self._registry,
        )  # fmt: skip
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def turn(self, platform: str, end: End, outcome: Outcome, seconds: float) -> None:
        """A turn that was begun has ended."""
        self._turns.labels(platform, end).inc()
        self._tokens.labels("prompt").inc(outcome.prompt_tokens)
        self._tokens.labels("reply").inc(outcome.reply_tokens)
        self._seconds.observe(seconds)
        if outcome.first_token is not None:
            self._first_token.observe(outcome.first_token)
        if outcome.guarded is not None:
            self._guarded.labels(outcome.guarded.value).inc()

    def turned_away(self, platform: str, end: Literal["late", "refused"]) -> None:
        """A message was not begun."""
        self._turns.labels(platform, end).inc()

    def vote(self, told: str) -> None:
        """A person was told so of what they said about a reply; `told` is a key of bot/texts."""
        if kind := _VOTES.get(told):
            self._votes.labels(kind).inc()

    def follow(self, service: InferenceService) -> None:
        """Tells of a service whenever the page is read."""
        self._registry.register(_Serving(service))

    def gauge(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Tells a value whenever the page is read."""
        self._registry.register(_Gauge(name, told, value))

    @contextmanager
    def counting_errors(self) -> Iterator[None]:
        """Counts what is logged as an error meanwhile."""
        handler = _ErrorHandler(self._errors)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)


class _ErrorHandler(logging.Handler):
    def __init__(self, errors: Counter) -> None:
        super().__init__(logging.ERROR)
        self._counter = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._counter.labels(record.name).inc()


class _Gauge(Collector):
    def __init__(self, name: str, told: str, value: Callable[[], float]) -> None:
        self._name = name
        self._told = told
        self._value = value

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._told, self._value())


class _Serving(Collector):
    """The service's own figures, and which versions answer."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        stats = self._service.stats()
        yield GaugeMetricFamily("daiyu_queue_length", "Turns that wait", stats.waiting)
        yield GaugeMetricFamily("daiyu_turns_running", "Turns being answered", stats.running)
        yield GaugeMetricFamily(
            "daiyu_tokens_per_second",
            "Of one reply, the median of the last hundred",
            stats.tokens_per_second,
        )
        version = InfoMetricFamily(
            "daiyu_adapter", "The adapter versions that answer", labels=["role"]
        )
        serving = {"serving": self._service.version, "trial": self._service.trial_version}
        for role, name in serving.items():
            if name is not None:
                version.add_metric([role], {"version": name, "engine": stats.engine.name})
        yield version

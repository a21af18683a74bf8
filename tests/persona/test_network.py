"""Probes: whether an address answers is known in time, whatever the network does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import serving

from persona import network
from persona.child import Stopped
from persona.network import Growth, Probe, SourceError


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_answers_is_there() -> None:
    with serving({}) as server:
        assert Probe(server.url).answered()
        assert Probe(f"{server.url}/a/path", seconds=5).answered()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_answers_is_given_up_in_time(silent: int, scheme: str) -> None:
    begun = time.monotonic()
    probes = [Probe(f"{scheme}://127.0.0.1:{silent}/simple", seconds=0.5) for _ in range(5)]
    assert not any(probe.answered() for probe in probes)
    assert time.monotonic() - begun < 1.5  # all in one time


def test_a_closed_port_is_known_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    assert not Probe(f"http://127.0.0.1:{port}", seconds=30).answered()
    assert time.monotonic() - begun < 5


def test_a_name_that_is_looked_up_for_long_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = threading.Event()
    monkeypatch.setattr(network, "_answers", lambda *_: free.wait(30))
    begun = time.monotonic()
    assert not Probe("https://slow.example", seconds=0.2).answered()
    assert time.monotonic() - begun < 1
    free.set()


def test_waiting_for_an_answer_can_be_stopped(silent: int) -> None:
    stopped = threading.Event()
    probe = Probe(f"http://127.0.0.1:{silent}", seconds=20)
    threading.Timer(0.1, stopped.set).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        probe.answered(stopped)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "address", ["http://", "http://a:port", "https://" + "a" * 300, "nonsense"]
)
def test_what_is_no_address_does_not_answer(address: str) -> None:
    assert not Probe(address, seconds=2).answered()


def test_behind_a_proxy_the_proxy_is_asked(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = "https://192.0.2.1/simple"
    with serving({}) as proxy:
        assert Probe(beyond, proxy=proxy.url).answered()
        monkeypatch.setenv("https_proxy", proxy.url)
        assert Probe(beyond).answered()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent}")
        assert not Probe(beyond, seconds=0.3).answered()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert Probe(proxy.url).answered()


def test_an_address_is_shown_without_its_password() -> None:
    assert str(Probe("http://me:secret@127.0.0.1:9/simple", seconds=0)) == "http://127.0.0.1:9"


def test_a_folder_that_no_longer_grows_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "STALL_SECONDS", 0.2)
    told: list[int] = []
    growth = Growth(tmp_path, told.append)
    for size in range(4):
        (tmp_path / "file").write_bytes(bytes(size))
        growth()
        time.sleep(0.1)
    assert told == [0, 1, 2, 3]
    time.sleep(0.2)
    with pytest.raises(SourceError, match="no byte has come"):
        growth()

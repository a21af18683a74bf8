"""A first start that is stopped while the model is fetched ends at once, and cleanly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from talking import REPO


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_first_start(tmp_path: Path, number: int, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a call and never says a word
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        process = subprocess.Popen(
            [sys.executable, "-m", "bot"], cwd=REPO, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # What runs in a shell's background is begun with this signal ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            env=kept | {
                "DAIYU_MODEL__ENGINE": "openvino",
                "DAIYU_MODEL__BASE": "owner/model",
                "DAIYU_MODEL__SOURCES": '["modelscope"]',
                "DAIYU_PATHS__VAR": str(tmp_path),
                "MODELSCOPE_ENDPOINT": address,
            },
        )  # fmt: skip
        try:
            silent.settimeout(20)
            connection, _ = silent.accept()  # now it waits for the hub's answer
            with connection:
                begun = time.monotonic()
                process.send_signal(number)
                _, told = process.communicate(timeout=20)
                assert time.monotonic() - begun < 10  # the hub would keep it for minutes
        finally:
            process.kill()
            process.communicate()
    assert (process.returncode, told) == (code, b"")

"""Two processes that train together, played by two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.train import Evaluation, Step, Trainer


class Beside:
    """One of the two: what accelerate's reduce does, by hand."""

    device = torch.device("cpu")
    num_processes = 2

    def __init__(self, process_index: int, meeting: threading.Barrier, board: dict[int, Tensor]):
        self.process_index = process_index
        self.meeting, self._board = meeting, board

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        self._board[self.process_index] = tensor
        self.meeting.wait(30)
        total = self._board[0] + self._board[1]
        self.meeting.wait(30)
        return total


def two_of(made: Callable[[Any], Trainer]) -> list[Trainer]:
    """What `made` gives for each of two processes."""
    meeting, board = threading.Barrier(2), dict[int, Tensor]()
    return [made(Beside(index, meeting, board)) for index in range(2)]


def run_together(both: Sequence[Trainer]) -> dict[int, list[Step | Evaluation]]:
    """Runs both to their end; what happened in each."""
    found: dict[int, list[Step | Evaluation]] = {}

    def work(index: int) -> None:
        try:
            found[index] = list(both[index].run())
        except BaseException:
            beside: Any = both[index]._accelerator
            beside.meeting.abort()
            raise

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found

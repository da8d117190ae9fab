"""A rank's process that is given one model after the other. It imports little: it starts often."""

import pickle
from pathlib import Path

import numpy as np

from nimlite.parallel.cpu import follower
from nimlite.parallel.process_ranks import ProcessRanks
from nimlite.parallel.team import Follower

LOAD = 2


class ManyModels:
    """A follower that makes another one of each part that it is told of."""

    def __init__(self, ranks: ProcessRanks) -> None:
        self._ranks = ranks
        self._follower: Follower

    def take(self, message: np.ndarray) -> None:
        if int(message[0]) == LOAD:
            part = pickle.loads(Path(bytes(message[1:].astype(np.uint8)).decode()).read_bytes())
            self._follower = follower(part, True, self._ranks)
        else:
            self._follower.take(message)

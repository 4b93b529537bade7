"""A generator of its own for everything that is drawn, so that nothing depends on what else was drawn before."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What numbers are drawn for."""

    GENES = 0
    PROGRAMS = 1
    LINEAGE_ACTIVITIES = 2
    TYPE_ACTIVITIES = 3
    LINEAGE_MARKERS = 4
    TYPE_MARKERS = 5
    REGULATORS = 6
    PERTURBATIONS = 7
    COMPOSITION = 8
    BATCHES = 9
    DONORS = 10
    CELLS = 11
    DROPLETS = 12
    COUNTS = 13
    LARGE_COUNTS = 14
    CONTEXTS = 15


def generator(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """Return the generator of a stream.

    Parameters
    ----------
    seed
        Of the world or of the data set.
    stream
        What it is for.
    index
        Which one of these: a type, a batch, a tile of cells.
    """
    words = np.random.SeedSequence([seed, int(stream), *index])
    return np.random.Generator(np.random.SFC64(words))

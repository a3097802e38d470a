"""The oracle: slow, obvious Python that says what is right.

Written from the specification alone. It shares no code with the product: of ``transforms`` it reads nothing but the
definitions that a user writes (names, fields, windows, parameters), and computes every value with plain loops over plain
dicts, exact fractions and ``math``.

* :func:`rows` the feature rows of a group over a range of boundaries;
* :func:`point_in_time_join` the brute-force join of a spine with feature rows;
* :func:`newest` what an online store must hold;
* :mod:`tests.oracle.stream_time` how far event time is in a partition, and what comes too late;
* :mod:`tests.oracle.compare` bit-for-bit comparison with Arrow batches;
* :mod:`tests.oracle.strategies` Hypothesis strategies for groups, events and the ways to split them.
"""

from tests.oracle.features import rows
from tests.oracle.joins import newest, point_in_time_join

__all__ = ["newest", "point_in_time_join", "rows"]

"""Which row of a key is written, and whether a store forgot: what is chosen before values are encoded; what a server's life is called."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import redis
from hypothesis import given
from hypothesis import strategies as st

from serving.online_store.order import Rows, ends_of_runs, greatest
from serving.online_store.redis_link import life_of
from tests.redis_server import redis_server

rows = st.lists(st.tuples(st.sampled_from(["a", "b", "ab"]), st.integers(0, 3), st.integers(0, 2)), max_size=20)


@given(rows)
def test_the_greatest_row_of_each_key_is_at_the_end_of_a_run(some: list[tuple[str, int, int]]) -> None:
    """In whatever order rows come, choosing among the ends of runs chooses what choosing among all does."""
    key = pa.array([k for k, _, _ in some], pa.string())
    event_us, revision = (np.array([row[n] for row in some], np.int64) for n in (1, 2))
    all_of_them = Rows(key.cast(pa.binary()), event_us, revision, pa.array([""] * len(some), pa.string()), [])
    ends = ends_of_runs([key], event_us)
    chosen = ends[greatest(all_of_them.take(ends))]
    best: dict[str, int] = {}
    for place, (k, at, rev) in enumerate(some):
        if k not in best or (at, rev) > some[best[k]][1:]:
            best[k] = place
    assert chosen.tolist() == sorted(best.values())


def test_of_rows_in_order_of_keys_and_times_one_for_each_key_is_left() -> None:
    """So that nothing of the others is encoded; two columns of keys are one key."""
    one, other = pa.array(["a", "a", "a", "b", "b"]), pa.array([1, 1, 2, 2, 2])
    assert ends_of_runs([one, other], np.array([5, 6, 1, 1, 2])).tolist() == [1, 2, 4]
    assert ends_of_runs([one.slice(0, 0), other.slice(0, 0)], np.zeros(0, np.int64)).tolist() == []


def test_a_servers_life_is_what_redis_py_reads_and_a_restart_ends_it() -> None:
    """And nothing is said where the user may not ask."""
    with redis_server() as server:
        client = redis.Redis(port=server.port)
        told = client.info("server")["run_id"], client.info("replication")["master_replid"]
        assert life_of(client) == ["/".join(told)]
        client.acl_setuser("few", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
        assert life_of(redis.Redis(port=server.port, username="few", password="any")) == []
        server.kill()
        server.start()
        assert life_of(client) not in ([], ["/".join(told)])

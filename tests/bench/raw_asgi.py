"""``python -m tests.bench.raw_asgi PORT REDIS_PORT``: the least that answers: an ASGI function, one MGET of packed rows, orjson; no checks,
no limits, no statuses, no log, no metrics. What uvicorn, Redis and the size of the answer allow."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import orjson

from tests.bench import shop


def app_of(packed: shop.Packed) -> Any:
    """The application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        entities = orjson.loads(body)["entities"]
        n, present = len(entities["seller"]), ["PRESENT"] * len(entities["seller"])
        given = [{"values": v, "statuses": present, "event_timestamps": [shop.EPOCH] * n, "ages": [None] * n} for v in entities.values()]
        results: list[Any] = given
        for rows in packed.read(entities).values():
            stamps = np.char.add(np.datetime_as_string(rows["at"].view("datetime64[us]")), "Z").tolist()
            ages = ((shop.NOW_US - rows["at"]) / 1e6).tolist()
            for part in ("f", "n", "s"):
                for column in rows[part].T:
                    values = [t.decode() for t in column.tolist()] if part == "s" else column.tolist()
                    results.append({"values": values, "statuses": present, "event_timestamps": stamps, "ages": ages})
        answer = orjson.dumps({"metadata": {"feature_names": []}, "results": results})
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    import redis
    import uvicorn

    port, redis_port = int(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(
        app_of(shop.Packed(redis.Redis(port=redis_port, db=2), shop.packed_types())),
        port=port,
        log_level="error",
        access_log=False,
        lifespan="off",
    )

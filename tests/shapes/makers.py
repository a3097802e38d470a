"""One maker per shape: ``make(folder, rows)`` writes event files into ``folder`` and says what they are made of.

The rows follow from a seed alone. Each shape keeps the names, types, units and quirks that its public model has.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["SHAPES", "Shape", "payloads"]

START = datetime(2024, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shape:
    """A shape of data. ``rows`` is how many records its files hold."""

    name: str
    make: Callable[[Path, int], None]
    suffix: str
    note: str

    def write(self, folder: Path, rows: int = 2_000) -> Path:
        """Write its files; returns ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.make(folder, rows)
        return folder


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def _seconds(rng: np.random.Generator, rows: int, days: int = 3, disorder: float = 20.0) -> np.ndarray[Any, Any]:
    """Seconds since START, nearly in order: some come later than they happened."""
    times = np.sort(rng.integers(0, days * 86_400, rows))
    late = np.where(rng.random(rows) < 0.1, rng.exponential(disorder, rows), 0).astype(int)
    return times[np.argsort(times + late, kind="stable")]


def _lines(path: Path, records: list[dict[str, Any]], packed: bool = False) -> None:
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if packed else text)


def nyc_taxi(folder: Path, rows: int) -> None:
    """NYC's yellow taxis: names in mixed case, local times without a zone, counts as doubles with nulls."""
    rng = _rng("taxi")
    start = _seconds(rng, rows)
    pickup = np.datetime64("2024-03-01T00:00:00", "us") + start.astype("timedelta64[s]")
    known = rng.random(rows) > 0.05
    fare = np.round(rng.gamma(3, 6, rows), 2)
    table = pa.table({
        "VendorID": pa.array(rng.choice([1, 2], rows).astype(np.int32)),
        "tpep_pickup_datetime": pa.array(pickup, pa.timestamp("us")),
        "tpep_dropoff_datetime": pa.array(pickup + rng.integers(60, 3_600, rows).astype("timedelta64[s]"), pa.timestamp("us")),
        "passenger_count": pa.array(rng.integers(0, 7, rows).astype(float), mask=~known),
        "trip_distance": np.round(rng.gamma(2, 1.5, rows), 2),
        "RatecodeID": pa.array(rng.choice([1.0, 2.0, 5.0, 99.0], rows, p=[0.9, 0.05, 0.04, 0.01]), mask=~known),
        "store_and_fwd_flag": pa.array(rng.choice(["N", "Y"], rows, p=[0.99, 0.01]), mask=~known),
        "PULocationID": pa.array(rng.integers(1, 264, rows).astype(np.int32)),
        "DOLocationID": pa.array(rng.integers(1, 264, rows).astype(np.int32)),
        "payment_type": pa.array(rng.choice([1, 2, 3, 4], rows)),
        "fare_amount": fare,
        "total_amount": np.round(fare * 1.2 + 1, 2),
        "Airport_fee": pa.array(rng.choice([0.0, 1.75], rows), mask=~known),
    })  # fmt: skip
    half = rows // 2
    pq.write_table(table.slice(0, half), folder / "yellow_tripdata_2024-03.parquet", row_group_size=500)
    odd = table.slice(half).set_column(0, "VendorID", table["VendorID"].slice(half).cast(pa.int64()))  # types changed between months
    pq.write_table(odd, folder / "yellow_tripdata_2024-04.parquet", row_group_size=500)


def ieee_cis(folder: Path, rows: int) -> None:
    """IEEE-CIS fraud: 400 columns, most of them null mostly; the time is seconds since a day that is not told."""
    rng = _rng("ieee")
    seconds = np.sort(rng.integers(86_400, 86_400 * 4, rows))
    names = [
        "TransactionID",
        "isFraud",
        "TransactionDT",
        "TransactionAmt",
        "ProductCD",
        "card1",
        "card4",
        "card6",
        "addr1",
        "P_emaildomain",
    ]
    columns: list[list[str]] = [
        [str(2_987_000 + i) for i in range(rows)],
        [str(v) for v in (rng.random(rows) < 0.035).astype(int)],
        [str(v) for v in seconds],
        [f"{v:.3f}".rstrip("0").rstrip(".") for v in rng.gamma(2, 60, rows)],
        rng.choice(list("WCRHS"), rows).tolist(),
        [str(v) for v in rng.integers(1_000, 18_000, rows)],
        rng.choice(["visa", "mastercard", "discover", ""], rows).tolist(),
        rng.choice(["debit", "credit"], rows).tolist(),
        [f"{v}.0" if known else "" for v, known in zip(rng.integers(100, 540, rows), rng.random(rows) > 0.1, strict=True)],
        rng.choice(["gmail.com", "yahoo.com", ""], rows).tolist(),
    ]  # fmt: skip
    for prefix, count, share in (("C", 14, 1.0), ("D", 15, 0.5), ("M", 9, 0.5), ("V", 339, 0.15)):
        for i in range(1, count + 1):
            names.append(f"{prefix}{i}")
            known = rng.random(rows) < share
            values = rng.choice(["T", "F"], rows) if prefix == "M" else [f"{v}.0" for v in rng.integers(0, 300, rows)]
            columns.append([str(v) if k else "" for v, k in zip(values, known, strict=True)])
    body = "\n".join(",".join(row) for row in zip(*columns, strict=True))
    (folder / "train_transaction.csv").write_text(f"{','.join(names)}\n{body}\n", "utf-8")


def criteo(folder: Path, rows: int) -> None:
    """Criteo's display advertising: no header, tabs, 13 integers and 26 hashed words, many missing; with a time and a user."""
    rng = _rng("criteo")
    seconds = np.sort(rng.integers(0, 3 * 86_400, rows)) + int(START.timestamp())
    words = [[f"{h:08x}" for h in rng.integers(0, 2**32, 12)] for _ in range(26)]
    with gzip.open(folder / "day_0.tsv.gz", "wt", encoding="utf-8") as out:
        for i in range(rows):
            ints = ["" if rng.random() < 0.3 else str(int(v)) for v in rng.integers(-2, 5_000, 13)]
            cats = ["" if rng.random() < 0.1 else w[int(rng.integers(12))] for w in words]
            out.write("\t".join([str(seconds[i]), str(int(rng.integers(0, 200))), str(int(rng.random() < 0.1)), *ints, *cats]) + "\n")


def iot(folder: Path, rows: int) -> None:
    """Sensors: epoch milliseconds, an int64 device, readings that may be missing, an upper-case state."""
    rng = _rng("iot")
    ms = (int(START.timestamp()) + _seconds(rng, rows, disorder=90.0)) * 1_000 + rng.integers(0, 1_000, rows)
    records = []
    for i in range(rows):
        one = {
            "deviceId": int(9_007_199_254_740_993 + rng.integers(0, 40)), "ts": int(ms[i]), "seq": i,
            "temp": round(float(rng.normal(20, 4)), 2), "state": ["OK", "WARN", "FAIL"][int(rng.integers(0, 3))],
            "battery": int(rng.integers(0, 101)),
        }  # fmt: skip
        if rng.random() < 0.1:
            del one["temp"]
        records.append(one)
    _lines(folder / "readings.ndjson.gz", records, packed=True)


def clicks(folder: Path, rows: int) -> None:
    """A web shop's clicks: camelCase, a user as an object, RFC 3339, tags as a list, two kinds of events in one log."""
    rng = _rng("clicks")
    seconds = _seconds(rng, rows)
    records = []
    for i in range(rows):
        at = START + timedelta(seconds=int(seconds[i]), milliseconds=int(rng.integers(0, 1_000)))
        one: dict[str, Any] = {
            "eventId": f"{rng.integers(0, 2**63):016x}", "eventTime": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "eventType": ["pageView", "addToCart"][int(rng.random() < 0.2)],
            "user": {"id": f"u{int(rng.integers(0, 60))}", "isMember": bool(rng.random() < 0.3)},
            "pageUrl": f"/p/{int(rng.integers(0, 30))}",
            "durationMs": int(rng.integers(1, 60_000)), "tags": ["a", "b"][: int(rng.integers(0, 3))],
        }  # fmt: skip
        if one["eventType"] == "addToCart":
            one["quantity"] = int(rng.integers(1, 5))
        records.append(one)
    _lines(folder / "clicks.jsonl", records)


def orders(folder: Path, rows: int) -> None:
    """Orders with their items nested, and money as decimal text: cents must not be lost."""
    rng = _rng("orders")
    seconds = _seconds(rng, rows)
    records = []
    for i in range(rows):
        items: list[dict[str, Any]] = [
            {
                "sku": f"S{int(rng.integers(0, 25)):03d}",
                "quantity": int(rng.integers(1, 4)),
                "unitPrice": f"{int(rng.integers(99, 20_000)) / 100:.2f}",
            }
            for _ in range(int(rng.integers(1, 4)))
        ]
        total = sum((Decimal(x["unitPrice"]) * x["quantity"] for x in items), Decimal(0))
        records.append({
            "orderId": f"O-{i:06d}", "customer": {"id": int(rng.integers(1, 80)),
             "country": ["DE", "FR", "IT"][int(rng.integers(0, 3))]},
            "orderedAt": (START + timedelta(seconds=int(seconds[i]))).isoformat(), "total": f"{total:.2f}",
            "currency": "EUR", "items": items,
        })  # fmt: skip
    _lines(folder / "orders.jsonl", records)


def local_times(folder: Path, rows: int) -> None:
    """Local times of Paris over both changes of daylight saving: an hour that is there twice, and one that is not there."""
    rng = _rng("local")
    zone = ZoneInfo("Europe/Paris")
    out = ["messzeit;zaehler;wert;status"]
    for i, change in enumerate((datetime(2024, 3, 31, tzinfo=UTC), datetime(2024, 10, 27, tzinfo=UTC))):
        seconds = np.sort(rng.integers(-43_200, 43_200, rows // 2))
        for s in seconds:
            at = (change + timedelta(seconds=int(s))).astimezone(zone)
            value = f"{rng.normal(1_500, 300):.2f}".replace(".", ",")
            out.append(f"{at:%d.%m.%Y %H:%M:%S};Z-{int(rng.integers(0, 20)):02d};{value};{'gültig' if i else 'geschätzt'}")
    body = "\r\n".join(out) + "\r\n"
    (folder / "zaehler.csv").write_bytes(body.encode("latin-1"))


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("nyc_taxi", nyc_taxi, ".parquet", "local naive times of New York, mixed-case names"),
        Shape("ieee_cis", ieee_cis, ".csv", "398 columns, seconds since an unknown day"),
        Shape("criteo", criteo, ".tsv", "no header, tabs, epoch seconds"),
        Shape("iot", iot, ".ndjson", "epoch milliseconds, int64 devices above 2^53"),
        Shape("clicks", clicks, ".jsonl", "camelCase, nested user, list of tags"),
        Shape("orders", orders, ".jsonl", "nested items, money as decimal text"),
        Shape("local_times", local_times, ".csv", "naive local times over both changes of daylight saving"),
    )
}


def payloads(folder: Path) -> tuple[list[str], list[bytes]]:
    """The records of a shape's files as a topic would hold them: lines as they are, rows of Parquet as JSON with times as text. And the
    names of a line's values, for lines that have some."""
    names: list[str] = []
    out: list[bytes] = []
    for file in sorted(folder.iterdir()):
        if file.suffix == ".parquet":
            for row in pq.read_table(file).to_pylist():
                out.append(json.dumps({k: f"{v:%Y-%m-%d %H:%M:%S}" if isinstance(v, datetime) else v for k, v in row.items()}).encode())
            continue
        lines = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).splitlines()
        if file.suffix == ".csv":
            header = lines.pop(0).decode()
            names = header.split(";" if ";" in header else ",")
        elif ".tsv" in file.name:
            names = [f"column_{i + 1}" for i in range(lines[0].count(b"\t") + 1)]
        out += lines
    return names, out

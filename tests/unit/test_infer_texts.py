"""Text files and times as other programs write them, read with nothing but what ``tandem infer`` says of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.shaped import N, at, inferred, ms, z


def german(x: float) -> str:
    return f"{x:,.2f}".translate(str.maketrans(",.", ".,"))


def ship(n: int) -> str:
    return f"{at(n):%d/%m/%Y %H:%M:%S};{219_000_000 + n % 20};57,{n:03};{n / 4:.2f};\n".replace(".", ",")


TEXTS: dict[str, tuple[str, Callable[[int], str], str, str, float]] = {
    "german": (
        "Buchungstag;Käufer;Betrag;Beleg Nr.\n", lambda n: f"{at(n):%d.%m.%Y %H:%M};Müller {n % 20};{german(n * 41.25)};{n}\n",
        "latin-1", 'Csv(delimiter=";", decimal=",", thousands=".", encoding="iso8859-1")', 41.25,
    ),
    "excel": (
        "Order ID,When,Amount\r\n", lambda n: f'{n},{at(n):%m/%d/%Y %H:%M},"{n * 41.25:,.2f}"\r\n',
        "utf-16", 'Csv(thousands=",", encoding="utf-16")', 41.25,
    ),
    "swiss": (
        "id;ts;amount\n", lambda n: f"{n};{z(n)};{n * 1234.5:,.2f}\n".replace(",", "'"), "utf-8-sig", """thousands="'")""", 1234.5,
    ),
    "ships": ("# Timestamp;MMSI;Latitude;SOG;Heading\n", ship, "utf-8", 'Csv(delimiter=";", decimal=",")', 0.25),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts_with_delimiters_of_other_countries(tmp_path: Path, name: str) -> None:
    head, line, encoding, dialect, step = TEXTS[name]
    text, found = inferred(tmp_path, (head + "".join(map(line, range(N)))).encode(encoding))
    assert dialect in text, text
    amounts = next(values for values in ([e.get(k) for e in found] for k in ("betrag", "amount", "sog")) if values[0] is not None)
    assert amounts == [n * step for n in range(N)]


HEADERS = {
    "a delimiter at the end of each line": ("id|at|v|\n", lambda n: f"{n}|{z(n)}|{n / 4}|\n", "v"),
    "a column without a name": ("Trip ID,Start,,v\n", lambda n: f"t{n},{z(n)},x,{n / 4}\n", "v"),
    "a name twice": ("id,at,ok,v,ok\n", lambda n: f"t{n},{z(n)},a,{n / 4},b\n", "v"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_spreadsheets(tmp_path: Path, name: str) -> None:
    head, line, field = HEADERS[name]
    text, found = inferred(tmp_path, (head + "".join(map(line, range(N)))).encode())
    assert [e[field] for e in found] == [n / 4 for n in range(N)] and "header=False" not in text and '"ok"' not in text
    said = "# left out, as the header has its name more than once; Csv's columns and skip can name each: ok\n"
    assert (said in text) == (name == "a name twice")


WRITTEN: dict[str, tuple[Callable[[datetime], Any], str]] = {
    "nginx": (lambda t: f"{t:%d/%b/%Y:%H:%M:%S} +0000", 'TimeFormat("%d/%b/%Y:%H:%M:%S %z")'),
    "apache": (lambda t: f"[{t:%d/%b/%Y:%H:%M:%S} +0000]", 'TimeFormat("[%d/%b/%Y:%H:%M:%S %z]")'),
    "http": (lambda t: f"{t:%a, %d %b %Y %H:%M:%S} GMT", 'TimeFormat("%a, %d %b %Y %H:%M:%S GMT", zone="UTC")'),
    "mail": (lambda t: f"{t:%a, %d %b %Y %H:%M:%S} +0000".replace(", 0", ", "), 'TimeFormat("%a, %d %b %Y %H:%M:%S %z")'),
    "twitter": (lambda t: f"{t:%a %b %d %H:%M:%S} +0000 {t:%Y}", 'TimeFormat("%a %b %d %H:%M:%S %z %Y")'),
    "java.util.Date": (lambda t: f"{t:%a %b %d %H:%M:%S} UTC {t:%Y}", 'TimeFormat("%a %b %d %H:%M:%S UTC %Y", zone="UTC")'),
    "ctime": (lambda t: f"{t:%a %b %e %H:%M:%S %Y}", 'TimeFormat("%a %b %d %H:%M:%S %Y", zone="UTC")'),
    "am and pm": (lambda t: f"{t:%m/%d/%Y %I:%M:%S %p}", 'TimeFormat("%m/%d/%Y %I:%M:%S %p", zone="UTC")'),
    "a month's name": (lambda t: f"{t:%d %B %Y %H:%M:%S}", 'TimeFormat("%d %'),
    "oracle": (lambda t: f"{t:%d-%b-%y %I.%M.%S.%f %p}".upper(), 'TimeFormat("%d-%b-%y %I.%M.%S.%f %p", zone="UTC")'),
    "db2": (lambda t: f"{t:%Y-%m-%d-%H.%M.%S.%f}", 'TimeFormat("%Y-%m-%d-%H.%M.%S.%f", zone="UTC")'),
    "digits": (lambda t: f"{t:%Y%m%d%H%M%S}", 'TimeFormat("%Y%m%d%H%M%S", zone="UTC")'),
    "digits and milliseconds": (lambda t: f"{t:%Y%m%d%H%M%S%f}"[:-3], 'TimeFormat("%Y%m%d%H%M%S%f", zone="UTC")'),
    "iso's basic form": (lambda t: f"{t:%Y%m%dT%H%M%S}Z", "IsoTime()"),
    "java": (lambda t: f"{t + timedelta(hours=2):%Y-%m-%dT%H:%M:%S.%f}+02:00[Europe/Paris]", "IsoTime()"),
    "go": (lambda t: f"{t:%Y-%m-%d %H:%M:%S.%f}000 +0000 UTC", "IsoTime()"),
}


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_times_as_they_are_written(tmp_path: Path, name: str, lines: bool) -> None:
    write, parse = WRITTEN[name]
    if lines:
        records: Any = ("id|when|v\n" + "".join(f"i{n}|{write(at(n))}|{n / 4}\n" for n in range(N))).encode()
    else:
        records = [{"id": f"i{n}", "when": write(at(n)), "v": n / 4} for n in range(N)]
    text, found = inferred(tmp_path, records)
    assert f'Field("when", "timestamp", parse={parse}' in text, text
    exact = "%f" in parse or "IsoTime" in parse
    told = [at(n) if exact else at(n).replace(microsecond=0) for n in range(N)]
    assert [e["when"] for e in found] == ([t.replace(microsecond=0) for t in told] if name == "iso's basic form" else told)


def test_moments_as_objects_of_seconds(tmp_path: Path) -> None:
    records = [{"id": n, "createTime": {"seconds": ms(n) // 1000, "nanos": ms(n) % 1000 * 10**6}} for n in range(N)]
    text, found = inferred(tmp_path, records)
    assert 'path="createTime.seconds", parse=Epoch("s")' in text
    assert [e["create_time_seconds"] for e in found] == [at(n).replace(microsecond=0) for n in range(N)]

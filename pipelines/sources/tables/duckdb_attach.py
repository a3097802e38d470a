"""What DuckDB attaches for a query: its own files, and databases of other kinds by its extensions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from transforms.errors import ConfigError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["attach", "check_moments", "extension_package", "kind_of"]

_KINDS = ("postgres", "mysql", "sqlite")
_ZONE = "mysql_session_time_zone"
"""The setting of newer extensions for MySQL: in which zone its sessions are."""
_ASKED = "SELECT @@session.time_zone, @@system_time_zone"
_UTC = ("+00:00", "UTC", "Etc/UTC")


def kind_of(place: str) -> str:
    """The kind of the database that a place names by what stands before its colon; "" for a file of DuckDB."""
    kind, colon, _ = place.partition(":")
    return kind if colon and kind in _KINDS else ""


def extension_package(kind: str) -> str:
    """The package that brings DuckDB's extension for a kind of database, of the present version of DuckDB."""
    import duckdb

    return f"duckdb-extension-{kind}-scanner=={duckdb.__version__}"


def attach(connection: DuckDBPyConnection, name: str, place: str) -> str:
    """Attach a place (``mysql:host=...``, ``postgres:...``, ``sqlite:...``, or a file of DuckDB) as ``name``, to be read only. Returns the
    time zone in which a MySQL gives its TIMESTAMPs, where that is not UTC; else "".

    An extension that a package brings is loaded from there (DuckDB takes none without its own signature); else DuckDB has it, or fetches
    it. MySQL gives TIMESTAMPs in its session's zone, and the extension takes them for UTC: newer ones have the session be in UTC. Raises
    duckdb.Error.
    """
    kind = kind_of(place)
    if kind:
        _load(connection, kind)
    told = kind == "mysql" and bool(connection.execute("SELECT 1 FROM duckdb_settings() WHERE name = ?", [_ZONE]).fetchall())
    if told:
        connection.execute(f"SET {_ZONE} = '+00:00'")
    how = f"TYPE {kind}, READ_ONLY" if kind else "READ_ONLY"
    connection.execute(f"ATTACH {_text(place.partition(':')[2] if kind else place)} AS {name} ({how})")
    if told or kind != "mysql":
        return ""
    ((zone, system),) = connection.execute(f"SELECT * FROM mysql_query({_text(name)}, {_text(_ASKED)})").fetchall()
    found = str(system if zone == "SYSTEM" else zone)
    return "" if found in _UTC else found


def check_moments(source: str, zones: Mapping[str, str], schema: pa.Schema) -> None:
    """Raises ConfigError where moments among the columns of a query's rows may be wrong: ``zones`` is what :func:`attach` said by name."""
    wrong = {name: zone for name, zone in zones.items() if zone}
    moments = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.type.tz is not None]
    if wrong and moments:
        told = ", ".join(f"{name}: {zone}" for name, zone in wrong.items())
        raise ConfigError(
            f"source {source!r}: sessions of MySQL are not in UTC ({told}), for which this version of DuckDB takes TIMESTAMPs such as"
            f" {moments[0]}; set default_time_zone = '+00:00' there, or use DuckDB 1.5"
        )


def _load(connection: DuckDBPyConnection, kind: str) -> None:
    import duckdb

    if (brought := _brought(kind)) is not None:
        connection.execute(f"LOAD {_text(str(brought))}")
        return
    try:
        connection.execute(f"LOAD {kind}")
    except duckdb.Error:
        connection.execute(f"INSTALL {kind}")
        connection.execute(f"LOAD {kind}")


def _brought(kind: str) -> Path | None:
    """The file of the extension that an installed package brings for the present version of DuckDB."""
    import duckdb

    spec = find_spec(f"duckdb_extension_{kind}_scanner")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{kind}_scanner.duckdb_extension"
    return path if path.is_file() else None


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

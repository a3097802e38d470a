"""Numbers into checks: thresholds of ``monitor`` in tandem.yaml, and what chance allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.monitoring.baseline import PREDICTION, Baseline, Chance
from pipelines.monitoring.checks import Check, above, distance_check, skipped
from pipelines.monitoring.log_windows import Window, blocks
from pipelines.monitoring.monitor_report import ColumnShape, QualityReport, ViewAges
from pipelines.monitoring.quality import Quality, allowance, quality, reliability
from pipelines.monitoring.recompute import Recomputed
from pipelines.monitoring.shapes import null_share
from pipelines.monitoring.statistics import is_text, numbers
from pipelines.monitoring.units import Suspect, fields_of, suspect_unit
from pipelines.project.config import FeatureMonitor, MonitorSettings
from pipelines.project.repository import Repo
from pipelines.training.definition import Model

__all__ = ["features", "headline", "performance", "recomputed", "views"]

BLOCKS = 20
_PLAIN = FeatureMonitor()


def _named(name: str) -> str:
    return "" if name == PREDICTION else name


def features(
    repo: Repo, model: Model, base: Baseline, served: pa.Table, window: Window, skew: Mapping[str, float],
    drift: Mapping[str, float] | None, by_chance: Chance, facts: dict[str, ColumnShape], settings: MonitorSettings,
) -> list[Check]:  # fmt: skip
    """Per input (and the prediction): skew, drift, unit, nulls, unknown values. Adds what is found to ``facts``."""
    out: list[Check] = []
    fields = fields_of(repo.groups, base.spec.read)
    units = {n: unit for n, (_, unit) in fields.items()} | {f.name: f.unit for f in model.request_fields if f.dtype != "string"}
    suspects: dict[str, Suspect] = {}
    found = blocks(base.at, window, BLOCKS, 20)
    train, test = base.of("train"), base.of("test")
    for name in facts:
        own = settings.features.get(name, _PLAIN)
        prefix, what = ("prediction_", "prediction") if name == PREDICTION else ("", name)
        text = is_text(base.table.schema.field(name).type)
        measure = "L-infinity" if text else "Jensen-Shannon"
        if name in skew:
            check = distance_check(
                f"{prefix}skew", _named(name), skew[name], own.skew or settings.skew, by_chance.skew[name], settings.chance, measure,
                judged=own.check,
            )  # fmt: skip
            out.append(check)
            facts[name] |= {"skew": round(skew[name], 4), "skew_threshold": round(check.threshold or 0.0, 4), "skew_status": check.status}
            if check.status in ("warn", "fail") and name in units and not text:
                suspect = suspect_unit(numbers(base.table, name), numbers(served, name), units[name])
                if suspect is not None:
                    suspects[name] = suspect
                    facts[name]["suspect"] = suspect.text
        elif name != PREDICTION and null_share(served, name) == 1.0:
            out.append(skipped("skew", f"{what}: no value was served", name))
        if drift is not None and name in drift:
            check = distance_check(
                f"{prefix}drift", _named(name), drift[name], own.drift or settings.drift, by_chance.drift[name], settings.chance, measure,
                judged=own.check,
            )  # fmt: skip
            out.append(check)
            facts[name] |= {
                "drift": round(drift[name], 4),
                "drift_threshold": round(check.threshold or 0.0, 4),
                "drift_status": check.status,
            }
        if name == PREDICTION:
            continue
        natural = max((null_share(base.table.filter(pa.array(m)), name) for _, m in found), default=null_share(base.table, name))
        rise = settings.null_rise if own.null_rise is None else own.null_rise
        value = null_share(served, name)
        out.append(
            above("nulls", name, value, min(natural + rise, 1.0), f"{value:.1%} null; training up to {natural:.1%}", judged=own.check)
        )
        if text:
            out.append(_unknown(name, served, train, test, own, settings))
    if drift is None:
        out.append(skipped("drift", f"fewer than {settings.min_rows} answers in the window before; there is nothing to compare with"))
    return out + _units(suspects, fields, units)


def _unknown(name: str, served: pa.Table, train: pa.Table, test: pa.Table, own: FeatureMonitor, settings: MonitorSettings) -> Check:
    known = pc.unique(train.column(name).cast(pa.string()).combine_chunks())
    share, usual = (_share_unknown(t, name, known) for t in (served, test))
    limit = settings.unknown_share if own.unknown_share is None else own.unknown_share
    column = served.column(name).cast(pa.string()).drop_null()
    strange = column.filter(pc.invert(pc.is_in(column, known)))
    most = ", ".join(repr(v) for v, _ in Counter(strange.to_pylist()).most_common(3))
    detail = f"{share:.2%} of values were never seen in training" + (f" ({most})" if most else "") + f"; in its held-out part {usual:.2%}"
    return above("unknown", name, share, max(limit, 2 * usual), detail, judged=own.check)


def _share_unknown(table: pa.Table, name: str, known: pa.Array) -> float:
    column = table.column(name).cast(pa.string()).drop_null()
    return float(np.mean(~pc.is_in(column, known).to_numpy())) if len(column) else 0.0


def _units(suspects: Mapping[str, Suspect], fields: Mapping[str, tuple[str, str]], units: Mapping[str, str]) -> list[Check]:
    """One check per field (of a source, or of the request) whose values look like another unit: the producer is named."""
    by_field: dict[str, list[str]] = {}
    for name in suspects:
        by_field.setdefault(fields[name][0] if name in fields else name, []).append(name)
    out = []
    for field, names in by_field.items():
        words = Counter(suspects[n].text for n in names).most_common(1)[0][0]
        best = max((suspects[n] for n in names if suspects[n].text == words), key=lambda s: s.before - s.after)
        unit = units.get(names[0], "")
        detail = f"{field} {words}" + (f" (its unit is {unit!r})" if unit else "")
        detail += f": taken back, the values are at {best.after:.2f} from training instead of {best.before:.2f} (Kolmogorov-Smirnov)"
        detail += f"; seen in {', '.join(names)}"
        out.append(Check("unit", field, best.factor, None, "fail", detail))
    return out


def views(
    repo: Repo, base: Baseline, served: pa.Table, window: Window, facts: dict[str, ViewAges], settings: MonitorSettings
) -> list[Check]:
    """Per feature view: the share of answers whose row was not there or past its TTL, against training's."""
    out = []
    found = blocks(base.at, window, BLOCKS, 20)
    for name in base.spec.read.names:
        if base.spec.read.projection(name).view not in repo.groups:
            continue
        column = f"{name}__tandem_status"
        mine = [f"{v}__{f}" for v, f in base.spec.features if v == name and f"{v}__{f}" in base.table.schema.names]
        if column not in served.schema.names or not mine:
            continue
        status = served.column(column).drop_null()
        if not len(status):
            continue
        share = 1.0 - float(pc.mean(pc.equal(status, "PRESENT").cast(pa.float64())).as_py())
        empty = np.ones(base.table.num_rows, np.bool_)
        for feature in mine:
            empty &= ~base.table.column(feature).is_valid().to_numpy()
        usual = max((float(empty[m].mean()) for _, m in found), default=float(empty.mean()))
        detail = f"{share:.1%} of rows were past their TTL or not there; training up to {usual:.1%}"
        if len(status) < settings.min_rows:
            out.append(skipped("ages", f"{len(status):,} answers; monitor.min_rows = {settings.min_rows}", name))
        else:
            out.append(above("ages", name, share, min(usual + settings.too_old_share, 1.0), detail))
        facts.setdefault(name, {})["usual_absent"] = round(usual, 4)
    return out


def performance(
    base: Baseline,
    window: Window,
    label: npt.NDArray[np.float64],
    prediction: npt.NDArray[np.float64],
    settings: MonitorSettings,
) -> tuple[QualityReport, list[Check]]:
    """Calibration, AUC, log loss of labelled answers against the test split."""
    test, unseen = base.of("test"), base.of("eval", "test")
    mine, report = quality(label, prediction), _of(base, test)
    at = unseen.column("event_timestamp").cast(pa.int64()).to_numpy()
    parts = [_of(base, unseen.filter(pa.array(m))) for _, m in blocks(at, window, BLOCKS, max(len(label) // 4, 50))]
    allowed = allowance(mine, report, parts)
    found: QualityReport = {
        **mine.to_dict(),
        "report": report.to_dict(),
        "reliability": reliability(label, prediction),
        "report_reliability": reliability(_label(base, test), _prediction(test)),
        "chance": {k: round(v, 4) for k, v in allowed.items()},
        "chance_from": f"{len(parts)} windows of the held-out part" if len(parts) >= 3 else "standard errors",
    }  # fmt: skip
    numbers = f"mean prediction {mine.mean:.3f}, rate of positives {mine.rate:.3f} over {mine.rows:,} labels"
    out = [distance_check("calibration", "", mine.gap, settings.calibration, allowed["gap"], settings.chance, f"{numbers}: apart by")]
    if mine.auc is not None and report.auc is not None:
        what = f"AUC {mine.auc:.4f}, in the training report {report.auc:.4f}: lower by"
        out.append(distance_check("auc", "", max(report.auc - mine.auc, 0.0), settings.auc_drop, allowed["auc"], settings.chance, what))
    what = f"log loss {mine.log_loss:.4f}, in the training report {report.log_loss:.4f}: higher by"
    rise = max(mine.log_loss - report.log_loss, 0.0)
    out.append(distance_check("log_loss", "", rise, settings.log_loss_rise, allowed["log_loss"], settings.chance, what))
    return found, out


def _label(base: Baseline, table: pa.Table) -> npt.NDArray[np.float64]:
    out: npt.NDArray[np.float64] = table.column(base.label).cast(pa.float64()).to_numpy()
    return out


def _prediction(table: pa.Table) -> npt.NDArray[np.float64]:
    out: npt.NDArray[np.float64] = table.column(PREDICTION).cast(pa.float64()).to_numpy()
    return out


def _of(base: Baseline, table: pa.Table) -> Quality:
    return quality(_label(base, table), _prediction(table))


def recomputed(found: Mapping[str, Recomputed], settings: MonitorSettings) -> list[Check]:
    """Per feature view: real bugs, the share of answers from a row of the future, and of those from a row that was not the one due for
    longer than is allowed."""
    out = []
    for name, r in found.items():
        bugs = r.count("real bug")
        others = ", ".join(f"{n:,} {kind} ({cause})" for kind, causes in r.causes.items() for cause, n in causes.items()) or "none differs"
        out.append(above("recomputed", name, bugs, settings.real_bugs, f"{r.answers:,} answers recomputed: {others}"))
        ahead = r.count("ahead of the clock")
        detail = f"{ahead:,} of {r.answers:,} predictions from a row that is newer than the prediction"
        if ahead:
            detail += ": the online store was filled beyond the server's clock (tandem serve --as-of, or a clock that is wrong)"
        # Of however few answers: a row of the future is a fact, not an estimate.
        out.append(above("ahead", name, ahead / max(r.answers, 1), settings.ahead_share, detail))
        late = int((r.behind_s > settings.stale_minutes * 60).sum())
        share = late / r.answers if r.answers else 0.0
        detail = f"{late:,} of {r.answers:,} answers from a row that another had replaced more than {settings.stale_minutes:g} min before"
        if r.answers >= settings.min_rows:
            out.append(above("stale", name, share, settings.stale_share, detail))
    return out


_WORDS = {
    "skew": "served values are not like training's",
    "drift": "values differ from the window before",
    "nulls": "more nulls than in training",
    "unknown": "values that training never saw",
    "ages": "rows past their TTL or not there",
    "prediction_skew": "predictions are not like training's",
    "prediction_drift": "predictions differ from the window before",
    "calibration": "calibration",
    "auc": "AUC",
    "log_loss": "log loss",
    "recomputed": "served values that nothing explains",
    "ahead": "rows of the future",
    "stale": "stale rows",
}


def headline(checks: Sequence[Check], answers: int) -> str:
    """The checks over so many answers in a sentence or two: units first, as they name the cause."""
    bad = [c for c in checks if c.status == "fail"]
    if not bad:
        warned = [c for c in checks if c.status == "warn"]
        if warned:
            return f"No failures; warnings: {', '.join(_list(warned))}"
        if not any(c.status == "ok" for c in checks):
            return "Nothing could be checked: " + "; ".join(c.detail for c in checks)
        return f"{sum(c.status == 'ok' for c in checks)} checks over {answers:,} answers, no findings"
    parts = [c.detail if c.name == "request_log" else c.detail.split(":")[0] for c in bad if c.name in ("unit", "request_log")]
    for name, words in _WORDS.items():
        mine = [c for c in bad if c.name == name]
        if not mine:
            continue
        some = sorted(mine, key=lambda c: -(c.value or 0.0))
        named = ", ".join(c.feature for c in some[:3] if c.feature) + (f" and {len(some) - 3} more" if len(some) > 3 else "")
        parts.append(f"{words}" + (f": {named}" if named else f" ({some[0].detail.split(':')[0]})"))
    return "; ".join(parts)


def _list(checks: Sequence[Check]) -> list[str]:
    return [f"{c.name} {c.feature}".strip() for c in checks[:5]] + ([f"{len(checks) - 5} more"] if len(checks) > 5 else [])

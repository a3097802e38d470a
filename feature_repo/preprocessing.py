"""TF-Transform over the aggregates of each group: analyzers learn in the batch job, the frozen graph runs everywhere.

A column that may be null comes as a SparseTensor in which a null is absent, and stays absent in the output. Counts are never null
and come as dense [rows, 1] tensors. Output names must differ from the aggregates'.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

QUANTILES = 8


def _log(x: Any) -> Any:
    return tf.math.log1p(tf.cast(x, tf.float32))


def origin_traffic(inputs: dict[str, Any]) -> dict[str, Any]:
    """How busy and how late the airport is."""
    return {
        "busy_z": tft.scale_to_z_score(_log(inputs["count_1h"])),
        "dep_delay_1h_z": tft.scale_to_z_score(inputs["dep_delay_mean_1h"]),
        "dep_delay_3h_bucket": tft.bucketize(inputs["dep_delay_mean_3h"], QUANTILES),
        "late_share_3h": tf.cast(inputs["late_departures_3h"], tf.float32) / tf.maximum(tf.cast(inputs["count_3h"], tf.float32), 1.0),
    }


def carrier_traffic(inputs: dict[str, Any]) -> dict[str, Any]:
    """How busy and how late the airline is."""
    return {
        "busy_z": tft.scale_to_z_score(_log(inputs["count_3h"])),
        "dep_delay_3h_z": tft.scale_to_z_score(inputs["dep_delay_mean_3h"]),
        "dep_delay_24h_bucket": tft.bucketize(inputs["dep_delay_mean_24h"], QUANTILES),
    }


def route_arrivals(inputs: dict[str, Any]) -> dict[str, Any]:
    """How late the route is."""
    return {
        "arr_delay_24h_z": tft.scale_to_z_score(inputs["arr_delay_mean_24h"]),
        "arr_delay_24h_bucket": tft.bucketize(inputs["arr_delay_mean_24h"], QUANTILES),
        "air_time_z": tft.scale_to_z_score(inputs["air_time_mean_24h"]),
    }


def aircraft(inputs: dict[str, Any]) -> dict[str, Any]:
    """How late the aircraft came in, and who flies it."""
    return {
        "arr_delay_bucket": tft.bucketize(inputs["arr_delay_last_24h"], QUANTILES),
        "legs_z": tft.scale_to_z_score(_log(inputs["legs_24h"])),
        "carrier_id": tft.compute_and_apply_vocabulary(inputs["carrier_last_24h"], num_oov_buckets=1, vocab_filename="aircraft_carrier"),
    }


def origin_weather(inputs: dict[str, Any]) -> dict[str, Any]:
    """Standardised weather."""
    return {
        "temp_z": tft.scale_to_z_score(inputs["temp_last_6h"]),
        "wind_z": tft.scale_to_z_score(inputs["wind_speed_last_6h"]),
        "pressure_bucket": tft.bucketize(inputs["pressure_last_6h"], QUANTILES),
    }

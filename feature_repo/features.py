"""What Tandem computes over the flights of New York: sources with their contracts, and feature groups.

This is the one place. Arrow, TFMD and Feast schemas, and the schemas for producers, are derived from it; ``feast apply`` reads it too.
"""

from feast import FeatureService

from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import (
    Age,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    FeatureGroup,
    Field,
    Last,
    LastN,
    Max,
    Mean,
    Quantile,
    Std,
    days,
    hours,
    minutes,
)

ORIGINS = ["EWR", "JFK", "LGA"]
FLIGHT = [
    Field("flight_id", "string", required=True),
    Field("carrier", "string", required=True),
    Field("origin", "string", required=True, domain=ORIGINS),
    Field("dest", "string", required=True),
    Field("tailnum", "string", required=True),
]

departures = EventSource(
    name="departures",
    description="flights that left the gate",
    fields=[
        *FLIGHT,
        Field("dep_delay", "float64", unit="min", min=-120, max=3000),
        Field("distance", "float64", unit="miles", min=0, max=20000),
    ],
    event_time="departed_at",
    tie_breaker="flight_id",
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
    files="events/departures",
    topic="departures",
)

arrivals = EventSource(
    name="arrivals",
    description="flights that landed, with what is known only then",
    fields=[
        *FLIGHT,
        Field("arr_delay", "float64", unit="min", min=-180, max=3000),
        Field("air_time", "float64", unit="min", min=0, max=1500),
    ],
    event_time="landed_at",
    tie_breaker="flight_id",
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
    files="events/arrivals",
    topic="arrivals",
)

weather = EventSource(
    name="weather",
    description="hourly observations at the three airports",
    fields=[
        Field("origin", "string", required=True, domain=ORIGINS),
        Field("temp", "float64", unit="F", min=-60, max=140),
        Field("humid", "float64", unit="%", min=0, max=100),
        Field("wind_dir", "float64", unit="deg", min=0, max=360),
        Field("wind_speed", "float64", unit="mph", min=0, max=200),
        Field("wind_gust", "float64", unit="mph", min=0, max=250),
        Field("precip", "float64", unit="in", min=0, max=20),
        Field("pressure", "float64", unit="hPa", min=850, max=1100),
        Field("visib", "float64", unit="miles", min=0, max=100),
    ],
    event_time="observed_at",
    tie_breaker="origin",
    out_of_orderness=minutes(5),
    allowed_lateness=hours(3),
    files="events/weather",
    topic="weather",
)

origin_traffic = FeatureGroup(
    name="origin_traffic",
    description="departures at the airport",
    source=departures,
    entity=Entity("origin"),
    hop=minutes(5),
    ttl=hours(6),
    aggregates=[
        Count(over=[hours(1), hours(3), hours(24)]),
        Mean("dep_delay", over=[hours(1), hours(3), hours(24)]),
        Std("dep_delay", over=hours(3)),
        Quantile("dep_delay", q=0.9, over=hours(3)),
        Count(where=Field("dep_delay") > 15, over=[hours(1), hours(3)], name="late_departures"),
        CountDistinct("dest", over=hours(3)),
    ],
    preprocessing_fn="preprocessing:origin_traffic",
)

carrier_traffic = FeatureGroup(
    name="carrier_traffic",
    description="departures of the airline, at all three airports",
    source=departures,
    entity=Entity("carrier"),
    hop=minutes(15),
    ttl=hours(24),
    aggregates=[
        Count(over=[hours(1), hours(3), hours(24)]),
        Mean("dep_delay", over=[hours(3), hours(24)]),
        Count(where=Field("dep_delay") > 15, over=hours(3), name="late_departures"),
    ],
    preprocessing_fn="preprocessing:carrier_traffic",
)

route_arrivals = FeatureGroup(
    name="route_arrivals",
    description="arrivals on the route",
    source=arrivals,
    entity=Entity("origin", "dest"),
    hop=minutes(15),
    ttl=days(2),
    aggregates=[
        Count(over=hours(24)),
        Mean("arr_delay", over=[hours(3), hours(24)]),
        Max("arr_delay", over=hours(24)),
        Mean("air_time", over=hours(24)),
    ],
    preprocessing_fn="preprocessing:route_arrivals",
)

aircraft = FeatureGroup(
    name="aircraft",
    description="what the aircraft did",
    source=arrivals,
    entity=Entity("tailnum"),
    hop=minutes(5),
    ttl=hours(36),
    aggregates=[
        Count(over=hours(24), name="legs"),
        Last("arr_delay", over=hours(24)),
        Last("carrier", over=hours(24)),
        LastN("arr_delay", n=3, over=hours(24)),
        Age(over=hours(24)),
    ],
    preprocessing_fn="preprocessing:aircraft",
)

origin_weather = FeatureGroup(
    name="origin_weather",
    description="the last observation at the airport, and its age",
    source=weather,
    entity=Entity("origin"),
    hop=minutes(15),
    ttl=hours(12),
    aggregates=[
        Last("temp", over=hours(6)),
        Last("wind_speed", over=hours(6)),
        Last("precip", over=hours(6)),
        Last("visib", over=hours(6)),
        Last("pressure", over=hours(6)),
        Age(over=hours(6)),
    ],
    preprocessing_fn="preprocessing:origin_weather",
)

views = feast_views(__name__)  # for feast apply: an entity per key field, a view per group

# What a model is asked with; a list is nothing for it.
late_flights = FeatureService(name="late_flights", features=views.features(without=["arr_delay_last_3_24h"]))

"""A Bento over a Tandem server: features as they are now, the model's prediction from them, and what your own rule says of it.

    bentoml serve service:Scores

TANDEM_SERVER, TANDEM_MODEL, TANDEM_FEATURES (a feature service) and TANDEM_API_KEY say where and what.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import httpx

SERVER = os.environ.get("TANDEM_SERVER", "http://127.0.0.1:8500")
MODEL = os.environ.get("TANDEM_MODEL", "card_fraud")
FEATURES = os.environ.get("TANDEM_FEATURES", MODEL)
KEY = os.environ.get("TANDEM_API_KEY", "")
ALARMING = float(os.environ.get("ALARMING", "0.5"))


@bentoml.service(name="scores", traffic={"timeout": 10})
class Scores:
    """Answers from the online store that the stream keeps fresh, and from the champion that ``tandem promote`` chose."""

    def __init__(self) -> None:
        self.http = httpx.Client(base_url=SERVER, timeout=5, headers={"Authorization": f"Bearer {KEY}"} if KEY else {})

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        if answer.status_code >= 500:
            raise bentoml.exceptions.ServiceUnavailable(answer.json()["error"])
        if answer.status_code >= 400:
            raise bentoml.exceptions.InvalidArgument(answer.json()["error"])
        return answer.json()  # type: ignore[no-any-return]

    @bentoml.api
    def score(self, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Per instance: the prediction, whether it is alarming, the model's version, and how fresh each view's row was (seconds)."""
        answer = self._ask(f"/v1/models/{MODEL}:predict", {"instances": instances})
        version, views = answer["model"]["version"], answer["features"]
        return [
            {
                "prediction": value,
                "alarming": value >= ALARMING,
                "version": version,
                "ages": {view: rows["ages"][n] for view, rows in views.items()},
            }
            for n, value in enumerate(answer["predictions"])
        ]

    @bentoml.api
    def features(self, entities: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The values of the feature service for these keys; null where there is none, or one that is too old."""
        answer = self._ask("/get-online-features", {"feature_service": FEATURES, "entities": entities})
        names = answer["metadata"]["feature_names"]
        return {name: column["values"] for name, column in zip(names, answer["results"])}

"""Model versions and who of them serves: registration, promotion, rollback, comparison. Light at import."""

from pipelines.registry.register import register

__all__ = ["register"]

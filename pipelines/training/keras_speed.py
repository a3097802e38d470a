"""Keras as it was written, not as AutoGraph would rewrite it: the same graphs, without tens of seconds of rewriting per training."""

from __future__ import annotations

__all__ = ["leave_keras_as_it_is"]


def leave_keras_as_it_is() -> None:
    """Keep AutoGraph from rewriting the source of tf_keras itself, 20 seconds of every training: TensorFlow 2.16 spares ``keras`` alone,
    the name that tf_keras had before. Layers of the user are converted as ever, since Keras asks for it by itself."""
    try:
        from tensorflow.python.autograph.core import config
    except ImportError:  # no public interface: elsewhere it may be gone, or done
        return
    rules = getattr(config, "CONVERSION_RULES", None)
    if isinstance(rules, tuple) and not any(rule.matches("tf_keras") for rule in rules):
        config.CONVERSION_RULES = (*rules, config.DoNotConvert("tf_keras"))

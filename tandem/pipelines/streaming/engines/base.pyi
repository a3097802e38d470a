from pipelines.streaming.engines.base import *

from pipelines.streaming.engines.stream_engine import *

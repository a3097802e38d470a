from pipelines.streaming.stages.stream_graph import *

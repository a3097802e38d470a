from pipelines.sources.memory import *

from pipelines.sources.broker import *

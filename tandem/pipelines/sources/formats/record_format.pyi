from pipelines.sources.formats.record_format import *

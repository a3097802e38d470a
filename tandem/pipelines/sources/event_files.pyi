from pipelines.sources.event_files import *

from pipelines.sources.file_formats.file_format import *

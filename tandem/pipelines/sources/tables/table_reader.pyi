from pipelines.sources.tables.table_reader import *

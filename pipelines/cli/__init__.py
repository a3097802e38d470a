"""The command line ``tandem``: one file per group of commands. Light at import."""

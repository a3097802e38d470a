"""The data folder and who may change it: paths, files, locks, processes, runs, graphs, provenance, moments. Light."""

"""Tracking: what MLflow is told of a run folder, by a process of its own, so that training never waits for it.

`settings` says where; `uploader` is the trainer's side of that process; `upload` is the process; `record` turns a run folder
into a run (`contents`: its parameters and tags) by one of two writers: `bulk`, straight into a local database, or `client`,
which alone imports mlflow; `view` is the page that overlays a sweep's curves, `links` what is said at the end.
"""

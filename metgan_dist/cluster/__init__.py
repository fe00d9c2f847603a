"""The Ray cluster that a job runs on: joining it, what there is room for, lines from its workers, spot machines."""

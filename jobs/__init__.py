"""The Ray programs: the only place that imports Ray."""

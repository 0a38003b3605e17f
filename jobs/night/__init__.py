"""The parts of `jobs.nightly`: its settings, the steps over one archive, what they cost, and the report."""

"""The version of the code, recorded in every shard and run report."""

VERSION = "0.1.0"

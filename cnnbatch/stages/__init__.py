"""The layer that joins codec, images and archive: everything a job does to one shard, without Ray."""

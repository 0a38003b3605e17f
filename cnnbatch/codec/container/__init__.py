"""Byte containers: the bitstream of one image, and sealed files."""

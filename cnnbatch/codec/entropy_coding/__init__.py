"""Symbols ↔ bytes, and what symbols cost."""

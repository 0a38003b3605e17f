"""Latents ↔ symbols: dequantisation is normative, the search the encoder's."""

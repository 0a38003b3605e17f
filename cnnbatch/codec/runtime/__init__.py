"""The machine: its CPU, its process, its memory."""

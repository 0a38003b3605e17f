"""The architecture for photographs of any size."""

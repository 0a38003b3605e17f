"""The architecture for many small pictures of one size."""

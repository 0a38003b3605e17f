"""The report page: one HTML file with its data, its pictures and its script inside, which opens from disk without a network."""

from cnnbatch.evaluation.page.rendering import render_page

__all__ = ["render_page"]

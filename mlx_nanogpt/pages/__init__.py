"""HTML pages, each one file that needs no network: a model to play with, and a report on runs."""

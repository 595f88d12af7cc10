"""HTML pages, each one file that needs no network: the inside of a model on a text, and a report on runs."""

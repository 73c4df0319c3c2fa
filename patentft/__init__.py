"""patentft: train, tune and run language models on patents, on Ray."""

__version__ = "0.1.0"

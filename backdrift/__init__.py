"""backdrift: score-based generative modelling in continuous time. This package is what a person runs."""

__version__ = "0.1.0"

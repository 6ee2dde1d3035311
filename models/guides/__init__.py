"""Guides: models conditioned on a measurement, made of a model that is not. Each says what it assumes."""

from backdrift.models.guides.guide import Guide
from backdrift.models.guides.mmps import MMPS

__all__ = ["MMPS", "Guide"]

"""Guides: models conditioned on a measurement, made of a model that is not. Each says what it assumes."""

from backdrift.models.guides.dps import DPS
from backdrift.models.guides.guide import Guide
from backdrift.models.guides.isotropic import JFPS, DiffPIR, PiGDM
from backdrift.models.guides.mmps import MMPS
from backdrift.models.guides.tmpd import TMPD

__all__ = ["DPS", "JFPS", "MMPS", "TMPD", "DiffPIR", "Guide", "PiGDM"]

"""Data sets: each a plain class that loads itself, and one place for the units of all of them.

A data set yields records: `Data.records(indices)` is a `Record` of batched tensors, the sample v in the data's own
units, its condition, its weight and its index. Anything with a length and `records` is a `Source` that a model can be
trained from; its samples need not fit in memory. What is known of a data set without its samples is its `DataCard`:
the `Units` that go to the model's x and back, moments, names and a fingerprint of its files. A run keeps the card.
"""

from backdrift.data.card import DataCard
from backdrift.data.condition_choice import (
    ColumnsCondition,
    FileCondition,
    LabelCondition,
    NoCondition,
    OwnCondition,
)
from backdrift.data.dataset import Data
from backdrift.data.digits import Digits, Mnist5k
from backdrift.data.files import Files
from backdrift.data.hf import HuggingFace
from backdrift.data.record import Record, Source
from backdrift.data.splits import split
from backdrift.data.streams import Stream
from backdrift.data.toy import Checkerboard, Moons, Ring
from backdrift.data.units import Units
from backdrift.data.webdataset import WebDataset

__all__ = [
    "Checkerboard",
    "ColumnsCondition",
    "Data",
    "DataCard",
    "Digits",
    "FileCondition",
    "Files",
    "HuggingFace",
    "LabelCondition",
    "Mnist5k",
    "Moons",
    "NoCondition",
    "OwnCondition",
    "Record",
    "Ring",
    "Source",
    "Stream",
    "Units",
    "WebDataset",
    "split",
]

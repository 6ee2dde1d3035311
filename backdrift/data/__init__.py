"""Data sets: each a plain class that loads itself, and one place for the units of all of them."""

from backdrift.data.dataset import Data, split
from backdrift.data.digits import Digits, Mnist5k
from backdrift.data.files import Files
from backdrift.data.toy import Checkerboard, Moons, Ring

__all__ = ["Checkerboard", "Data", "Digits", "Files", "Mnist5k", "Moons", "Ring", "split"]

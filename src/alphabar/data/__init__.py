"""Images as one uint8 array, wherever they come from, and batches as a pure function of (seed, step)."""

from alphabar.data.batch import Batch, Images, split
from alphabar.data.loader import Loader, indices
from alphabar.data.sources import SOURCES, open_source

__all__ = ["SOURCES", "Batch", "Images", "Loader", "indices", "open_source", "split"]

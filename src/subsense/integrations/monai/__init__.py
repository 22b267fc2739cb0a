"""MONAI: batches of its dictionaries, and networks from its bundles. Needs ``subsense[monai]``."""

from subsense.integrations.monai.bundle import Bundle, read_bundle
from subsense.integrations.monai.collate import DictCollate

__all__ = ["Bundle", "DictCollate", "read_bundle"]

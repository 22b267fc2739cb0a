"""The methods, each a frozen dataclass of its options; see `subsense.adapters.base` for the contract."""

from subsense.adapters.base import Adapter, Mix
from subsense.adapters.bitfit import BitFit
from subsense.adapters.channels import ByChannel
from subsense.adapters.common import Common
from subsense.adapters.lora import LoRA
from subsense.adapters.methods import METHODS, Method, from_json, parse_method, to_json, words_of
from subsense.adapters.norm import Norm
from subsense.adapters.scale import Scale
from subsense.adapters.shift import Shift
from subsense.adapters.ssf import SSF

__all__ = [
    "METHODS",
    "SSF",
    "Adapter",
    "BitFit",
    "ByChannel",
    "Common",
    "LoRA",
    "Method",
    "Mix",
    "Norm",
    "Scale",
    "Shift",
    "from_json",
    "parse_method",
    "to_json",
    "words_of",
]

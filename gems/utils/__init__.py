"""Helpers under the names that FlagGems' users know."""

from . import code_cache, device_info, random_utils, shape_utils, tensor_wrapper
from .device_info import get_device_capability, get_device_properties
from .libentry import libentry, libtuner
from .pointwise_dynamic import pointwise_dynamic

__all__ = [
    "code_cache",
    "device_info",
    "get_device_capability",
    "get_device_properties",
    "libentry",
    "libtuner",
    "pointwise_dynamic",
    "random_utils",
    "shape_utils",
    "tensor_wrapper",
]

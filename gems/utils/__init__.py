"""Helpers under the names that FlagGems' users know."""

from . import shape_utils
from .device_info import get_device_capability, get_device_properties

__all__ = ["get_device_capability", "get_device_properties", "shape_utils"]

"""Seeds and offsets of the Philox numbers that kernels draw."""

from __future__ import annotations

import torch

from ..runtime import device as _device

_MASK = 2**64 - 1
_ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: neighbouring offsets give far seeds


def philox_backend_seed_offset(increment: int, generator: torch.Generator | None = None) -> tuple[int, int]:
    """Takes `increment` Philox values from a generator, as a kernel does.

    On a GPU seed and offset are the generator's own, and its offset moves on by `increment`, rounded up to a multiple
    of 4. The generator of a CPU has no offset: one number is drawn from it, which is the seed, and the offset is 0.

    Parameters
    ----------
    increment : int
        Values that a thread draws, at least 0.
    generator : torch.Generator
        The current device's default one when None.

    Returns
    -------
    tuple of int
        Seed and offset before the call.
    """
    if increment < 0:
        raise ValueError(f"increment must not be negative: {increment}")
    if generator is None and _device.name == "cuda":
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
    if generator is None or generator.device.type == "cpu":
        number = torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator)
        return int(number), 0
    seed, offset = generator.initial_seed(), generator.get_offset()
    generator.set_offset(offset + -(-increment // 4) * 4)
    return seed, offset


def set_philox_state(seed: int, offset: int, device: torch.device | str | int | None = None) -> None:
    """Sets the state of a device's default generator.

    On a GPU it becomes exactly this seed and offset. A CPU generator has no offset: it is seeded from both, with
    offset 0 as by `torch.manual_seed(seed)`; the same pair always gives the same numbers.

    Parameters
    ----------
    seed : int
    offset : int
        A multiple of 4, at least 0.
    device : torch.device, str or int
        The current device when None; an int is the index of a GPU.

    Raises
    ------
    ValueError
        When the offset is no multiple of 4, or negative.
    """
    if offset < 0 or offset % 4:
        raise ValueError(f"the offset must be a multiple of 4 and not negative: {offset}")
    where = torch.device(_device.name if device is None else device)
    if where.type == "cpu":
        torch.default_generator.manual_seed((seed + offset * _ODD) & _MASK)
        return
    index = torch.cuda.current_device() if where.index is None else where.index
    generator = torch.cuda.default_generators[index]
    generator.manual_seed(seed)
    generator.set_offset(offset)

"""The names that a program written for FlagGems uses, besides operators: they are there and do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import flag_gems
import pytest
import torch

DEVICE = flag_gems.device


def test_every_public_name_is_there() -> None:
    for name in flag_gems.__all__:
        assert getattr(flag_gems, name) is not None, name
    for name in ("config", "runtime", "testing", "utils", "logging_utils"):
        assert getattr(flag_gems, name).__name__ == f"flag_gems.{name}"
    with pytest.raises(AttributeError, match="nosuch"):
        _ = flag_gems.nosuch


def test_registrar_and_lists() -> None:
    with flag_gems.use_gems(include=["mm", "add.Tensor"]):
        keys = flag_gems.all_registered_keys()
        assert sorted(keys) == ["add.Tensor", "mm"]
        assert flag_gems.current_work_registrar.get_all_keys() == keys == flag_gems.all_ops()
        assert flag_gems.current_work_registrar.get_all_ops() == flag_gems.all_registered_ops()


def test_an_unknown_vendor_is_an_error_that_lists_the_known() -> None:
    for variable in ("GEMS_VENDOR", "FLAGGEMS_VENDOR"):
        done = subprocess.run(
            [sys.executable, "-c", "import flag_gems"],
            env=dict(os.environ, **{variable: "nosuch"}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode != 0 and "nosuch" in done.stderr and "nvidia, cpu" in done.stderr


def test_runtime() -> None:
    runtime = flag_gems.runtime
    assert (runtime.device.name, runtime.device.vendor_name) == (flag_gems.device, flag_gems.vendor_name)
    assert runtime.device.dispatch_key in ("CPU", "CUDA") and runtime.device.device_count >= 1
    assert runtime.device.support_fp64 and runtime.device.support_bf16 and runtime.device.support_int64
    assert runtime.backend.vendor_module.vendor_info.vendor_name == flag_gems.vendor_name
    runtime.torch_device_fn.synchronize()
    runtime.torch_device_fn.empty_cache()
    assert runtime.torch_device_fn.is_available() and runtime.torch_device_fn.default_generators
    if DEVICE == "cpu":
        assert runtime.torch_device_fn.current_device() == "cpu"
        runtime.torch_backend_device.matmul.allow_tf32 = False
    assert runtime.get_tuned_config("mm") == [] and runtime.get_heuristic_config("mm") == {}


def test_stats_of_runtime() -> None:
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        torch.mm(torch.ones(2, 2, device=DEVICE), torch.ones(2, 2, device=DEVICE))
    assert flag_gems.runtime.stats()["native"]["aten::mm"] == 1
    assert "aten::mm" not in flag_gems.runtime.stats()["fallback"]


# ---- config ----


def test_config() -> None:
    config = flag_gems.config
    assert config.has_c_extension is True and config.use_c_extension is True
    assert {"mm", "add", "add_"} <= set(config.aten_patch_list)
    assert {name.split(".")[0] for name in flag_gems.all_ops()} <= set(config.aten_patch_list)


def test_settings_of_the_user(tmp_path: Path) -> None:
    resolve = flag_gems.config.resolve_user_setting
    assert resolve(None, "include") == [] and resolve("mm", "exclude") == ["mm"]
    assert resolve(("mm", "add.Tensor"), "include") == ["mm", "add.Tensor"]
    path = tmp_path / "ops.yaml"
    path.write_text("include:\n  - mm\n  - add  # both forms\nexclude: [sum, 'mean']\n")
    assert resolve(path, "include") == ["mm", "add"] and resolve(str(path), "exclude") == ["sum", "mean"]
    with pytest.raises(ValueError, match="'both'"):
        resolve(None, "both")
    with pytest.raises(OSError):
        resolve(tmp_path / "absent.yaml", "include")


def test_defaults_of_a_vendor() -> None:
    assert flag_gems.config.get_default_enable_config("nvidia", "hopper") == []
    assert flag_gems.config.get_default_enable_config("cpu", None) == []
    with pytest.raises(RuntimeError, match="nvidia, cpu"):
        flag_gems.config.get_default_enable_config("nosuch", None)


# ---- utils ----


def test_device_utilities() -> None:
    utils = flag_gems.utils
    assert utils.get_device_properties(0).total_memory > 0
    assert utils.get_device_properties().name
    major, minor = utils.device_info.get_device_capability()
    assert (major, minor) == (0, 0) if DEVICE == "cpu" else major >= 8


@pytest.mark.parametrize("name", ["libentry", "libtuner"])
def test_triton_decorators_say_what_to_write(name: str) -> None:
    with pytest.raises(NotImplementedError, match=rf"{name} wraps a Triton kernel.*expression"):
        getattr(flag_gems.utils, name)(configs=[], key=[])


def test_fused_functions_modules_and_expressions() -> None:
    for name in ("silu_and_mul", "silu_and_mul_out", "gelu_and_mul", "outer"):
        assert callable(getattr(flag_gems.fused, name))
    assert flag_gems.modules.GemsSiluAndMul and flag_gems.modules.gems_silu_and_mul
    assert callable(flag_gems.pointwise) and callable(flag_gems.utils.pointwise_dynamic)


def test_code_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = flag_gems.utils.code_cache
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))
    assert cache.cache_dir() == cache.code_cache_dir() == cache.config_cache_dir() == tmp_path / "cache"
    assert flag_gems._C.warm("cpu", None, "neg", "float32")
    assert any(cache.cache_dir().rglob("*.*"))
    cache.clear_cache()
    assert flag_gems.info()["cache"]["entries"] == 0
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="FLAGGEMS_CACHE_DIR"):
        cache.cache_dir()


def test_typed_pointers() -> None:
    TypedPtr = flag_gems.utils.tensor_wrapper.TypedPtr
    x = torch.arange(6, dtype=torch.float32)
    pointer = TypedPtr.from_tensor(x)
    assert (pointer.data_ptr(), pointer.dtype) == (x.data_ptr(), torch.float32)
    assert TypedPtr.from_tensor(x, 2).data_ptr() == x[2:].data_ptr()
    halves = TypedPtr.reinterpret_tensor(x, torch.float16, 3)
    assert (halves.data_ptr(), halves.dtype) == (x.data_ptr() + 6, torch.float16)
    assert TypedPtr(16, torch.int8).ptr == 16


def test_strided_buffers() -> None:
    StridedBuffer = flag_gems.utils.tensor_wrapper.StridedBuffer
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    same = StridedBuffer(x)
    assert (same.shape, same.stride(), same.dtype, same.numel(), same.dim()) == (x.shape, (4, 1), x.dtype, 12, 2)
    assert same.data_ptr() == x.data_ptr() and same.unwrap() is x and same.device == x.device
    flipped = StridedBuffer(x, (2, 4), (4, -1), offset=3)
    assert (flipped.size(), flipped.size(0), flipped.stride(1), flipped.offset()) == (torch.Size([2, 4]), 2, -1, 3)
    assert flipped.data_ptr() == x[0, 3:].data_ptr()
    bytes_ = StridedBuffer(x, (48,), (1,), torch.uint8, offset=5)
    assert (bytes_.element_size(), bytes_.data_ptr(), bytes_.ndim) == (1, x.data_ptr() + 5, 1)
    assert bytes_.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    with pytest.raises(ValueError, match="2 sizes and 1 strides"):
        StridedBuffer(x, (2, 2), (1,))


def test_seed_and_offset_are_those_of_a_kernel() -> None:
    utilities = flag_gems.utils.random_utils
    torch.manual_seed(5)
    first, second = utilities.philox_backend_seed_offset(4), utilities.philox_backend_seed_offset(6)
    assert first != second
    torch.manual_seed(5)
    flag_gems.ops.uniform_(torch.empty(4, device=DEVICE))  # takes one seed, or four numbers
    assert utilities.philox_backend_seed_offset(6) == second
    own = torch.Generator(DEVICE).manual_seed(5)
    assert utilities.philox_backend_seed_offset(4, own) == first
    with pytest.raises(ValueError, match="-1"):
        utilities.philox_backend_seed_offset(-1)


def test_states_that_are_set() -> None:
    utilities = flag_gems.utils.random_utils
    drawn = []
    for seed, offset in ((3, 0), (3, 8), (4, 0), (3, 8), (3, 0)):
        utilities.set_philox_state(seed, offset)
        if DEVICE != "cpu":
            assert utilities.philox_backend_seed_offset(0) == (seed, offset)
        drawn.append(tuple(torch.rand(8, device=DEVICE).tolist()))
    assert drawn[0] == drawn[4] and drawn[1] == drawn[3] and len(set(drawn)) == 3
    torch.manual_seed(3)
    assert tuple(torch.rand(8, device=DEVICE).tolist()) == drawn[0]
    for offset in (2, -4):
        with pytest.raises(ValueError, match="multiple of 4"):
            utilities.set_philox_state(3, offset)


# ---- testing ----


def test_tolerances() -> None:
    testing = flag_gems.testing
    assert testing.RESOLUTION[torch.bfloat16] == 0.016 and testing.RESOLUTION[torch.int32] == 0
    one = torch.ones(3)
    testing.assert_close(one, one.double() + 5e-5, torch.float32)
    with pytest.raises(AssertionError):
        testing.assert_close(one, one + 1e-3, torch.float32)
    testing.assert_close(one, one + 1e-3, torch.float32, reduce_dim=100)
    with pytest.raises(AssertionError):
        testing.assert_close(one, one, torch.float64)
    nan = torch.full((2,), torch.nan)
    testing.assert_equal(nan, nan, equal_nan=True)
    with pytest.raises(AssertionError):
        testing.assert_equal(nan, nan)

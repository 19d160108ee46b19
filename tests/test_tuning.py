"""The table of winners and the choice between it and the model: planted entries, good and bad, and the command."""

from __future__ import annotations

import ctypes as C
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flag_gems import _C, cli, ops
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import native
from test_matmul_config import ALONG_K, ALONG_LINES, BF16, CPU, F32, GPUS, PANEL, WGMMA, Config, Info, Shape

TILES, HOPPER = range(2)
H200 = Info(90, 132, 32, 1024, 16, 227 * 1024, 60 << 20, False, False, True)
VALUE, KEY = 96, 128


@functools.cache
def library() -> C.CDLL:
    """The table, the enumeration and the model, with kernels that are two words each."""
    texts = native.build("empty.so", ("base/error.c",)).parent / "texts.c"
    files = ("matmul.cuh", "matmul.cu", "matmul_wgmma.cu", "matmul_panel.cu", "matmul_thin.cu")
    rows = "".join(f'{{"{name}", "// {name}\\n{name} text", 0}}, ' for name in files)
    texts.write_text(
        f'#include "jit/jit.h"\nconst gems_embedded gems_embedded_files[] = {{{rows}{{NULL, NULL, 0}}}};\n'
    )
    families = tuple(f"families/{name}.c" for name in ("matmul_config", "matmul_wgmma", "matmul_options"))
    jit = tuple(f"jit/{name}.c" for name in ("tuned", "cache_place", "sha256"))
    sources = (*families, *jit, "base/dtype.c", "base/error.c", "base/text.c", texts)
    lib = C.CDLL(str(native.build("tuning.so", sources)))
    for name in ("gems_matmul_option", "gems_matmul_option_find", "gems_matmul_candidate"):
        getattr(lib, name).restype = C.c_bool
    return lib


def options(shape: Shape, info: Info, route: int) -> list[str]:
    found, text = [], C.create_string_buffer(VALUE)
    while library().gems_matmul_option(C.byref(shape), C.byref(info), route, len(found), text):
        found.append(text.value.decode())
    return found


def configuration(shape: Shape, info: Info, route: int, text: str) -> Config | None:
    config = Config()
    found = library().gems_matmul_option_find(C.byref(shape), C.byref(info), route, text.encode(), C.byref(config))
    return config if found else None


def model(shape: Shape, info: Info, route: int) -> Config:
    config = Config()
    library().gems_matmul_model(C.byref(shape), C.byref(info), route, C.byref(config))
    return config


def key_of(shape: Shape, info: Info, route: int) -> str:
    text = C.create_string_buffer(KEY)
    library().gems_matmul_tuned_key(C.byref(shape), C.byref(info), route, text)
    return text.value.decode()


def line_of(key: str, value: str) -> str:
    return _C.tuned_line(key, value)


sizes = st.one_of(st.integers(1, 300), st.integers(1, 20000))
feeds = st.sampled_from((ALONG_K, ALONG_LINES))
PLACES = [(H200, TILES), (H200, HOPPER), (GPUS["RTX 5090"], TILES), (GPUS["faithful"], TILES), (CPU, TILES)]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from((F32, BF16)), st.integers(1, 9), sizes, sizes, sizes, feeds, feeds)
def test_options_are_configurations_of_the_shape(
    place: tuple[Info, int], dtype: int, batch: int, m: int, n: int, k: int, feed_a: int, feed_b: int
) -> None:
    info, route = place
    if route == HOPPER:
        dtype, m, n = BF16, max(m, n), min(m, n)  # as the sides of a thin product are exchanged
    shape = Shape(batch, m, n, k, dtype, feed_a, feed_b)
    every = options(shape, info, route)
    assert len(set(every)) == len(every) < 300
    # The first is the model's own; its tiles are among those that a table may name.
    first = configuration(shape, info, route, every[0])
    chosen = model(shape, info, route)
    assert first is None or bytes(first) == bytes(chosen) or first.kernel == PANEL
    for text in every[1:]:
        config = configuration(shape, info, route, text)
        assert config is not None, text
        if text == "other":
            continue
        parts = config.parts
        assert config.shared <= info.shared_bytes or info.fast
        assert parts.tiles_m * parts.tile_m >= m and parts.tiles_n * parts.tile_n >= n
        parted = route == HOPPER and config.thin and config.cluster > 1  # blocks of a cluster have parts of k
        assert (parts.split - 1) * parts.split_k < k <= (config.cluster if parted else parts.split) * parts.split_k
        if route == HOPPER:
            assert config.kernel == WGMMA and (parted or config.grid <= 132 * config.blocks)
            assert config.thin == (n <= 64) or (parted and parts.tile_n >= 64)
            assert not (parts.tile_n < 64 and feed_b == ALONG_LINES)


def test_options_combine_tiles_parts_and_order() -> None:
    square = options(Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_LINES), H200, HOPPER)
    for word in ("other", "128x64x64", "256x256x64", "cluster 2", "group 16"):
        assert any(word in text for text in square), word
    decode = options(Shape(1, 4096, 16, 4096, BF16, ALONG_K, ALONG_K), H200, HOPPER)
    assert {text.split(" split ")[1].split()[0] for text in decode if "wgmma" in text} >= {"1", "2", "4", "8"}
    fast = options(Shape(1, 1024, 1024, 1024, F32), CPU, TILES)
    assert {text.split()[2] for text in fast} == {str(rows) for rows in range(1, 9)} - {"5", "6", "7"} | {"5", "6", "7"}
    thin = options(Shape(1, 4, 4096, 4096, F32, 2, ALONG_K), CPU, TILES)
    assert any(text.startswith("thin") for text in thin) and any(text.startswith("panel") for text in thin)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.sampled_from(PLACES), sizes, sizes, sizes, st.integers(0, 63), st.integers(0, 63), st.integers(0, 255))
def test_shapes_of_a_class_have_the_same_tiles(
    place: tuple[Info, int], m: int, n: int, k: int, dm: int, dn: int, dk: int
) -> None:
    info, route = place
    one, other = (Shape(1, *sizes, BF16, ALONG_K, ALONG_K) for sizes in ((m, n, k), (m + dm, n + dn, k + dk)))
    assume(key_of(one, info, route) == key_of(other, info, route) and not info.fast)
    config = Config()
    for i in range(12):
        if not library().gems_matmul_candidate(BF16, info.arch, i, C.byref(config)):
            break
        for extent, tile in (("m", config.parts.tile_m), ("n", config.parts.tile_n)):
            if tile < 64 and getattr(one, extent) > 32:  # for few rows; nobody wants it for others
                continue
            assert -(-getattr(one, extent) // tile) == -(-getattr(other, extent) // tile)


def test_keys_tell_apart_what_an_entry_is_not_for() -> None:
    shape = Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_K)
    h100 = Info(90, 132, 32, 1024, 16, 227 * 1024, 50 << 20, False, False, True)
    keys = {
        key_of(shape, H200, HOPPER),
        key_of(shape, H200, TILES),
        key_of(shape, h100, HOPPER),
        key_of(shape, GPUS["B200"], TILES),
        key_of(shape, CPU, TILES),
        key_of(Shape(1, 4096, 4096, 4096, 5, ALONG_K, ALONG_K), H200, HOPPER),
        key_of(Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_LINES), H200, HOPPER),
        key_of(Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_K, 0, True), H200, HOPPER),
        key_of(Shape(2, 4096, 4096, 4096, BF16, ALONG_K, ALONG_K), H200, HOPPER),
        key_of(Shape(1, 4097, 4096, 4096, BF16, ALONG_K, ALONG_K), H200, HOPPER),
    }
    assert len(keys) == 10
    # Decoding is one class up to 16 rows.
    assert len({key_of(Shape(1, 4096, n, 4096, BF16, ALONG_K, ALONG_K), H200, HOPPER) for n in range(1, 17)}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mma",
        "wgmma 128x256x64 stages 4 cluster 1 split 1",
        "wgmma 128x256x64 stages 4 cluster 1 split 1 group 8 ",
        "wgmma 128x256x64 stages 4 cluster 1 split 1 group 7",
        "wgmma 128x256x64 stages 4 cluster 1 split 0 group 8",
        "wgmma 128x256x64 stages 4 cluster 1 split 99 group 8",
        "wgmma 128x256x64 stages 4 cluster 1 split -1 group 8",
        "wgmma 128x256x64 stages 99 cluster 1 split 1 group 8",
        "wgmma 128x250x64 stages 4 cluster 1 split 1 group 8",
        "wgmma 0128x256x64 stages 4 cluster 1 split 1 group 8",
        "wgmma_thin 128x64x64 stages 8 cluster 2 split 1 group 8",
        "wgmma_thin 128x16x64 stages 12 cluster 1 split 1 group 8",
        "mma 128x256x32 stages 3 cluster 0 split 1 group 8",
        "panel rows 1 depth 256",
        "panel rows 99999999999999999999 depth 256",
    ],
)
def test_texts_that_name_nothing_for_a_shape(text: str) -> None:
    shape = Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_K)
    good = next(t for t in options(shape, H200, HOPPER)[2:] if t.startswith("wgmma 128x256x64"))
    assert configuration(shape, H200, HOPPER, good) is not None
    assert configuration(shape, H200, HOPPER, text) is None


def test_a_configuration_is_not_for_every_shape() -> None:
    decode = Shape(1, 4096, 16, 4096, BF16, ALONG_K, ALONG_K)
    parted = next(text for text in options(decode, H200, HOPPER) if "128x16x64" in text and " split 8 " in text)
    assert configuration(decode, H200, HOPPER, parted) is not None
    # Not deep enough for so many parts; along lines a tile has 64 columns; not thin.
    assert configuration(Shape(1, 4096, 16, 1024, BF16, ALONG_K, ALONG_K), H200, HOPPER, parted) is None
    assert configuration(Shape(1, 4096, 16, 4096, BF16, ALONG_K, ALONG_LINES), H200, HOPPER, parted) is None
    assert configuration(Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_K), H200, HOPPER, parted) is None
    thin = "thin rows 1 depth 0"
    assert configuration(Shape(1, 4, 64, 64, F32, 2, ALONG_K), CPU, TILES, thin) is not None
    assert configuration(Shape(1, 5, 64, 64, F32, 2, ALONG_K), CPU, TILES, thin) is None


# ---- lines ----


def test_lines_come_back_and_damaged_ones_do_not() -> None:
    line = line_of("matmul 12 sm_90", "wgmma 128x256x64")
    assert _C.tuned_parse(line) == ("matmul 12 sm_90", "wgmma 128x256x64")
    for end in range(len(line)):
        assert _C.tuned_parse(line[:end]) is None
    for at in range(len(line)):
        for byte in ("!", "~", " ", "=", "9", "\n"):
            if line[at] != byte:
                assert _C.tuned_parse(line[:at] + byte + line[at + 1 :]) is None, (at, byte)
    for other in (line + " ", " " + line, "2" + line[1:], line + "\r", "", "# a comment", line.upper()):
        assert _C.tuned_parse(other) is None


@pytest.mark.parametrize(
    ("key", "value"), [("", "a"), ("a", ""), ("a=b", "c"), ("a", "b\n"), ("k" * 128, "v"), ("k", "v" * 96), ("a~", "b")]
)
def test_what_is_no_entry_is_not_written(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="not an entry"):
        _C.tuned_line(key, value)


def test_shipped_lines_are_entries() -> None:
    text = (native.CSRC / "jit" / "tuned.def").read_text()
    lines = [
        line.removeprefix('GEMS_TUNED("').removesuffix('")') for line in text.splitlines() if 'GEMS_TUNED("1' in line
    ]
    assert text.count('GEMS_TUNED("1') == len(lines)
    found = [_C.tuned_parse(line) for line in lines]
    assert all(found) and len({entry[0] for entry in found}) == len(lines)


# ---- the choice ----

PRODUCT = Shape(1, 96, 200, 300, F32, 2, ALONG_LINES)


def chosen(cache: Path, shape: Shape = PRODUCT, info: Info = CPU, route: int = TILES) -> str:
    """What is chosen with the table of a cache directory, which a library reads once: by a copy of its own."""
    config, text = Config(), C.create_string_buffer(VALUE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAGGEMS_CACHE_DIR", str(cache))
        fresh = C.CDLL(str(native.copy_of(Path(library()._name))))
        fresh.gems_matmul_choose(C.byref(shape), C.byref(info), route, C.byref(config))
    library().gems_matmul_option_text(C.byref(config), text)
    return text.value.decode()


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, str, list[str]]:
    """A cache directory without a table; the key of a product, and its options."""
    cache = tmp_path / "cache"
    cache.mkdir()
    every = options(PRODUCT, CPU, TILES)
    assert chosen(cache) == every[0] and len(every) > 3
    return cache, key_of(PRODUCT, CPU, TILES), every


def planted(plain: tuple[Path, str, list[str]], text: str | bytes, shape: Shape = PRODUCT) -> str:
    """What is chosen with a table of this text."""
    (plain[0] / "tuned.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return chosen(plain[0], shape)


def test_a_good_entry_is_taken(plain: tuple[Path, str, list[str]]) -> None:
    _, key, every = plain
    other = line_of(key, every[2])
    assert planted(plain, f"{other}\n") == every[2]
    # Comments, damaged lines and keys of others stand beside it; of two with its key the last one counts.
    noise = f"# winners\n\n{other[:-1]}\n{line_of('matmul 0 sm_0', 'x')}\n"
    assert planted(plain, f"{line_of(key, every[1])}\n{noise}{other}\n{other[:40]}") == every[2]


def test_what_is_wrong_is_ignored(plain: tuple[Path, str, list[str]]) -> None:
    _, key, every = plain
    good, model = line_of(key, every[2]), every[0]
    version, device = key.split()[1], key.split()[2]
    for text in (
        line_of(key.replace(device, device + "1"), every[2]),
        line_of(key.replace(version, "00000000"), every[2]),
        line_of(key.replace("float32", "float64"), every[2]),
        line_of(key, "wgmma 128x256x64 stages 4 cluster 1 split 1 group 8"),
        line_of(key, "panel rows 9 depth 256"),
        line_of(key, "thin rows 1 depth 0"),
        line_of(key, "nonsense"),
        "2" + good[1:],
        b"\0" * 5000 + b"\xff" * 5000,
        good.encode()[:-3] + b"\n" + os.urandom(3000),
    ):
        assert planted(plain, text) == model, text


def test_a_truncated_table_gives_the_entry_or_the_model(plain: tuple[Path, str, list[str]]) -> None:
    _, key, every = plain
    two = f"{line_of(key, every[1])}\n{line_of(key, every[2])}\n"
    for end in range(len(two)):
        complete = sum(line in two[:end].split("\n") for line in two.split("\n")[:2])
        assert planted(plain, two[:end]) == every[complete]


def test_an_entry_holds_for_its_class_where_it_can(plain: tuple[Path, str, list[str]]) -> None:
    _, key, every = plain
    wanted = next(text for text in every if text.endswith("depth 128"))
    assert planted(plain, line_of(key, wanted), Shape(1, 65, 255, 257, F32, 2, ALONG_LINES)) == wanted
    assert planted(plain, line_of(key, wanted), Shape(1, 96, 200, 600, F32, 2, ALONG_LINES)) != wanted
    assert planted(plain, line_of(key, wanted), Shape(1, 96, 200, 300, F32, 2, ALONG_K)) != wanted


def test_an_entry_of_a_gpu(plain: tuple[Path, str, list[str]]) -> None:
    # 16 parts of a depth of 4000 would be too small.
    for shape, taken in ((Shape(1, 1024, 16, 4096, BF16), True), (Shape(1, 1000, 7, 4000, BF16), False)):
        cache, info = plain[0], H200
        wanted = next(text for text in options(Shape(1, 1024, 16, 4096, BF16), info, HOPPER) if " split 16 " in text)
        (cache / "tuned.txt").write_text(line_of(key_of(shape, info, HOPPER), wanted))
        assert (chosen(cache, shape, info, HOPPER) == wanted) == taken
    # Left to the kernels of other devices.
    shape = Shape(1, 64, 64, 2048, BF16)
    (cache / "tuned.txt").write_text(line_of(key_of(shape, info, HOPPER), "other"))
    assert chosen(cache, shape, info, HOPPER).startswith("mma")


@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "unreadable"])
def test_a_table_that_is_no_file_is_ignored(plain: tuple[Path, str, list[str]], tmp_path: Path, kind: str) -> None:
    cache, key, every = plain
    table, real = cache / "tuned.txt", tmp_path / "real"
    real.write_text(line_of(key, every[2]) + "\n")
    if kind == "link":
        table.symlink_to(real)
    elif kind == "directory":
        table.mkdir()
    elif kind == "fifo":
        os.mkfifo(table)
    else:
        table.write_text("")
        table.chmod(0)
    try:
        assert chosen(cache) == every[0]
    finally:
        table.rmdir() if kind == "directory" else table.unlink()


# ---- calls, in a process of their own: a table is read once ----

SCRIPT = """
import json, sys, torch
from flag_gems import _C, ops
a, b = torch.ones(96, 300), torch.ones(300, 200)
_C.tuning_watch(True)
_C.tuning_force("table", "table")
assert bool((ops.mm(a, b) == 300).all())
key, options, chosen = _C.tuning_asked()["tiles"]
_C.tuning_watch(False)
assert bool((ops.mm(a, b) == 300).all())
print(json.dumps([key, options, _C.tuned_entries(), chosen]))
"""


def in_process(cache: Path) -> tuple[str, list[str], list[list], str]:
    """What a process with a cache directory has: key and options of a product, the entries, and what it was given."""
    environment = {**os.environ, "FLAGGEMS_CACHE_DIR": str(cache), "GEMS_VENDOR": "cpu"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return tuple(json.loads(done.stdout))


# ---- the command ----


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="configurations of the cpu backend")
def test_tune_measures_stores_and_is_believed(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "--shapes", "96x200x300", "--layouts", "nn", "--budget", "0.05", "--quiet"]
    # Whatever is fastest is worth an entry, or the model's own is.
    assert cli.main([*command, "--least-gain", "-99", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["tried"] > 2 and not result["wrong"] and result["best_s"] > 0 and result["aten_s"] > 0
    *_, entries, chosen = in_process(own_cache)
    assert chosen == result["winner"]
    if result["winner"] == result["model"]:
        assert all(shipped for *_, shipped in entries)
    else:
        assert (own_cache / "tuned.txt").read_text() == result["lines"][0] + "\n"
    assert not list(own_cache.glob(".tmp-*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="configurations of the cpu backend")
def test_tune_without_a_gain_stores_nothing(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "--shapes", "64x64x64", "--layouts", "nt", "--budget", "0.05", "--least-gain", "10000"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "mm float32 64x64x64 nt" in out and "~" not in out
    assert not (own_cache / "tuned.txt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="configurations of the cpu backend")
def test_every_operator_can_be_tuned_and_user_tensors_are_not_touched(own_cache: Path) -> None:
    from flag_gems import tune

    a, b = torch.randn(96, 300), torch.randn(300, 200)
    kept, expected = (a.clone(), b.clone()), ops.mm(a, b)
    work = tune.plan(list(tune.OPS), ["48x64x80"], ["float64"], ["tn"])
    results = list(tune.run(work, 0.03, 0.02, 2, False))
    assert [str(r.product.op) for r in results] == list(tune.OPS)
    assert all(r.tried >= 1 and not r.wrong and not r.reason for r in results)
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1]) and torch.equal(ops.mm(a, b), expected)


def test_results_that_are_off_are_never_stored(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flag_gems import tune

    real = tune.ran

    def off(product: tune.Product, choice: tune.Choice, arguments: tuple) -> tuple:
        result, asked = real(product, choice, arguments)
        return (result if choice == tune.MODEL or result is None else result + 1), asked

    monkeypatch.setattr(tune, "ran", off)
    result = tune.tune(tune.Product("mm", "float32", (96, 200, 300), "nn"), -0.99, 0.02, lambda text: None)
    assert len(result.wrong) == result.tried - 1 and not result.lines and result.winner == result.model


def test_stored_lines_replace_those_of_their_key(own_cache: Path) -> None:
    from flag_gems import tune

    assert tune.store([line_of("a", "1"), line_of("b", "1")]) == own_cache / "tuned.txt"
    (own_cache / "tuned.txt").open("a").write("rubbish\n")
    tune.store([line_of("a", "2")])
    text = (own_cache / "tuned.txt").read_text()
    assert text == f"{line_of('b', '1')}\n{line_of('a', '2')}\n"
    assert (own_cache / "tuned.txt").stat().st_mode & 0o777 == 0o600


def test_shipped_entries_are_in_force() -> None:
    """Each has a version of today, and a configuration that its product may have on the device that it names."""
    shipped = [(key, value) for key, value, ours in _C.tuned_entries() if ours]
    for key, value in shipped:
        version, device, dtype, layout, sizes = key.split()[1:]
        route = _C.tuned_versions().index(version)
        assert (device, dtype, layout) == ("sm_90/132/60M", "bfloat16", "kk"), "say here how to read it"
        shape = Shape(*map(int, sizes.split("x")), BF16, ALONG_K, ALONG_K)
        assert key_of(shape, H200, route) == key and configuration(shape, H200, route, value) is not None
    assert shipped


def test_list_says_what_is_of_other_configurations(own_cache: Path) -> None:
    mine, other = (line_of(f"matmul {version} x", "y") for version in (_C.tuned_versions()[0], "00000000"))
    (own_cache / "tuned.txt").write_text(f"{mine}\n{other}\n")
    done = subprocess.run([sys.executable, "-m", "flag_gems", "tune", "--list"], capture_output=True, text=True)
    listed = [line for line in done.stdout.splitlines() if "(shipped)" not in line]
    assert listed == ["matmul 00000000 x = y (of other configurations)", f"matmul {_C.tuned_versions()[0]} x = y"]


def test_arguments_of_the_command(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        ["--ops", "add"],
        ["--shapes", "12"],
        ["--shapes", "0x1x1"],
        ["--layouts", "xx"],
        ["--dtypes", "int8"],
    ):
        assert cli.main(["tune", *wrong]) == 2
    assert cli.main(["tune", "--shapes", "2x3x4x5"]) == 2
    error = capsys.readouterr().err
    assert "squares" in error and "baddbmm" in error
    assert cli.main(["tune", "--list"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("hopper", [True, False])
def test_every_configuration_of_a_gpu_gives_the_product(hopper: bool, tmp_path: Path) -> None:
    """On a CPU that plays the device."""
    environment = {**os.environ, "FLAGGEMS_CACHE_DIR": str(tmp_path), "GEMS_VENDOR": "cpu", "GEMS_CPU_MODE": "faithful"}
    if hopper:
        environment["GEMS_CPU_DEVICE"] = "sm_90a"
    shapes = "70x130x520,20x130x520" if hopper else "70x130x520"
    command = ["-m", "flag_gems", "tune", "--dtypes", "bfloat16", "--shapes", shapes, "--layouts", "nt", "--json"]
    done = subprocess.run(
        [sys.executable, *command, "--budget", "0.01", "--dry-run"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert all(result["tried"] > 5 and not result["wrong"] for result in results)
    assert all(("wgmma" in result["model"]) == hopper for result in results)

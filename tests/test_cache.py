"""The disk cache: entries survive, damage is a miss, a cache that cannot be used fails nothing."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import resource
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_cache import Cache, build

PAYLOAD = bytes(range(256)) * 2
TRAILER = 200  # about what follows the payload
NOBODY = 65534


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A directory that every user can enter: some tests give up root."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def library(public: Path) -> Path:
    return build(public)


@pytest.fixture
def cache(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))
    return Cache(library)


def run(library: Path, code: str, env: dict[str, str | None] | None = None) -> subprocess.CompletedProcess:
    """Runs code in a new process with `cache`, `KEY` and `PAYLOAD` defined; None takes a variable away."""
    head = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from native_cache import Cache
        cache = Cache({str(library)!r})
        KEY, PAYLOAD = {key_of(0)!r}, {PAYLOAD!r}
    """
    environment = dict(os.environ)
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    text = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def key_of(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


def warnings_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if "flag_gems warning" in line]


def test_sha256_is_that_of_the_standard(cache: Cache) -> None:
    rng = random.Random(0)
    for size in [*range(200), 1000, 4096, 100_003]:
        data = rng.randbytes(size)
        assert cache.sha256(data) == hashlib.sha256(data).hexdigest(), size


def test_key_depends_on_each_part(cache: Cache) -> None:
    base = cache.key("text")
    assert len(base) == 64 and base == cache.key("text")
    others = [
        cache.key("text "),
        cache.key("text", arch="sm_80"),
        cache.key("text", compiler="nvrtc 13.1"),
        cache.key("text", options="-O2"),
        cache.key("text", arch="sm_90", compiler="anvrtc 13.0"),
    ]
    assert len({base, *others}) == 6


def test_round_trip(cache: Cache) -> None:
    assert cache.get(key_of(0)) is None
    path = cache.put(key_of(0), PAYLOAD, (32, 0, 48, 640, 12.5))
    assert Path(path).read_bytes().startswith(PAYLOAD)
    assert cache.get(key_of(0)) == (PAYLOAD, (32, 0, 48, 640, 12.5), path)
    assert cache.get(key_of(1)) is None
    assert not list(Path(cache.directory()).rglob(".tmp-*"))


def test_empty_and_large_payloads(cache: Cache) -> None:
    for i, size in enumerate((0, 1, 63, 64, 65, 5_000_000)):
        data = random.Random(i).randbytes(size)
        cache.put(key_of(i), data)
        assert cache.get(key_of(i))[0] == data


def test_put_again_replaces(cache: Cache) -> None:
    cache.put(key_of(0), b"old")
    cache.put(key_of(0), b"new")
    assert cache.get(key_of(0))[0] == b"new"
    assert cache.measure()[0] == 1


def test_modes(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_others_lose_the_right_to_write(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert cache.put(key_of(0), PAYLOAD)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o755


def test_truncated_at_every_byte(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    whole = path.read_bytes()
    assert len(whole) > len(PAYLOAD) + TRAILER // 2
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cache.get(key_of(0)) is None, size
        assert not path.exists(), size
    path.write_bytes(whole)
    assert cache.get(key_of(0))[0] == PAYLOAD


def test_each_flipped_bit_is_noticed(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    whole = path.read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        assert cache.get(key_of(0)) is None, i
        assert not path.exists(), i


def test_bytes_too_many_are_noticed(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    path.write_bytes(path.read_bytes() + b"\0")
    assert cache.get(key_of(0)) is None


def test_entry_of_another_key_is_refused(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    other = Path(cache.put(key_of(1), b"other"))
    other.write_bytes(path.read_bytes())
    assert cache.get(key_of(1)) is None
    assert not other.exists()


def test_stale_format_is_refused(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    data = bytearray(path.read_bytes())
    trailer = data[len(PAYLOAD) :]
    trailer[8:12] = (99).to_bytes(4, "little")
    trailer[-32:] = hashlib.sha256(trailer[:-32]).digest()  # whole and consistent, but of another version
    path.write_bytes(data[: len(PAYLOAD)] + trailer)
    assert cache.get(key_of(0)) is None
    assert not path.exists()


def test_things_that_are_no_files(cache: Cache, tmp_path: Path) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    kept = tmp_path / "kept"
    path.rename(kept)
    path.symlink_to(kept)
    assert cache.get(key_of(0)) is None
    assert kept.exists() and not path.is_symlink()
    path.mkdir()
    assert cache.get(key_of(0)) is None
    assert cache.put(key_of(0), PAYLOAD) == ""


def test_nonsense_keys(cache: Cache) -> None:
    for key in ("", "ab", "../" * 21 + "x", "g" * 64, "a" * 65, key_of(0).upper()):
        assert cache.put(key, PAYLOAD) == ""
        assert cache.get(key) is None
    assert cache.measure() == (0, 0)


def test_shared_object_is_loaded_from_the_entry(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "f.c"
    source.write_text("int answer(void) { return 42; }\n")
    made = tmp_path / "f.so"
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    path = cache.put(key_of(0), made.read_bytes())
    assert ctypes.CDLL(path).answer() == 42


def test_sixteen_processes_on_a_cold_directory(library: Path, tmp_path: Path) -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import hashlib
        from native_cache import Cache
        cache = Cache({str(library)!r})
        sys.stdin.readline()
        for turn in range(3):
            for i in range(40):
                key = hashlib.sha256(str(i).encode()).hexdigest()
                want = key.encode() * (i + 1)
                got = cache.get(key)
                if got is None:
                    path = cache.put(key, want)
                    assert path, i
                    got = cache.get(key)
                assert got is not None and got[0] == want, i
    """
    env = dict(os.environ, FLAGGEMS_CACHE_DIR=str(tmp_path / "deep" / "cold"))
    command = [sys.executable, "-c", textwrap.dedent(code)]
    processes = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(16)
    ]
    for p in processes:  # all at once
        p.stdin.write(b"\n")
        p.stdin.flush()
    for p in processes:
        _, errors = p.communicate(timeout=120)
        assert p.returncode == 0, errors.decode()
        assert errors == b""
    files = [p for p in (tmp_path / "deep" / "cold").rglob("*") if p.is_file()]
    assert len(files) == 40


def test_cleared_while_others_write(library: Path, cache: Cache) -> None:
    code = """
        import hashlib
        for i in range(400):
            key = hashlib.sha256(str(i % 20).encode()).hexdigest()
            assert cache.put(key, PAYLOAD), i
            got = cache.get(key)
            assert got is None or got[0] == PAYLOAD
    """
    head = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom native_cache import Cache\n"
    head += f"cache = Cache({str(library)!r})\nPAYLOAD = {PAYLOAD!r}\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    removed = 0
    deadline = time.monotonic() + 100
    while any(w.poll() is None for w in writers) and time.monotonic() < deadline:
        removed += cache.clear()
    for w in writers:
        _, errors = w.communicate(timeout=20)
        assert w.returncode == 0, errors.decode()
        assert not warnings_in(errors.decode())
    assert removed > 0
    cache.clear()
    assert cache.measure() == (0, 0)


def test_measure_clear_and_foreign_files(cache: Cache) -> None:
    for i in range(10):
        cache.put(key_of(i), PAYLOAD)
    top = Path(cache.directory())
    (top / "notes.txt").write_text("mine")
    (top / "ab").mkdir(exist_ok=True)
    (top / "ab" / "notes.txt").write_text("mine")
    entries, size = cache.measure()
    assert entries == 10
    assert size == sum(p.stat().st_size for p in top.rglob("*.entry"))
    assert cache.clear() == 10
    assert sorted(p.name for p in top.rglob("*") if p.is_file()) == ["notes.txt", "notes.txt"]


def test_prune_takes_the_longest_unused(cache: Cache) -> None:
    paths = [Path(cache.put(key_of(i), PAYLOAD)) for i in range(6)]
    size = paths[0].stat().st_size
    now = time.time()
    for i, path in enumerate(paths):
        os.utime(path, (now - 10_000 * (6 - i),) * 2)
    assert cache.get(key_of(0))  # a hit makes the oldest the youngest
    assert cache.prune(6 * size) == 0
    assert cache.prune(3 * size) == 3
    assert [p.exists() for p in paths] == [True, False, False, False, True, True]
    assert cache.prune(0) == 3
    assert cache.measure() == (0, 0)


def test_abandoned_temporary_files_go(cache: Cache) -> None:
    path = Path(cache.put(key_of(0), PAYLOAD))
    old, young = path.with_name(".tmp-1-1"), path.with_name(".tmp-1-2")
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.prune(1 << 40)
    assert not old.exists() and young.exists() and path.exists()


def test_directory_order(library: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = "print(cache.directory())"
    none = {"FLAGGEMS_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": str(home)}
    assert run(library, code, none).stdout.strip() == str(home / ".cache/flag_gems")
    xdg = {**none, "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert run(library, code, xdg).stdout.strip() == str(tmp_path / "xdg/flag_gems")
    assert run(library, code, {**xdg, "XDG_CACHE_HOME": "relative"}).stdout.strip() == str(home / ".cache/flag_gems")
    own = {**xdg, "FLAGGEMS_CACHE_DIR": str(tmp_path / "own")}
    assert run(library, code, own).stdout.strip() == str(tmp_path / "own")


TWICE = """
    import hashlib
    for i in range(3):
        key = hashlib.sha256(str(i).encode()).hexdigest()
        assert cache.get(key) is None
        assert cache.put(key, PAYLOAD) == ""
    print(cache.directory(), cache.measure(), cache.clear(), cache.prune(0))
"""


@pytest.mark.parametrize("home", [None, "", "/nonexistent/home"])
def test_missing_home(library: Path, home: str | None) -> None:
    done = run(library, TWICE, {"FLAGGEMS_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": home})
    assert done.stdout.split() == ["None", "(0,", "0)", "0", "0"]
    assert len(warnings_in(done.stderr)) == 1
    assert "FLAGGEMS_CACHE_DIR" in done.stderr
    assert not Path("/nonexistent").exists()


def test_directory_that_is_a_file(library: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        done = run(library, TWICE, {"FLAGGEMS_CACHE_DIR": str(path)})
        assert len(warnings_in(done.stderr)) == 1


def as_nobody(code: str) -> str:
    """Code that gives up root first; unchanged for other users."""
    return (f"os.setgid({NOBODY}); os.setuid({NOBODY})\n" if os.geteuid() == 0 else "") + textwrap.dedent(code)


def test_read_only_directory(library: Path, public: Path) -> None:
    top = public / "cache"
    run(library, "assert cache.put(KEY, PAYLOAD)", {"FLAGGEMS_CACHE_DIR": str(top)})
    made = [top, *top.rglob("*")]
    for path in made:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        path.chmod(0o500)
    code = as_nobody("""
        assert cache.get(KEY)[0] == PAYLOAD
        for i in "123":
            assert cache.put(i * 64, PAYLOAD) == ""
        assert cache.get(KEY)[0] == PAYLOAD
    """)
    done = run(library, code, {"FLAGGEMS_CACHE_DIR": str(top)})
    for path in made:
        path.chmod(0o700)
    assert len(warnings_in(done.stderr)) == 1
    assert "Permission denied" in done.stderr


def test_foreign_owner_is_refused(library: Path, tmp_path: Path) -> None:
    top = tmp_path / "cache"
    if os.geteuid() == 0:
        run(library, "assert cache.put(KEY, PAYLOAD)", {"FLAGGEMS_CACHE_DIR": str(top)})
        os.chown(top, NOBODY, NOBODY)
    else:
        top = Path("/usr")
    done = run(library, TWICE, {"FLAGGEMS_CACHE_DIR": str(top)})
    assert done.stdout.split()[0] == "None"
    assert len(warnings_in(done.stderr)) == 1
    assert "another user" in done.stderr


def test_full_disk(library: Path, cache: Cache, tmp_path: Path) -> None:
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
        for i in "123":
            assert cache.put(i * 64, b"x" * 5000) == ""
        assert cache.put(KEY, PAYLOAD[:64])
        assert cache.get(KEY)[0] == PAYLOAD[:64]
    """
    done = run(library, code)
    assert len(warnings_in(done.stderr)) == 1
    assert "File too large" in done.stderr
    assert [p.name.startswith(".tmp") for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [False]


def test_the_environment_may_change(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(key_of(0), PAYLOAD)
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "other"))
    assert cache.get(key_of(0)) is None
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))
    assert cache.get(key_of(0))[0] == PAYLOAD


def test_relative_directory_is_made_absolute(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", "here")
    assert cache.directory() == str(tmp_path / "here")


def test_text_grows(cache: Cache) -> None:
    pieces = [("%s %d;", "a" * i, i) for i in range(300)] + [("%s", "b" * 10_000)]
    want = "".join(f"{'a' * i} {i};" for i in range(300)) + "b" * 10_000
    assert cache.text(pieces) == want


def test_kernel_text(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.kernel_text("one.cuh") == "first\n"
    assert cache.kernel_text("cpu/two.h") == "second"
    assert cache.kernel_text("three.cu") is None
    monkeypatch.setenv("GEMS_KERNEL_DIR", str(tmp_path))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/two.h").write_text("edited")
    (tmp_path / "three.cu").write_text("x" * 100_000)
    assert cache.kernel_text("one.cuh") == "first\n"
    assert cache.kernel_text("cpu/two.h") == "edited"
    assert cache.kernel_text("three.cu") == "x" * 100_000
    (tmp_path / "cpu/two.h").write_text("edited again")
    assert cache.kernel_text("cpu/two.h") == "edited again"

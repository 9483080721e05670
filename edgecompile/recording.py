"""Records what a user's function reads, so that it need not run again while that is unchanged.

Seen are files that Python opens, folders that it lists, files that it asks about, variables of the
environment, and the sources of the user's modules. What may read without being seen (another process, the
network, native code that opens files itself) makes a record untrusted: such a function runs in every build.
The clock and random numbers are taken for constant: the same inputs give the same result.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from edgecompile.reads import (
    OWN_FOLDER,
    Reads,
    content_digest,
    link_target,
    listing_digest,
    variable_digest,
)

_CODE = (".py", ".pyc", ".pyi", ".so", ".pth")
_VOLATILE = ("/proc/", "/sys/", "/dev/")
_TORCH_CODE = re.compile(
    r"-packages/(torch|torchgen|torchao|functorch|executorch|networkx|sympy|mpmath|numpy|onnx\w*)/"
)
_STARTS_A_PROCESS = frozenset(
    ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn", "os.system", "subprocess.Popen")
)
# Packages with native code that opens files through Python's `open`, if any. All else with native code may
# read what nobody sees, as `safetensors` or `cv2` do.
_SEEN_THROUGH = frozenset(
    """
    PIL _brotli _cffi_backend _cython_3 _ruamel_yaml brotli charset_normalizer cloudpickle contourpy
    coverage cryptography cython executorch fontTools functorch google hypothesis jinja2 joblib kiwisolver
    markupsafe matplotlib ml_dtypes mlxtend mypy numpy onnx onnx_ir onnxruntime onnxscript onnxsim pandas
    psutil pydantic_core rpds ruamel scipy skimage sklearn sympy threadpoolctl torch torchao torchgen
    tree_sitter tree_sitter_kotlin tree_sitter_swift tree_sitter_typescript yaml
    """.split()  # noqa: SIM905 (a list of words)
)


class Recording:
    """What was read so far; `reads` ends it."""

    def __init__(self) -> None:
        self._opened: dict[str, tuple[int, ...] | None] = {}
        self._written: set[str] = set()
        self._folders: set[str] = set()
        self._presence: dict[str, bool] = {}
        self._links: dict[str, str | None] = {}
        self._environment: dict[str, str | None] = {}
        self._unseen: list[str] = []

    def saw_open(self, path: Any, mode: Any, flags: Any) -> None:
        """Note that a file is about to be opened."""
        name = _absolute(path)
        if name is None or _is_installed_code(name):
            return
        if name == "/dev/stdin":
            self._unseen.append("it reads the standard input")
        if name.startswith(_VOLATILE):
            return
        writes = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or (
            isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        )
        if writes:
            self._written.add(name)
        self._opened.setdefault(name, _state(name))

    def saw_listing(self, path: Any) -> None:
        """Note that a folder is about to be listed."""
        name = _absolute("." if path is None else path)
        if name is not None and not name.startswith((*_VOLATILE, *_installed_folders())):
            self._folders.add(name)

    def saw_question(self, path: Any, there: bool) -> None:
        """Note that a path was asked about."""
        name = _absolute(path)
        if name is None or name.startswith((*_VOLATILE, *_installed_folders(), OWN_FOLDER)):
            return
        self._presence.setdefault(name, there)

    def saw_variable(self, name: str) -> None:
        """Note that a variable of the environment was read."""
        self._environment.setdefault(name, variable_digest(name))

    def saw_link(self, path: Any) -> None:
        """Note that a symbolic link was followed by hand."""
        name = _absolute(path)
        if name is not None and not name.startswith((*_VOLATILE, *_installed_folders(), OWN_FOLDER)):
            self._links.setdefault(name, link_target(name))

    def saw_unseen(self, reason: str) -> None:
        """Note that something may read what is not seen."""
        self._unseen.append(reason)

    def reads(self) -> Reads:
        """Hash all that was read, as it is now."""
        self._unseen += _native_readers()
        files: dict[str, str | None] = {}
        for name in sorted({*self._opened, *_user_sources()}):
            before = self._opened.get(name)
            if before is None and name in self._opened and name in self._written and _state(name) is None:
                continue  # a temporary file that came and went
            files[name] = content_digest(name)
            if name in self._opened and name not in self._written and before != _state(name):
                self._unseen.append(f"{name} changed while it was read")
        temporary = {name for name in self._written if name not in files}
        presence = {
            name: there
            for name, there in sorted(self._presence.items())
            if name not in files
            and name not in temporary
            and name not in self._folders
            # What the function made itself is there next time, too.
            and os.path.exists(name) == there  # noqa: PTH110
        }
        return Reads(
            files=files,
            folders={name: listing_digest(name) for name in sorted(self._folders)},
            presence=presence,
            links=dict(sorted(self._links.items())),
            environment=dict(sorted(self._environment.items())),
            unseen=self._unseen[0] if self._unseen else "",
        )


_active: list[Recording] = []
_lock = threading.Lock()
_thread = threading.local()
_is_hooked = False


@contextmanager
def recording() -> Iterator[Recording]:
    """Record what is read until the end of the block, by any thread."""
    global _is_hooked  # noqa: PLW0603 (a hook cannot be removed, so there is one for the whole process)
    record = Recording()
    with _lock:
        if not _is_hooked:
            sys.addaudithook(_audit)
            _is_hooked = True
        _active.append(record)
    with _seen_questions(), _seen_environment(), _seen_native_readers():
        try:
            yield record
        finally:
            with _lock:
                _active.remove(record)


def _tell(note: Callable[[Recording], None]) -> None:
    """Tell all recordings of something, but for what they read themselves meanwhile."""
    if getattr(_thread, "is_telling", False):
        return
    _thread.is_telling = True
    try:
        for record in tuple(_active):
            note(record)
    finally:
        _thread.is_telling = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active:
        return
    if event == "open":
        _tell(lambda record: record.saw_open(*arguments))
    elif event in ("os.listdir", "os.scandir"):
        # The import system lists folders to find modules; those that it finds are recorded as sources. And
        # torch looks for its plugins wherever modules are.
        is_import = sys._getframe(1).f_code.co_filename.startswith("<frozen importlib")
        if not is_import and not _is_torchs_own():
            _tell(lambda record: record.saw_listing(arguments[0]))
    elif event in _STARTS_A_PROCESS:
        _tell(lambda record: record.saw_unseen("it starts another process, whose reads are not seen"))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        _tell(lambda record: record.saw_unseen("it uses the network"))


@contextmanager
def _seen_questions() -> Iterator[None]:
    """Let `os.stat`, by which Python asks for files, and `os.readlink` be seen: no event tells of them."""
    asked = os.stat

    @functools.wraps(asked)
    def stat(path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
        try:
            result = asked(path, *arguments, **keywords)
        except (FileNotFoundError, NotADirectoryError):
            if not _is_torchs_own():
                _tell(lambda record: record.saw_question(path, False))
            raise
        if not _is_torchs_own():
            _tell(lambda record: record.saw_question(path, True))
        return result

    followed = os.readlink

    @functools.wraps(followed)
    def readlink(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if not _is_torchs_own():
            _tell(lambda record: record.saw_link(path))
        return followed(path, *arguments, **keywords)

    os.stat, os.readlink = stat, readlink
    try:
        yield
    finally:
        os.stat, os.readlink = asked, followed


def _is_torchs_own() -> bool:
    """Tell whether torch asks, or a library below it: how they log or compile changes no program."""
    frame = sys._getframe(2)
    standard = os.path.dirname(os.__file__)  # noqa: PTH120
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        is_standard = name.startswith((standard, "<frozen")) and "-packages" not in name
        if not is_standard:
            return _TORCH_CODE.search(name) is not None
        frame = frame.f_back
    return False


class _SeenEnvironment(os._Environ):  # type: ignore[type-arg]
    def __getitem__(self, name: str) -> str:
        if isinstance(name, str) and not _is_torchs_own():
            _tell(lambda record: record.saw_variable(name))
        return super().__getitem__(name)  # type: ignore[no-any-return]


@contextmanager
def _seen_environment() -> Iterator[None]:
    before = os.environ.__class__
    os.environ.__class__ = _SeenEnvironment
    try:
        yield
    finally:
        os.environ.__class__ = before


@contextmanager
def _seen_native_readers() -> Iterator[None]:
    """Let torch's own file readers be seen, which open files in C++."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    library = torch._C
    before = {name: getattr(library, name) for name in ("PyTorchFileReader", "import_ir_module")}

    def seen(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            for value in (*arguments, *keywords.values()):
                if isinstance(value, str) and os.path.isfile(value):  # noqa: PTH113
                    _tell(partial(Recording.saw_open, path=value, mode="r", flags=0))
            return original(*arguments, **keywords)

        return call

    for name, original in before.items():
        setattr(library, name, seen(original))
    try:
        yield
    finally:
        for name, original in before.items():
            setattr(library, name, original)


def _absolute(path: Any) -> str | None:
    if isinstance(path, int):
        return None
    try:
        name = os.fsdecode(path)
    except TypeError:
        return None
    return os.path.normpath(os.path.join(os.getcwd(), name))  # noqa: PTH118, PTH109


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names}
    folders |= {str(Path(folder).resolve()) for folder in folders}
    folders |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    return tuple(f"{folder}/" for folder in sorted(folders))


def _is_installed_code(name: str) -> bool:
    if name.startswith(OWN_FOLDER) or "/__pycache__/" in name:
        return True
    if not name.startswith(_installed_folders()):
        return name.endswith(".zip") and not os.path.exists(name)  # noqa: PTH110 (of `sys.path`, never there)
    return name.endswith(_CODE) or ".so." in name or ".dist-info/" in name


def _state(name: str) -> tuple[int, ...] | None:
    """Return what changes when a file does; None where there is none."""
    try:
        found = os.lstat(name) if not os.path.islink(name) else Path(name).stat()  # noqa: PTH114
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _user_sources() -> Iterator[str]:
    """Yield the source files of all modules that are not installed."""
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # `torch.ops` and its like have a file name that is none.
        if isinstance(file, str) and file.endswith(".py") and os.path.isabs(file):  # noqa: PTH117
            name = _absolute(file)
            if name is not None and not _is_installed_code(name):
                yield name


def _native_readers() -> Iterator[str]:
    """Say which packages with native code may read files unseen."""
    for name, module in tuple(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith((".so", ".pyd")) or "lib-dynload" in file:
            continue
        # The folder says whose it is: what Cython shares within a package calls itself `_cyutility` in each.
        home = max(
            (folder for folder in _installed_folders() if file.startswith(folder)), key=len, default=""
        )
        place = file.removeprefix(home).partition("/")[0] if home else name
        package = place.partition(".")[0]
        # What mypyc compiled is Python that opens files as Python does; its module has a hash for a name.
        if package not in _SEEN_THROUGH and not package.endswith("__mypyc"):
            yield f"the package {package!r} may read files that are not seen"

"""From loops in LLVM IR to functions that XLA calls: its C interface, threads, compilation and caching."""

import contextlib
import ctypes
import hashlib
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from jaxviz._files import write_atomically
from jaxviz._own_folders import NotOwnError, own_folder, read_own_file
from jaxviz.fast.machine_code._builder import INT, INT32, POINTER, Builder
from jaxviz.fast.machine_code._jobs import Program, job_of, number_of
from jaxviz.fast.machine_code._machine import THREADS

# The part of XLA's C interface that is used here: names and order as in `xla/ffi/api/c_api.h`, which jaxlib ships.

_ENUM, _SIZE, _POINTER = ctypes.c_int32, ctypes.c_size_t, ctypes.c_void_p
_HEAD = (("struct_size", _SIZE), ("extension_start", _POINTER))
XLA_FFI_Extension_Metadata = 1
_VERSION = {"major_version": 0, "minor_version": 1}  # the first with all fields that are read here


class XLA_FFI_Buffer(ctypes.Structure):
    """An array."""

    _fields_ = (*_HEAD, ("dtype", _ENUM), ("data", _POINTER))


class XLA_FFI_Args(ctypes.Structure):
    """The function's arguments: `size` pointers to buffers."""

    _fields_ = (*_HEAD, ("size", ctypes.c_int64), ("types", _POINTER), ("args", _POINTER))


class XLA_FFI_Rets(ctypes.Structure):
    """The function's results: `size` pointers to buffers."""

    _fields_ = (*_HEAD, ("size", ctypes.c_int64), ("types", _POINTER), ("rets", _POINTER))


class XLA_FFI_CallFrame(ctypes.Structure):
    """The single argument of the function that XLA calls."""

    _fields_ = (
        *_HEAD, ("api", _POINTER), ("ctx", _POINTER), ("stage", _ENUM), ("args", XLA_FFI_Args), ("rets", XLA_FFI_Rets),
    )  # fmt: skip


class XLA_FFI_Extension_Base(ctypes.Structure):
    """What `extension_start` points to: its `type` is Metadata if XLA queries the function instead of calling it."""

    _fields_ = (("struct_size", _SIZE), ("type", _ENUM), ("next", _POINTER))


class XLA_FFI_Api_Version(ctypes.Structure):
    """The version of the interface."""

    _fields_ = (*_HEAD, ("major_version", ctypes.c_int32), ("minor_version", ctypes.c_int32))


class XLA_FFI_Metadata(ctypes.Structure):
    """The function's reply to a query."""

    _fields_ = (("struct_size", _SIZE), ("api_version", XLA_FFI_Api_Version), ("traits", ctypes.c_int32))


class XLA_FFI_Metadata_Extension(ctypes.Structure):
    """Where the function writes its reply."""

    _fields_ = (("extension_base", XLA_FFI_Extension_Base), ("metadata", _POINTER))


# job = addresses of arguments and results; no item taken, no thread started
# start all of the plan's threads but one; act as the last one
# wait for the others
def _handler(program: Program) -> ir.Module:
    """Return a module with the function that XLA calls."""
    module = ir.Module()
    of_thread, layout = program.work(module), job_of(*program.arguments, *program.results)
    b = Builder(module, program.name, [POINTER], program.lanes, returns=POINTER, linkage="")
    (frame,), null = b.function.args, ir.Constant(POINTER, None)
    job = b.memory(POINTER, ctypes.sizeof(layout) // 8)
    threads = b.memory(POINTER, THREADS)
    _answer(b, frame)
    given = b.load_field(b.field(frame, XLA_FFI_CallFrame, "args"), XLA_FFI_Args, "args")
    made = b.load_field(b.field(frame, XLA_FFI_CallFrame, "rets"), XLA_FFI_Rets, "rets")
    arrays = [(given, i) for i in range(len(program.arguments))] + [(made, i) for i in range(len(program.results))]
    for field, (array, i) in zip((*program.arguments, *program.results), arrays, strict=True):
        data = b.load_field(b.load_pointer(array, i), XLA_FFI_Buffer, "data")
        b.store(data, b.field(job, layout, field))
    for field in ("taken", "started"):
        b.store(INT(0), b.field(job, layout, field))
    count = number_of(b, program.plan, b.load_field(job, layout, "plan"), "threads")
    create = ir.Function(module, ir.FunctionType(INT32, [POINTER] * 4), "pthread_create")
    join = ir.Function(module, ir.FunctionType(INT32, [INT, POINTER]), "pthread_join")
    with b.loop(count, start=1) as i:  # a thread that cannot start is no error: the others do its work
        place = b.at(threads, i, of=INT)
        failed = b.icmp_unsigned("!=", b.call(create, [place, null, of_thread, job]), INT32(0))
        b.store(b.select(failed, INT(0), b.load(place, typ=INT)), place)
    b.call(of_thread, [job])
    with b.loop(count, start=1) as i:
        thread = b.load(b.at(threads, i, of=INT), typ=INT)
        with b.if_then(b.icmp_unsigned("!=", thread, INT(0))):
            b.call(join, [thread, null])
    b.ret(null)
    return module


# if XLA queries the function: reply with the interface version that this was written for, and return
def _answer(b: Builder, frame: Any) -> None:
    extension, null = b.load_field(frame, XLA_FFI_CallFrame, "extension_start"), ir.Constant(POINTER, None)
    with b.if_then(b.icmp_unsigned("!=", extension, null)):
        kind = b.load_field(extension, XLA_FFI_Extension_Base, "type")
        with b.if_then(b.icmp_unsigned("==", kind, INT32(XLA_FFI_Extension_Metadata))):
            metadata = b.load_field(extension, XLA_FFI_Metadata_Extension, "metadata")
            version = b.field(metadata, XLA_FFI_Metadata, "api_version")
            for field, number in _VERSION.items():
                b.store(INT32(number), b.field(version, XLA_FFI_Api_Version, field))
            b.store(INT32(0), b.field(metadata, XLA_FFI_Metadata, "traits"))
            b.ret(null)


_REGISTERED: set[str] = set()
_ONCE = threading.Lock()


def register(program: Program) -> None:
    """Compile for this processor and register the function with XLA, unless that was done."""
    with _ONCE:
        if program.name in _REGISTERED:
            return
        address = _compiled(str(_handler(program))).get_function_address(program.name)
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        jax.ffi.register_ffi_target(program.name, capsule(address, None, None), platform="cpu")
        _REGISTERED.add(program.name)


_ENGINES: list[Any] = []  # keeps the compiled code alive


def _compiled(text: str) -> Any:
    """Return an engine with the compiled module; its code is cached in JAX's compilation cache, if that is on."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Keep vectors at full length: LLVM would halve them on processors that slow down for long ones.
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    # Without LLVM's IR passes: they take twice as long as the rest and make nothing faster.
    target = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features)
    libc = ctypes.CDLL(None)
    for function in ("pthread_create", "pthread_join"):
        llvm.add_symbol(function, ctypes.cast(getattr(libc, function), ctypes.c_void_p).value)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    told = repr((text, llvmlite.__version__, llvm.llvm_version_info, cpu, features))
    folder = _folder()
    path = folder and folder / f"jaxviz-{hashlib.sha256(told.encode()).hexdigest()}.o"
    code = _kept(path) if path else None
    if code is None:
        module = llvm.parse_assembly(text)
        module.verify()
        code = target.emit_object(module)
        if path:
            _keep(path, code)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    return engine


def _folder() -> Path | None:
    """Return the folder of JAX's compilation cache, if it is on, on disk, and writable by no other user."""
    folder, wanted = (
        getattr(jax.config, f"jax_{option}", None) for option in ("compilation_cache_dir", "enable_compilation_cache")
    )
    if not folder or not wanted or "://" in folder:
        return None
    try:
        return own_folder(Path(folder))
    except NotOwnError as error:
        warnings.warn(f"machine code is compiled again, neither loaded nor cached: {error}", stacklevel=2)
        return None


def _keep(path: Path, code: bytes) -> None:
    with contextlib.suppress(OSError):  # an unwritable folder is no reason to fail
        write_atomically(path, hashlib.sha256(code).digest() + code)


def _kept(path: Path) -> bytes | None:
    """Return the code in a file, if it is complete and the user's own."""
    kept = read_own_file(path) or b""
    return kept[32:] if hashlib.sha256(kept[32:]).digest() == kept[:32] else None

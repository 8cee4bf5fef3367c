"""A pickle of tensors -> inert values: nothing that it names is looked up, imported or called.

A pickle is a program. This runs the few instructions that ``torch.save`` writes for tables of tensors, on values of our own, and refuses
every other one: neither Python's unpickler nor torch's is used, whatever the version.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

from ...errors import readable
from ...records import dataclass
from .dtypes import BYTES, CODES
from .table import TensorInfo, is_shape

MOST_STEPS = 600_000  # instructions; a checkpoint of 5,000 tensors has 200,000, and each may make an object of 80 bytes
MOST_MARKS = 1000
LARGEST_KEY = 1 << 31  # of a table; multiples of 2^61 - 1 have one hash, and finding one of them looks at all
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "",
}  # fmt: skip
# Objects beside the tensors of checkpoints of Stable Diffusion: kept as nothing.
_IGNORED = {
    "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint", "pytorch_lightning.callbacks.early_stopping EarlyStopping",
    "pytorch_lightning.utilities.parsing AttributeDict", "numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "numpy dtype",
    "_codecs encode", "torch device", "torch.serialization _get_layout",
}  # fmt: skip


class NotPlainError(Exception):
    """A pickle holds something else than tensors in tables; the words follow the file's name."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle mentions: never looked up."""

    name: str  # module and attribute


@dataclass(frozen=True)
class Storage:
    """The bytes that tensors share."""

    key: str
    dtype: str  # "" for bytes whose meaning the tensor says
    values: int  # bytes where the dtype is ""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor: a window on a storage; its ``begin`` is counted from the storage's first byte."""

    storage: Storage
    info: TensorInfo


class Ignored:
    """What a pickle made of a class that tells nothing about tensors."""


def unpickle(file: IO[bytes]) -> Any:
    """Run one pickle up to its end and return what it stands for. Raises NotPlainError, or whatever damaged bytes lead to."""
    machine = _Machine()
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if steps > MOST_STEPS:
            raise NotPlainError("holds a pickle of more steps than any table of tensors")
        machine.step(opcode.name, argument)
    return machine.result()


class _Machine:
    """The stack of a pickle that is run."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise NotPlainError(f"holds a pickle with the instruction {name}, which no table of tensors needs")

    def result(self) -> Any:
        """Return what is left at the end."""
        if len(self.stack) != 1 or self.marks:
            raise ValueError("the pickle ends in the middle")
        return self.stack[0]

    def to_mark(self) -> list[Any]:
        """Take what lies on top of the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def mark(self, _: Any) -> None:
        if len(self.marks) >= MOST_MARKS:
            raise NotPlainError("holds a pickle that is nested deeper than any table of tensors")
        self.marks.append(self.stack)
        self.stack = []

    def remember(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def recall(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def name(self, argument: Any) -> None:
        name = str(argument)
        module, _, attribute = name.rpartition(" ")
        harmless = module in ("torch", "torch.cuda", "torch.storage") and (attribute in _STORAGES or attribute in CODES)
        if not harmless and name not in _BUILDERS and name not in _IGNORED and name not in _TYPES:
            if "string_to_param" in self.memo.values():
                raise NotPlainError("is an embedding (textual inversion), not a network")
            raise NotPlainError(f"is not opened: it holds more than tensors ({readable(name, 80)}), of which nothing was executed")
        self.stack.append(Global(name))

    def stacked_name(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(attribute, str) and isinstance(module, str)):
            raise ValueError("a name is no text")
        self.name(f"{module} {attribute}")

    def reference(self, _: Any) -> None:
        self.stack.append(_storage(self.stack.pop()))

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_call(function, arguments))

    def set_state(self, _: Any) -> None:
        self.stack.pop()  # attributes, such as the versions in a state dict's _metadata

    def tuple_of(self, number: int) -> None:
        cut = len(self.stack) - number
        if cut < 0:
            raise IndexError("the stack is too short")
        self.stack[cut:] = [tuple(self.stack[cut:])]

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def tuple_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(tuple(items))

    def list_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Ignored):
            raise ValueError("values are appended to what is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Ignored):
            return
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("entries are added to what is no table")
        for key, value in zip(values[::2], values[1::2]):
            target[_sound_key(key)] = value


_PUSHED = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "STRING",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None, "FRAME": lambda machine, _: None, "STOP": lambda machine, _: None,
    "MARK": _Machine.mark, "GLOBAL": _Machine.name, "STACK_GLOBAL": _Machine.stacked_name, "BINPERSID": _Machine.reference,
    "REDUCE": _Machine.call, "NEWOBJ": _Machine.call, "BUILD": _Machine.set_state,
    "PUT": _Machine.remember, "BINPUT": _Machine.remember, "LONG_BINPUT": _Machine.remember, "MEMOIZE": _Machine.remember,
    "GET": _Machine.recall, "BINGET": _Machine.recall, "LONG_BINGET": _Machine.recall,
    "POP": _Machine.pop, "TUPLE": _Machine.tuple_to_mark, "LIST": _Machine.list_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1), "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]), "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "SETITEM": _Machine.set_item, "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
}  # fmt: skip


def _storage(identity: Any) -> Storage:
    """Return the storage that a pickle refers to: ("storage", type, key, device, number of values)."""
    kind, what, key, _, number, *view = identity
    dtype = _STORAGES.get(what.name.rpartition(" ")[2]) if isinstance(what, Global) else None
    if kind != "storage" or dtype is None or not isinstance(key, str) or not _sizes((number,)) or any(view):
        raise NotPlainError("is not opened: it holds a storage of an unknown kind")
    return Storage(key, dtype, number)


def _sizes(numbers: Any) -> bool:
    return isinstance(numbers, (tuple, list)) and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)


def _call(function: Any, arguments: Any) -> Any:
    """Return what a known function would give for these arguments."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError("a call of what is no function")
    builder = _BUILDERS.get(function.name)
    if builder is not None:
        return builder(*arguments)
    if function.name in _IGNORED:
        return Ignored()
    raise NotPlainError(f"is not opened: it holds more than tensors ({readable(function.name, 80)})")


def _table(pairs: Any = ()) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        found[_sound_key(key)] = value
    return found


def _sound_key(key: Any) -> str | int:
    """Return a key of a table. Raises NotPlainError for one that can take for ever: a nested tuple to hash, a number among its like."""
    if type(key) is str or (type(key) is int and abs(key) <= LARGEST_KEY):
        return key
    raise NotPlainError(f"holds a table with a {type(key).__name__ if type(key) is not int else 'huge number'} as a key")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> StoredTensor:
    if not (isinstance(storage, Storage) and _sizes(shape) and _sizes(stride) and _sizes((offset,))):
        raise ValueError("a tensor without a storage or a shape")
    if len(shape) != len(stride) or not is_shape(shape):
        raise ValueError("a tensor whose shape and strides do not fit")
    dtype = next((CODES.get(item.name.rpartition(" ")[2], "") for item in more if isinstance(item, Global)), storage.dtype)
    if not dtype:
        raise NotPlainError("is not opened: it holds a tensor of a type that files do not have")
    held = storage.values * BYTES[storage.dtype] if storage.dtype else storage.values
    info = TensorInfo(dtype, tuple(shape), offset * BYTES[dtype], None if _contiguous(shape, stride) else tuple(stride))
    if 0 in info.shape:
        return StoredTensor(storage, TensorInfo(dtype, info.shape))
    if info.size > held or info.end > held:
        raise NotPlainError(f"is not opened: a tensor of {readable(str(info.shape), 60)} is made of a storage of {held:,} bytes")
    return StoredTensor(storage, info)


def _contiguous(shape: Any, stride: Any) -> bool:
    expected = 1
    for length, step in zip(reversed(shape), reversed(stride)):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _typed(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Return a tensor that was saved with the class it is of: a plain one or a parameter."""
    if not isinstance(kind, Global) or kind.name not in _TYPES:
        raise NotPlainError("is not opened: it holds tensors of a class of its own")
    return _call(function, arguments)


_TYPES = frozenset({"torch.nn.parameter Parameter", "torch Tensor", "torch._tensor Tensor"})
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _table, "torch Size": lambda sizes=(): tuple(sizes),
    "torch._utils _rebuild_tensor": _tensor, "torch._utils _rebuild_tensor_v2": _tensor, "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_parameter": _parameter, "torch._utils _rebuild_parameter_with_state": _parameter,
    "torch._tensor _rebuild_from_type_v2": _typed,
}  # fmt: skip

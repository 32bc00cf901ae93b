"""Readable names for classes."""

from collections.abc import Sequence
from pathlib import Path

from distillation.errors import InputError, reason


def read_class_names(path: Path, classes: Sequence[str]) -> list[str]:
    """The names that the file at `path` gives to `classes`, in their order; an empty file keeps the names they have.

    The file has one line for each class: either a class of the source and its name (`n01440764 tench`), or the names
    alone, in the order of the classes. Empty lines, and comments after #, are ignored. Raises `InputError` where a
    class is unknown or missing, or two classes have one name.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise InputError(f"data.class_names = {str(path)!r} is no file") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise InputError(f"data.class_names = {str(path)!r} cannot be read ({reason(error)})") from None
    lines = list(filter(None, lines))
    if not lines:
        return list(classes)
    pairs = [line.split(maxsplit=1) for line in lines]
    if any(len(pair) == 2 and pair[0] in classes for pair in pairs):
        names = _by_class(path, pairs, classes)
    elif len(lines) != len(classes):
        raise InputError(f"{path} has {len(lines)} names; it should have one for each of the {len(classes)} classes")
    else:
        names = lines
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} has the name {name} twice; each class should have one of its own")
    return names


def _by_class(path: Path, pairs: list[list[str]], classes: Sequence[str]) -> list[str]:
    names = {}
    for known, *name in pairs:
        if known not in classes:
            raise InputError(f"{path} has a line that begins with {known}, which is no class ({classes[0]} is)")
        if known in names or not name:
            raise InputError(f"{path} should have one line for class {known}, and a name in it")
        (names[known],) = name
    for known in classes:
        if known not in names:
            raise InputError(f"{path} has no line for class {known}")
    return [names[known] for known in classes]

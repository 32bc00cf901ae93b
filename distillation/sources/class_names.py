"""Readable names for classes."""

import re
from collections.abc import Sequence
from pathlib import Path

from distillation.errors import InputError, reason
from distillation.files import composed


def read_class_names(path: Path, classes: Sequence[str]) -> list[str]:
    """The names that the file at `path` gives to `classes`, in their order; an empty file keeps the names they have.

    The file has one line for each class: either a class of the source and its name (`n01440764 tench`; a comma or a
    colon may stand between), or the names alone, in the order of the classes. Empty lines, and comments after #, are
    ignored. Raises `InputError` where a class is unknown or missing, or two classes have one name; and for names alone
    where the classes are numbers, which have two orders, or where they are the classes themselves in another order.
    """
    try:
        text = composed(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"data.class_names = {str(path)!r} is no file") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise InputError(f"data.class_names = {str(path)!r} cannot be read ({reason(error)})") from None
    lines = [line for written in text.splitlines() if (line := written.partition("#")[0].strip())]
    if not lines:
        return list(classes)
    keys = sorted(map(composed, classes), key=len, reverse=True)  # of `red fox` and `red`, the longer
    begins = re.compile(rf"({'|'.join(map(re.escape, keys))})(?:\s*[:,]\s*|\s+|$)(.*)")
    pairs = [found.groups() if (found := begins.match(line)) else (None, line) for line in lines]
    if any(known and name for known, name in pairs):
        names = _by_class(path, pairs, classes)
    elif all(map(str.isdecimal, classes)) and sorted(classes, key=int) != list(classes):
        order = ", ".join([*classes[:3], "..."])
        raise InputError(
            f"{path} has names alone, but the classes are numbers in the order of texts ({order}); each line should "
            "be a class and its name"
        )
    elif sorted(lines) == sorted(keys) and lines != [*map(composed, classes)]:
        raise InputError(
            f"{path} has the classes themselves in another order than the data, and would exchange them; each line "
            "should be a class and its name, or the file empty"
        )
    elif len(lines) != len(classes):
        raise InputError(f"{path} has {len(lines)} names; it should have one for each of the {len(classes)} classes")
    else:
        names = lines
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} has the name {name} twice; each class should have one of its own")
    return names


def _by_class(path: Path, pairs: list[tuple[str | None, str]], classes: Sequence[str]) -> list[str]:
    names = {}
    for known, name in pairs:
        if known is None:
            raise InputError(
                f"{path} has a line that begins with {name.split()[0]}, which is no class ({classes[0]} is)"
            )
        if known in names or not name:
            raise InputError(f"{path} should have one line for class {known}, and a name in it")
        names[known] = name
    for known in classes:
        if composed(known) not in names:
            raise InputError(f"{path} has no line for class {known}")
    return [names[composed(known)] for known in classes]

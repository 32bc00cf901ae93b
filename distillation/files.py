"""Files that are either whole under their final name or not there at all."""

import functools
import json
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillation.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` only when the block succeeds.

    The temporary name keeps the suffixes of `path` (libraries choose formats by them). File or
    directory, whichever the block creates.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)  # a directory cannot be renamed onto another
        temporary.replace(path)
    finally:
        _remove(temporary)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` with sorted keys and floats rounded to 6 significant digits, so that equal runs give equal bytes.

    A list is written one item a line: the rows of a plot stay readable in a diff.
    """
    dump = functools.partial(json.dumps, sort_keys=True, allow_nan=False)
    value = _rounded(value)
    rows = isinstance(value, list) and value
    text = "[\n" + ",\n".join(map(dump, value)) + "\n]" if rows else dump(value, indent=2)
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Parse the JSON file at `path`; `InputError` names it where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro`, which makes it") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})") from None


def composed(text: str) -> str:
    """`text` with accents in their letters (Unicode NFC), as in names of classes; macOS writes file names otherwise."""
    return unicodedata.normalize("NFC", text)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float) or hasattr(value, "dtype"):
        value = value.item() if hasattr(value, "item") else value
        return float(f"{value:.6g}") if isinstance(value, float) else value
    return value


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

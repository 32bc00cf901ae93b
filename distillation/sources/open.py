"""Where images come from: the drawn data set, a TFDS data set, or a folder of images."""

import io
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from distillation.errors import InputError, reason
from distillation.files import composed
from distillation.params import Data

MOST_BYTES = 10**9  # of an image file: a film, say, is not read into memory
README = "README.md"  # keeps a folder in Git that has no other file
# Names that data sets give to their splits. Other splits, such as `extra`, are not official ones.
_MEANING = {
    name: split
    for split, names in {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val", "dev"),
        "test": ("test", "testing"),
    }.items()
    for name in names
}


class Original(NamedTuple):
    """An image as its source has it: encoded bytes, label, a name to find it by, and its official split.

    The label is one of 0..classes-1. Where an image has none, label and split are None.
    """

    encoded: bytes
    label: int | None
    source: str
    split: str | None = "train"


@dataclass(frozen=True)
class Source:
    """Labelled images, and facts about their source for the manifest.

    `splits` has the source's own name of each official split. Where it is empty, all images are training images, which
    are split later.
    """

    name: str
    version: str
    classes: list[str]
    count: int
    images: Iterator[Original]
    splits: dict[str, str] = field(default_factory=dict)


@contextmanager
def open_source(data: Data) -> Iterator[Source]:
    """Open the data set that `data.name` asks for: `pet_sketches`, `folder`, or any name TFDS knows."""
    if data.name == "folder":
        labeled, unlabeled = Path(data.folder).resolve(), Path(data.unlabeled).resolve()
        if unlabeled.is_relative_to(labeled) or labeled.is_relative_to(unlabeled):
            raise InputError(
                f"data.unlabeled = {data.unlabeled!r} and data.folder = {data.folder!r}: one lies in the other; they "
                "should lie side by side, since every folder in data.folder is a class"
            )
        yield _folder(Path(data.folder), data.splits)
    elif data.name == "pet_sketches":
        from distillation.sources.pet_sketches import PetSketches

        # TFDS reuses a version that it prepared before. In a new folder, changed drawing code takes effect.
        with tempfile.TemporaryDirectory() as directory:
            with redirect_stdout(io.StringIO()):  # TFDS would tell of a download, and of a folder to be used again
                source = _tfds(PetSketches(data_dir=directory), data.splits)
            yield source
    else:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(data.name)
        except tfds.core.DatasetNotFoundError:
            raise InputError(
                f"data.name = {data.name!r} is not a data set that TensorFlow Datasets knows; "
                "give a name of its catalogue, `pet_sketches`, or `folder`"
            ) from None
        except Exception as error:  # a builder may raise anything, say for a version that does not exist
            raise InputError(f"data.name = {data.name!r}: {reason(error)}") from None
        yield _tfds(builder, data.splits)


def open_unlabeled(folder: Path) -> tuple[int, Iterator[Original]]:
    """How many images without labels there are, and these: all files of `folder` that are not hidden.

    A `README.md` at its top is no image. A folder with that file alone means that there are none. Raises `InputError`
    where it is empty, or not a folder.
    """
    if not folder.is_dir():
        raise InputError(f"data.unlabeled = {str(folder)!r} is no folder; it should hold images without labels")

    def images() -> Iterator[Original]:
        for path in _files(folder):
            if path != folder / README:
                yield Original(path.read_bytes(), None, f"unlabeled/{path.relative_to(folder).as_posix()}", None)

    readme = (folder / README).exists()
    count = sum(1 for _ in _files(folder)) - readme
    if not count and not readme:
        raise InputError(f"data.unlabeled = {str(folder)!r} holds no images; set it to data/unlabeled for none")
    return count, images()


def official_splits(names: Collection[str], where: str) -> dict[str, str]:
    """Which of `names` are official splits: the names of `train`, `test` and, where there is one, `validation`.

    Where only one split is held out from training, it is the test, whatever its name: others publish their results on
    it. Where none is, there are no official splits. Raises `InputError`, which names `where`, if they contradict.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        if split := _MEANING.get(name.lower()):
            if split in found:
                raise InputError(f"{where} has two {split} splits, {found[split]} and {name}; it should have one")
            found[split] = name
    held_out = found.keys() - {"train"}
    if not held_out or len(names) == 1:
        return {}
    if "train" not in found:
        known = " and ".join(sorted(found.values()))
        raise InputError(f"{where} has {known}, but no split to train on; add one, or set data.splits to anew")
    if held_out == {"validation"}:
        found["test"] = found.pop("validation")
    return found


def _folder(folder: Path, splitting: str) -> Source:
    """A folder of one folder of images per class, or of one per official split with these inside.

    It has splits where all folders have names of splits, or where that to train on has folders inside: a class may have
    such a name, too.
    """
    if not folder.is_dir():
        raise InputError(f"data.folder = {str(folder)!r} is no folder; it should hold one folder of images per class")
    inside = _folders(folder)
    _check_names(folder, inside)
    meant = {name: _MEANING[name.lower()] for name in inside if name.lower() in _MEANING}
    training = [folder / name for name, split in meant.items() if split == "train"]
    roots, splits = {folder: "train"}, {}
    if len(meant) == len(inside) or any(map(_folders, training)):
        for name in inside:
            if name not in meant:
                known = " and ".join(meant)
                raise InputError(f"{folder / name} is no split, but stands beside {known}; move it elsewhere")
        if splitting == "official":
            splits = official_splits(inside, f"data.folder = {str(folder)!r}")
        alike = training if splitting == "official" else [folder / name for name in meant]
        roots = {folder / name: split for split, name in splits.items()} or dict.fromkeys(alike, "train") or roots
    names_in = {root: _folders(root) for root in roots}
    classes = sorted({composed(name) for root, split in roots.items() if split == "train" for name in names_in[root]})
    if len(classes) < 2:
        (where,) = [root for root, split in roots.items() if split == "train"][:1]
        where = f"data.folder = {str(folder)!r}" if where == folder else where
        raise InputError(
            f"{where} holds {len(classes)} class folders; it should hold at least two, one per class, with the images "
            "inside"
        )
    counts = {root / name: sum(1 for _ in _files(root / name)) for root, names in names_in.items() for name in names}
    for root, names in names_in.items():
        if not names:
            raise InputError(f"{root} holds no class folders; it should hold one per class, or be moved elsewhere")
        for name in names:
            if composed(name) not in classes:
                raise InputError(f"{root / name} is of a class that {folder / splits['train']} lacks; add it there")
            if not counts[root / name]:
                raise InputError(f"the class folder {root / name} holds no images")

    def images() -> Iterator[Original]:
        for root, names in names_in.items():
            for name in names:
                for path in _files(root / name):
                    source = path.relative_to(folder).as_posix()
                    yield Original(path.read_bytes(), classes.index(composed(name)), source, roots[root])

    return Source("folder", "", classes, sum(counts.values()), images(), splits)


def _check_names(folder: Path, inside: list[str]) -> None:
    """Raise `InputError` for splits of names like `training_set` and `test_set`, which would be taken for classes."""
    alike: dict[str, str] = {}
    for name in inside:
        words = {_MEANING[word] for word in re.split("[^a-z]+", name.lower()) if word in _MEANING}
        if len(words) == 1 and name.lower() not in _MEANING and _folders(folder / name):
            alike[name] = words.pop()
    if len(alike) > 1 and "train" in alike.values():
        names = ", ".join(f"{name} to {split}" for name, split in alike.items())
        raise InputError(f"data.folder = {str(folder)!r} has folders that look like splits; rename {names}")


def _folders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    """Every file in `folder` and below, except hidden ones, in no order: a sorted list could be large."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(Path(entry.path))
            elif entry.is_file():
                if (size := entry.stat().st_size) > MOST_BYTES:
                    raise InputError(f"{entry.path} has {size / 1e9:.1f} GB, which no image has; move it elsewhere")
                try:
                    entry.path.encode()
                except UnicodeEncodeError:
                    raise InputError(f"the file name {entry.path!a} is not UTF-8; rename it") from None
                yield Path(entry.path)


def _tfds(builder, splitting: str) -> Source:
    import tensorflow_datasets as tfds

    features, full_name = builder.info.features, builder.info.full_name
    keys = builder.info.supervised_keys or ("image", "label")
    if not (
        isinstance(features, tfds.features.FeaturesDict)
        and all(isinstance(key, str) and key in features for key in keys[:2])
        and isinstance(features[keys[0]], tfds.features.Image)
        and isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise InputError(f"data.name = {builder.name!r} is not an image-classification data set")

    once = tfds.ReadConfig(try_autocache=False)  # else TFDS keeps up to 250 MB in memory for a second reading

    def read(split: str):
        return builder.as_dataset(split=split, decoders={keys[0]: tfds.decode.SkipDecoding()}, read_config=once)

    try:
        builder.download_and_prepare()
        first = {name: next(iter(read(f"{name}[:1]")), {keys[1]: -1}) for name in builder.info.splits}
        labeled = [name for name, image in first.items() if image[keys[1]] >= 0]  # -1: a test without its answers
        splits = official_splits(labeled, f"data.name = {builder.name!r}") if splitting == "official" else {}
        datasets = {name: read(name) for name in splits.values()} or {"": read("+".join(labeled))}
    except InputError:
        raise
    except Exception as error:  # network, disk and checksum failures of whatever kind
        raise InputError(
            f"{builder.name} can be neither read from {builder.data_dir} nor downloaded: {reason(error)}"
        ) from None
    meant = {name: split for split, name in splits.items()}

    def images() -> Iterator[Original]:
        for name, dataset in datasets.items():
            iterator = dataset.as_numpy_iterator()
            for number in range(len(dataset)):
                place = f"{name}-{number}" if name else f"{number}"
                try:
                    image = next(iterator)
                except Exception as error:  # a truncated or corrupt file of the prepared data set
                    raise InputError(f"{builder.data_dir}, image {place}: {reason(error)}") from None
                split = meant.get(name, "train")
                yield Original(image[keys[0]], int(image[keys[1]]), f"{full_name}#{place}", split)

    name = full_name.removesuffix(f"/{builder.version}")  # with the configuration, where there is one
    count = sum(len(dataset) for dataset in datasets.values())
    return Source(name, str(builder.version), features[keys[1]].names, count, images(), splits)

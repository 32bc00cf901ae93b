"""Where labelled pictures come from: the drawn data set, a TFDS data set, or a folder of images."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distillation.errors import InputError, reason
from distillation.params import Data


@dataclass(frozen=True)
class Source:
    """Labelled pictures, and what the manifest says of where they are from.

    `pictures` yields (encoded image bytes, label in 0..len(classes)-1, a name that finds the picture again).
    """

    name: str
    version: str
    classes: list[str]
    count: int
    pictures: Iterator[tuple[bytes, int, str]]


@contextmanager
def open_source(data: Data) -> Iterator[Source]:
    """Open the data set that `data.name` asks for: `pet_sketches`, `folder`, or any name TFDS knows."""
    if data.name == "folder":
        yield _folder(Path(data.folder))
    elif data.name == "pet_sketches":
        from distillation.sources.pet_sketches import PetSketches

        # TFDS takes up a version that was prepared before: a fresh place makes edits of the drawing code count.
        with tempfile.TemporaryDirectory() as directory:
            yield _tfds(PetSketches(data_dir=directory))
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
        yield _tfds(builder)


def _folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise InputError(f"data.folder = {str(folder)!r} is no folder; it should hold one folder of images per class")
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if len(classes) < 2:
        raise InputError(
            f"data.folder = {str(folder)!r} holds {len(classes)} class folders; it should hold at least two, "
            "one per class, with the images inside"
        )
    files = []
    for label, name in enumerate(classes):
        of_class = sorted(path for path in (folder / name).rglob("*") if path.is_file() and not _hidden(path, folder))
        if not of_class:
            raise InputError(f"the class folder {folder / name} holds no images")
        files += [(path, label) for path in of_class]
    for path, _ in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"the file name {str(path)!a} is not UTF-8; rename it") from None
    pictures = ((path.read_bytes(), label, path.relative_to(folder).as_posix()) for path, label in files)
    return Source("folder", "", classes, len(files), pictures)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _tfds(builder) -> Source:
    import tensorflow_datasets as tfds

    features, full_name = builder.info.features, builder.info.full_name
    keys = builder.info.supervised_keys or ("image", "label")
    if not (
        isinstance(features, tfds.features.FeaturesDict)
        and {keys[0], keys[1]} <= set(features)
        and isinstance(features[keys[0]], tfds.features.Image)
        and isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise InputError(f"data.name = {builder.name!r} is not an image-classification data set")
    try:
        builder.download_and_prepare()
        pictures = builder.as_dataset(split="all", decoders={keys[0]: tfds.decode.SkipDecoding()})
    except Exception as error:  # network, disk and checksum failures of whatever kind
        raise InputError(
            f"{builder.name} can be neither read from {builder.data_dir} nor downloaded: {reason(error)}"
        ) from None

    def numbered() -> Iterator[tuple[bytes, int, str]]:
        iterator = pictures.as_numpy_iterator()
        for number in range(len(pictures)):
            try:
                picture = next(iterator)
            except Exception as error:  # a truncated or corrupt file of the prepared data set
                raise InputError(f"{builder.data_dir}, picture {number}: {reason(error)}") from None
            yield picture[keys[0]], int(picture[keys[1]]), f"{full_name}#{number}"

    name = full_name.removesuffix(f"/{builder.version}")  # with the configuration, where there is one
    return Source(name, str(builder.version), features[keys[1]].names, len(pictures), numbered())

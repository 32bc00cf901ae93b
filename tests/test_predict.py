"""The command that classifies images with a student: the view that it makes, and how it handles files."""

import ast
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from helpers import (
    changed,
    encoded,
    needs_photographs,
    random_examples,
    random_image,
    smooth_image,
    split_examples,
    write,
)
from PIL import Image

from distillation import predict as serving
from distillation.data.records import Records
from distillation.data.splits import Example, image_id
from distillation.data.views import CENTRE, plain
from distillation.errors import InputError
from distillation.inference.forward import forward_pass, plain_images, predict, to_litert
from distillation.networks.network import load_network, save_network
from distillation.networks.students import build_student
from distillation.parallel import AHEAD
from distillation.params import Data, Params
from distillation.predict import COMMITTED, ExportedStudent, classify, find, load_student
from distillation.sources.images import read_rgb, square_jpeg
from distillation.sources.open import open_source
from stages import export

RECORD = Path("results/cats_vs_dogs")


def recorded() -> Data:
    """Which images the committed student was made from; sections of its record may be of an earlier version."""
    return Data.model_validate(yaml.safe_load((RECORD / "params.yaml").read_text())["data"])


def probabilities(student: ExportedStudent, image: Image.Image) -> np.ndarray:
    """The probabilities (classes,) of a student for `image`."""
    (answers,) = student.network(student.view(image)[None]).values()
    return answers[0]


def command(*arguments: str | bytes | Path, stdin: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "distillation.predict", *arguments], input=stdin, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def student() -> ExportedStudent:
    return load_student(COMMITTED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them in a folder within; a hidden file, and one without an image's suffix."""
    for number, name in enumerate(("b.PNG", "deep/a.jpeg", "a.jpg", ".hidden.jpg", ".git/c.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        smooth_image(number, 60, 40).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


# What the network is shown


@pytest.mark.parametrize(("square", "size"), [(180, 96), (96, 32), (33, 32), (40, 64), (250, 100)])
def test_view_is_the_plain_view(square: int, size: int):
    crop = tf.image.central_crop(tf.zeros((square, square, 3)), CENTRE).shape[0]
    for seed in range(5):
        image = smooth_image(seed, square, square)
        seen = ExportedStudent(None, [], square, crop, size, "crop").view(image)
        assert (seen.shape, seen.dtype) == ((size, size, 3), np.float32)
        np.testing.assert_allclose(seen, plain(np.asarray(image)[None], size)[0], atol=0.01)


@pytest.mark.parametrize("shape", [(400, 300), (90, 200), (31, 17)])
@pytest.mark.parametrize("oblong", ["crop", "squeeze"])
def test_images_of_any_shape_become_squares_as_in_prepare(shape: tuple[int, int], oblong: str):
    image = smooth_image(0, *shape)
    stored = tf.io.decode_jpeg(square_jpeg(encoded(image, "PNG"), 120, oblong), dct_method="INTEGER_ACCURATE")
    seen = ExportedStudent(None, [], 120, 96, 48, oblong).view(image)
    assert np.abs(seen - plain(stored[None], 48)[0]).mean() < 1


def test_large_jpegs_are_decoded_small_and_look_the_same():
    content = encoded(smooth_image(0, 1601, 1200), "JPEG", quality=95)
    for least, factor in ((1200, 1), (601, 1), (600, 2), (300, 4), (120, 8), (1, 8)):
        image = read_rgb(content, least)
        assert image.size == (-(-1601 // factor), 1200 // factor)
        difference = np.asarray(image.resize((64, 64)), int) - np.asarray(read_rgb(content).resize((64, 64)))
        assert np.abs(difference).mean() < 1.5
        assert np.abs(difference).max() < 10
    assert read_rgb(encoded(smooth_image(0, 200, 100), "PNG"), 10).size == (200, 100)


# The command


def test_every_image_gets_a_line_in_the_order_asked_for(student: ExportedStudent, folder: Path):
    done = command(folder / "deep/a.jpeg", folder, folder / "*.PNG")
    assert (done.returncode, done.stderr) == (0, "")
    paths = [folder / name for name in ("deep/a.jpeg", "a.jpg", "b.PNG", "deep/a.jpeg", "b.PNG")]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    for path, (_, label, probability) in zip(paths, rows, strict=True):
        answer = probabilities(student, read_rgb(path))
        assert label == ("cat", "dog")[answer.argmax()]
        assert float(probability) == pytest.approx(answer.max(), abs=1e-3)


def test_json_gives_the_probability_of_every_class(folder: Path):
    lines = command("--json", folder).stdout.splitlines()
    plainly = [line.split("\t") for line in command(folder).stdout.splitlines()]
    assert len(lines) == len(plainly) == 3
    for line, (path, label, probability) in zip(lines, plainly, strict=True):
        row = json.loads(line)
        assert (row["path"], row["label"]) == (path, label)
        assert row["probability"] == row["probabilities"][label] == pytest.approx(float(probability), abs=1e-4)
        assert set(row["probabilities"]) == {"cat", "dog"}
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_images_in_linked_folders_are_found(folder: Path, tmp_path: Path):
    """As `prepare` finds them."""
    (folder / "link").symlink_to(folder / "deep")
    (folder / "link back").symlink_to(folder)
    done = command(folder)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        str(folder / name) for name in ("a.jpg", "b.PNG", "deep/a.jpeg", "link/a.jpeg")
    ]


def test_tabs_and_line_breaks_in_names_break_no_line(tmp_path: Path):
    smooth_image(0).save(tmp_path / "a\tb\nc.jpg")
    (tmp_path / "d\r\n.jpg").write_text("no image")
    done = command(tmp_path)
    (line,), (error,) = done.stdout.splitlines(), done.stderr.splitlines()
    assert line.split("\t")[0] == f"{tmp_path}/a\\tb\\nc.jpg"
    assert error.startswith(f"error: {tmp_path}/d\\r\\n.jpg: ")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_paths_come_on_standard_input(folder: Path, arguments: list[str]):
    done = command(*arguments, stdin=f"{folder}/a.jpg\r\n\n{folder}/deep\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [f"{folder}/a.jpg", f"{folder}/deep/a.jpeg"]


def test_standard_input_without_a_path_is_an_error():
    done = command()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: no path on standard input\n")


def test_images_of_every_kind_are_answered_and_the_rest_gets_a_line_each(student: ExportedStudent, tmp_path: Path):
    image = smooth_image(3, 64, 64)
    grey = image.convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]}
    good = {
        "16 bit [1].png": encoded(Image.fromarray(np.asarray(grey, np.uint16) * 257), "PNG"),
        "animated.webp": encoded(image, "WEBP", lossless=True, **frames),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=100),
        "grey.tif": encoded(grey, "TIFF"),
        "phone.jpg": encoded(image, "MPO", quality=100, **frames),
        "rotated.jpg": encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, exif=turned),
        "opaque.png": encoded(image.convert("RGBA"), "PNG"),
    }
    tiff = encoded(image, "TIFF", compression="tiff_lzw")
    bad = {
        "empty.jpg": b"",
        "hidden text.png": b"Dear reader",
        "large.png": encoded(Image.new("1", (11_000, 11_000)), "PNG"),
        "larger.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "phone.heic": b"\0\0\0\x18ftypheic",
        "torn.jpg": encoded(image, "JPEG")[:700],
        "torn.tif": tiff[:100] + bytes(range(256)) * 8 + tiff[2148:],
    }
    for name, content in (good | bad).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "nothing").mkdir()
    wrong = [tmp_path / "nothing", tmp_path / "missing.jpg", tmp_path / "*.gif", tmp_path / ("long" * 100), "README.md"]
    done = command("--json", tmp_path, tmp_path / "16 bit [1].png", *wrong)
    assert done.returncode == 1
    found = {Path(row["path"]).name: row["probabilities"]["dog"] for row in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(good)
    for name, probability in found.items():
        expected = grey.convert("RGB") if name in ("grey.tif", "16 bit [1].png") else image
        assert probability == pytest.approx(probabilities(student, expected)[1], abs=0.02), name
    errors = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in errors] == [
        ["error", str(path)] for path in [*(tmp_path / name for name in sorted(bad)), *wrong]
    ]
    assert all(len(line.split(": ", 2)[2]) > 5 for line in errors)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_gets_a_line(folder: Path):
    for name in ("a.jpg", "deep"):
        (folder / name).chmod(0)
    done = command(folder)
    (folder / "deep").chmod(0o700)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr.splitlines() == [f"error: {folder / name}: Permission denied" for name in ("a.jpg", "deep")]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_name_that_is_no_text_leaves_as_it_came(folder: Path):
    name = os.fsencode(folder) + b"/\xff.png"
    shutil.copy(folder / "b.PNG", name)
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    for arguments, stdin in (([name], b""), (["-"], name + b"\n")):
        done = subprocess.run(
            [sys.executable, "-m", "distillation.predict", *arguments],
            input=stdin,
            capture_output=True,
            env=environment,
        )
        assert (done.returncode, done.stderr, done.stdout.split(b"\t")[0]) == (0, b"", name)


def test_closed_pipe_ends_it_quietly(folder: Path):
    running = subprocess.Popen(
        [sys.executable, "-m", "distillation.predict", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait() != 0


def test_tensorflow_stays_out(folder: Path):
    code = """
import sys
from distillation import predict
try:
    predict.main()
except SystemExit as end:
    print(end.code, {"tensorflow", "keras"} & {name.split(".")[0] for name in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code, folder / "a.jpg"], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["False set()"], done.stderr


def test_console_script_is_the_command():
    scripts = tomllib.loads(Path("pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["distillation-predict"].split(":")
    assert getattr(import_module(module), function) is serving.main


def test_paths_are_taken_as_they_are_needed(student: ExportedStudent, folder: Path):
    """They are not listed at once: there may be millions, and each image takes memory."""
    taken = itertools.count()
    paths = ((str(folder / "a.jpg"), None) for _ in taken)
    answers = list(itertools.islice(classify(student, paths), 20))
    assert len(answers) == 20
    assert next(taken) <= 20 + AHEAD * os.cpu_count() + 1


def test_decoder_that_trips_costs_one_image(student: ExportedStudent, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def trip(file: io.BufferedReader, least: int) -> Image.Image:
        if file.name.endswith("b.PNG"):
            raise ZeroDivisionError("division by zero")
        return read_rgb(file, least)

    monkeypatch.setattr(serving, "read_rgb", trip)
    answers = dict(classify(student, find([str(folder)])))
    assert str(answers.pop(str(folder / "b.PNG"))) == "division by zero"
    assert all(answer.sum() == pytest.approx(1, abs=1e-5) for answer in answers.values())


# The model


def refusal(model: Path) -> str:
    done = command("--model", model, "image.jpg")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    return done.stderr


@pytest.mark.parametrize("name", ["student_float32.tflite", "classes.txt", "preprocessing.json"])
def test_model_that_is_not_whole_is_named(tmp_path: Path, name: str):
    shutil.copytree(COMMITTED, tmp_path / "export")
    (tmp_path / "export" / name).unlink()
    assert f"there is no {tmp_path / 'export' / name}: name an exported student" in refusal(tmp_path / "export")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("student_float32.tflite", b""),
        ("student_float32.tflite", b"no network"),
        ("classes.txt", b"cat\ndog\nbee\n"),
        ("classes.txt", b"\xff\n\xff\n"),
        ("preprocessing.json", b'{"square": 180}'),
        ("preprocessing.json", b"[]"),
        ("preprocessing.json", b'{"square": 180, "crop": 144, "oblong": "stretch"}'),
        ("preprocessing.json", b"{"),
    ],
)
def test_model_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes):
    shutil.copytree(COMMITTED, tmp_path / "export")
    (tmp_path / "export" / name).write_bytes(content)
    assert str(tmp_path / "export") in refusal(tmp_path / "export")


@pytest.mark.parametrize(
    ("size", "outputs", "reason"),
    [
        ((32, 32), ["logits", "again"], r"\[\[2\], \[2\]\] out"),
        ((32, 32), ["last_map"], r"\[\[8, 8, 2\]\] out, 2 classes"),
        ((32, 48), ["logits"], r"\[32, 48, 3\] in"),
    ],
    ids=["two outputs", "a map", "oblong"],
)
def test_network_that_is_no_classifier_of_squares_is_refused(
    tmp_path: Path, size: tuple[int, int], outputs: list[str], reason: str
):
    shutil.copytree(COMMITTED, tmp_path / "export")
    image = keras.Input((*size, 3))
    last_map = keras.layers.Conv2D(2, 3, 4)(image)
    logits, again = keras.layers.GlobalAveragePooling2D()(last_map), keras.layers.GlobalMaxPooling2D()(last_map)
    every = {"last_map": last_map, "logits": logits, "again": again}
    network = keras.Model(image, {name: every[name] for name in outputs})
    (tmp_path / "export" / serving.MODEL).write_bytes(to_litert(network))
    with pytest.raises(InputError, match=f"is not an exported student .*{reason}"):
        load_student(tmp_path / "export")


@pytest.mark.parametrize("variant", ["float16", "int8"])
def test_every_committed_file_answers_alike(student: ExportedStudent, variant: str):
    other = load_student(COMMITTED / f"student_{variant}.tflite")
    for number in range(8):
        image = Image.fromarray(random_image(np.random.default_rng(number), 180))
        np.testing.assert_allclose(probabilities(other, image), probabilities(student, image), atol=0.2)


def test_committed_student_is_fed_what_its_record_says(student: ExportedStudent):
    assert student.square == recorded().image_size


@pytest.fixture(scope="module")
def exported(params: Params, records_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the export stage has run on an untrained student of three classes."""
    place = tmp_path_factory.mktemp("repository")
    (place / "data").mkdir()
    (place / "data/records").symlink_to(records_directory)
    (place / "models").mkdir()
    chosen = params.model_copy(update={"student": changed(params.student, image_size=32, channels=[4, 8])})
    keras.utils.set_random_seed(0)
    save_network(build_student(chosen.student, 3), place / "models/student_distilled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        export.main(chosen)
    return place


def test_exported_student_is_ready_for_use(exported: Path):
    for file in (exported / "models/export", exported / "models/export/student_int8.tflite"):
        student = load_student(file)
        assert (student.classes, student.square, student.crop, student.size) == (["ant", "bee", "cow"], 40, 32, 32)
    image = random_examples(1, 3, 40)[0].jpeg
    (exported / "photo.jpg").write_bytes(image)
    done = command("--model", exported / "models/export", "--json", exported / "photo.jpg")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)["probabilities"]) == {"ant", "bee", "cow"}


def test_code_on_the_model_card_answers_as_the_command_does(exported: Path):
    card = (exported / "models/export/README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, exif in (("upright", Image.Exif()), ("turned", turned)):
        place = exported / name
        shutil.copytree(exported / "models/export", place)
        smooth_image(0, 90, 50).save(place / "photo.jpg", quality=95, exif=exif)
        done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)
        (answer,) = classify(load_student(place), find([str(place / "photo.jpg")]))
        assert done.stdout.startswith("{'ant': ")
        assert [*ast.literal_eval(done.stdout).values()] == pytest.approx(answer[1].tolist(), abs=1e-5)


def test_model_card_says_what_was_measured(exported: Path):
    card = (exported / "models/export/README.md").read_text()
    scores = json.loads((exported / "metrics/export.json").read_text())
    assert scores["float32"]["max_abs_probability_error"] <= 1e-4
    for variant, row in scores.items():
        assert 0 <= row["validation_accuracy"] <= 1
        assert f"| `student_{variant}.tflite` | {100 * row['accuracy']:.1f} % | {row['bytes']:,} |" in card
    assert "`test 1`, 24 images to train on and 6 to test" in card
    assert "3 classes apart: ant, bee, cow." in card
    assert "{" not in card.split("```")[0]
    assert str(exported) not in card


def test_model_card_counts_the_labeled_images(exported: Path, tmp_path: Path):
    splits = split_examples(random_examples(36, 3, 40), ["ant", "bee", "cow"], 0.2, 0.2, seed=0)
    write(tmp_path, splits, ["ant", "bee", "cow"], 40, labeled_fraction=0.5)
    scores = json.loads((exported / "metrics/export.json").read_text())
    network = load_network(exported / "models/student_distilled")
    card = export._card(network, Records("test", directory=tmp_path), 32, scores)
    assert "`test 1`, 12 labeled images to train on and 6 to test" in card


# Real photographs


@pytest.fixture(scope="module")
def tested_photographs() -> list[Example]:
    """1,000 original photographs from the test split of the committed student."""
    data = recorded()
    with open_source(data) as source:
        images = {image_id(content): (content, label, name) for content, label, name, _ in source.images}
        examples = [Example(name, label, place, content) for name, (content, label, place) in images.items()]
    splits = split_examples(
        examples, source.classes, data.validation_fraction, data.test_fraction, data.seed, max_images=data.max_images
    )
    return splits["test"][:1000]


@pytest.mark.slow
@needs_photographs
@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [(None, 1e-5), ((500, 375), 4e-3)],  # measured: 1e-7, and 2e-3, since the pipeline alone stores a squeezed JPEG
    ids=["as they came", "enlarged"],
)
def test_predict_and_evaluate_agree_on_photographs(
    student: ExportedStudent,
    tested_photographs: list[Example],
    tmp_path: Path,
    shape: tuple[int, int] | None,
    tolerance: float,
):
    """No skew; enlarged too, because copies of the data set go round in which all photographs are small squares."""
    originals, stored = tmp_path / "originals", []
    originals.mkdir()
    for example in tested_photographs:
        content = example.jpeg
        if shape:
            content = encoded(read_rgb(content).resize(shape, Image.Resampling.LANCZOS), "JPEG", quality=90)
        (originals / f"{example.id}.jpg").write_bytes(content)
        jpeg = square_jpeg(content, student.square, student.oblong)
        stored.append(Example(example.id, example.label, example.source, jpeg))
    write(tmp_path / "records", {"train": [], "test": stored}, student.classes, student.square)
    records = Records("test", directory=tmp_path / "records")
    forward = forward_pass((COMMITTED / serving.MODEL).read_bytes())
    (evaluated,) = predict(forward, plain_images(records, student.size), "test").values()
    predicted = np.stack([answer for _, answer in classify(student, find([str(originals)]))])
    assert np.abs(predicted - evaluated).mean() < tolerance
    assert (predicted.argmax(axis=1) == records.labels).mean() > 0.92

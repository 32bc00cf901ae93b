"""Put a preset into `params.yaml`: `python -m distillation.preset cats_vs_dogs`.

A preset, `presets/NAME.yaml`, holds the values that it changes in the defaults, or in the preset that it names in
`over`. Where several presets are given, later ones change earlier ones. The comments of `params.yaml` stay.
"""

import argparse
import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from distillation.errors import InputError, reason
from distillation.files import replacing
from distillation.params import Params, leaves, read_yaml, validated

PRESETS = Path(__file__).parents[1] / "presets"


def complete(*names: str) -> Params:
    """The defaults with presets laid over them; `InputError` where there is no such preset, or it is not valid."""
    content: dict = {}
    for name in names:
        _add(content, name)
    return validated(content, PRESETS / f"{names[-1]}.yaml")


def _add(content: dict, name: str) -> None:
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise InputError(f"there is no preset {name}: give one of {known}")
    values = read_yaml(path)
    if isinstance(values, dict) and "over" in values:
        _add(content, values.pop("over"))
    _lay_over(content, values, path)


def write_params(params: Params, path: Path) -> None:
    """Write `params` to `path`; the comments of an existing file with the same keys stay."""
    yaml = YAML()
    yaml.width = 120
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    values = params.model_dump()
    try:
        content = yaml.load(path)
        if leaves(content).keys() != leaves(values).keys():
            content = values
    except (OSError, YAMLError, AttributeError):
        content = values
    _lay_over(content, values, path)
    with replacing(path) as temporary:
        yaml.dump(content, temporary)


def _lay_over(content: dict, values: object, path: Path) -> None:
    if not isinstance(values, dict):
        raise InputError(f"{path} should hold sections of parameters")
    for key, value in values.items():
        if isinstance(value, dict):
            _lay_over(content.setdefault(key, {}), value, path)
        elif isinstance(content.get(key), CommentedSeq) and isinstance(value, list):
            content[key][:] = value  # in the style that it has: another one would break the file
        elif isinstance(value, list):
            content[key] = CommentedSeq(value)
            content[key].fa.set_flow_style()
        else:
            content[key] = value


def main() -> None:
    parser = argparse.ArgumentParser("python -m distillation.preset", description="Put a preset into params.yaml.")
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="of a file in presets/; later ones change earlier ones"
    )
    parser.add_argument("--output", type=Path, default=Path("params.yaml"), help="the file to write (%(default)s)")
    options = parser.parse_args()
    try:
        write_params(complete(*options.names), options.output)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {options.output} cannot be written ({reason(error)})")


if __name__ == "__main__":
    main()

"""On PYTHONPATH, this lets each stage write the parameters that it reads, such as "data.name", to READS/STAGE.json."""

import atexit
import json
import os
import sys
from pathlib import Path


def record(stage: str) -> None:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does later
    from distillation import params

    names, read = {}, set()
    load, look_up = params.load_params, params._Section.__getattribute__

    def loading() -> params.Params:
        loaded = load()
        names.update((id(section), name) for name, section in loaded)
        return loaded

    def recording(section: params._Section, leaf: str) -> object:
        if id(section) in names and leaf in type(section).model_fields:
            read.add(f"{names[id(section)]}.{leaf}")
        return look_up(section, leaf)

    params.load_params, params._Section.__getattribute__ = loading, recording
    atexit.register(lambda: Path(os.environ["READS"], f"{stage}.json").write_text(json.dumps(sorted(read))))


for word in sys.orig_argv:
    if word.startswith("stages."):
        record(word.removeprefix("stages."))

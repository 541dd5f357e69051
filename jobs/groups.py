"""The files that the groups of a configuration choose from: the package's, the working directory's, the user's own."""

import os
from pathlib import Path

import configs

CONFIGS = Path(configs.__file__).parent


def user_folder() -> Path:
    """Where a person's own configurations lie, whatever folder they work in."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return (Path(home).expanduser() / "mvdiff").absolute()


def own_folders() -> list[Path]:
    """Folders with configurations beside the package's: ``configs`` of the working directory, then the user's own."""
    places = [Path.cwd() / "configs", user_folder()]
    return [place for place in places if place.is_dir() and place.resolve() != CONFIGS.resolve()]


def find(group: str, name: str) -> Path | None:
    """The file that ``group=name`` means; None where there is none."""
    files = (place / group / f"{name}.yaml" for place in (CONFIGS, *own_folders()))
    return next((file for file in files if file.is_file()), None)


def choices(group: str) -> list[str]:
    """What ``group=`` can be."""
    return sorted({path.stem for place in (CONFIGS, *own_folders()) for path in (place / group).glob("*.yaml")})

"""From the words of a command line to one checked configuration."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from jobs.groups import CONFIGS, choices, find, own_folders
from mvdiff.errors import InputError, refuse
from mvdiff.evaluate.settings import EvaluateSettings
from mvdiff.generate.settings import GenerateSettings, reference_views
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings
from slurm.cluster import Cluster
from slurm.errors import RequestError

T = TypeVar("T")

_COMMANDS = {"canaries": "doctor cluster=SITE"}
"""What a configuration's command is called where it bears another name."""

_KINDS: dict[str, type] = {
    "model": ModelSettings,
    "train": TrainSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluateSettings,
    "cluster": Cluster,
}
"""What the groups of a job's configuration must make."""

LITERAL = frozenset(
    {
        "data.path", "path", "out", "source", "checkpoint", "results", "train_data", "runs", "model.pretrained",
        "validation", "prior", "ids", "shards", "generate.reference_view",
    }
)  # fmt: skip
LISTED = frozenset({"ids", "shards"})
"""Those of ``LITERAL`` that may name a file with one value a line."""
NULLABLE = LISTED | {"data.path", "checkpoint", "results", "train_data", "model.pretrained", "validation", "prior"}


OPEN = ("cluster.extra", "cluster.environment")
"""Keys that hold keys of the user's choice."""


def composed(job: str, words: Sequence[str]) -> DictConfig:
    """The resolved configuration of ``job`` with the overrides ``words`` (``key=value``, Hydra's grammar).

    ``data=PATH`` is short for ``data.path=PATH`` unless a file of ``configs/data`` bears that name. The keys in
    ``LITERAL`` take their value as it stands, whatever characters a path is made of. After the package's own files
    those of ``own_folders`` are searched: a site's ``cluster/SITE.yaml`` lies there.

    Raises:
        InputError, RequestError: an unknown key or choice (with the nearest valid ones), a missing value, wrong syntax.
    """
    overrides, literals = _sorted_out(words)
    if searched := [_quoted(f"file://{own}") for own in own_folders()]:
        overrides.append(f"hydra.searchpath=[{','.join(searched)}]")
    _refuse_broken_files(overrides)
    with initialize_config_dir(str(CONFIGS), version_base=None):
        try:
            config = compose(job, overrides=overrides)
            for key, value in literals.items():
                OmegaConf.update(config, key, value)
            for key, value in _open_values(words):
                OmegaConf.update(config, key, value, merge=False, force_add=True)
            if "cluster" in config and config.cluster.cpus_per_gpu is not None:
                # what counts threads by it knows one number; a wrong cluster is refused with all else that is wrong
                with suppress(InputError, RequestError):
                    config.cluster.cpus_per_task = settings(Cluster, config.cluster, "cluster").cpus
        except MissingConfigException as error:
            raise _unknown_choice(error) from None
        except (ConfigCompositionException, ConfigKeyError) as error:
            raise _unknown_key(job, error) from None
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise InputError(_first_line(error), f"see mvdiff {_COMMANDS.get(job, job)} --help") from None
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise InputError(f"{key}{_first_line(error)}", f"see mvdiff {_COMMANDS.get(job, job)} --help") from None
    if missing:
        refuse([*_unset(job, missing), *_wrong(config)])
    return config


def refuse_wrong(config: DictConfig) -> None:
    """Look at the settings of every group of ``config``, by themselves.

    Raises:
        InputError, RequestError: what is wrong with any of them.
    """
    refuse(_wrong(config))


def stood_in(config: DictConfig) -> DictConfig:
    """A copy with something valid for what is null, and which only the checkpoint can say."""
    asked = config.copy()
    for key, stand_in in (("sampler", "ddim"), ("steps", 1), ("guidance", 1.0)):
        if asked.generate[key] is None:
            asked.generate[key] = stand_in
    return asked


def _unset(job: str, missing: Sequence[str]) -> Iterator[InputError]:
    for name in missing:
        key = "data" if name == "data.path" else name
        page = "--keys" if "." in key else "--help"
        yield InputError(f"{key} is not set", f"add {key}=... (mvdiff {job} {page} says what it means)")


def _wrong(config: DictConfig) -> Iterator[Exception]:
    for where, kind in _KINDS.items():
        if where not in config or OmegaConf.missing_keys(config[where]):
            continue
        content = dict(config[where])
        try:
            if kind is GenerateSettings:
                content = dict(stood_in(config).generate)
                content["reference_view"] = reference_views(content["reference_view"])[0]
            settings(kind, content, where)
        except (InputError, RequestError) as error:
            yield from all_of(error)


def settings(kind: type[T], node: Any, where: str) -> T:
    """Build the dataclass ``kind`` from a part of the configuration, checking names and types.

    Raises:
        InputError, RequestError: values of the wrong type, with their full keys, or all that the dataclass refuses.
    """
    content = OmegaConf.to_container(node) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(content, dict)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in map(str, content):
        if key not in names:
            raise InputError(f"unknown key {f'{where}.{key}'.lstrip('.')}", nearest(key, names))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.type in ("str", "str | None", str, str | None) and isinstance(content.get(field.name), bool | float):
            key = f"{where}.{field.name}".lstrip(".")
            raise InputError(f"{key}={content[field.name]} is no text", f'quote it: {field.name}: "..."')
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), content)
    except OmegaConfBaseException:
        refuse(_mistyped(kind, content, where))
        raise
    try:
        built = OmegaConf.to_object(merged)
    except (InputError, RequestError) as error:
        refuse(_told_by_parts(kind, merged) or all_of(error))
    except OmegaConfBaseException as error:
        raise _wrong_type(where, error) from None
    assert isinstance(built, kind)
    return built


def all_of(error: Exception) -> list[Exception]:
    """Every single thing that ``error`` tells."""
    return list(getattr(error, "errors", [error]))


def _mistyped(kind: type, content: dict[Any, Any], where: str) -> Iterator[InputError]:
    for name, value in content.items():
        try:
            OmegaConf.merge(OmegaConf.structured(kind), {name: value})
        except OmegaConfBaseException as error:
            yield _wrong_type(where, error)


def _wrong_type(where: str, error: OmegaConfBaseException) -> InputError:
    key = f"{where}.{error.full_key}".lstrip(".")
    return InputError(f"{key}: {_first_line(error)}", "give a value of that type")


def _told_by_parts(kind: Any, merged: Any) -> list[Exception]:
    """What the parts that are dataclasses refuse, and then ``kind`` itself, which is built from good parts alone; empty
    where all of them are good."""
    found: list[Exception] = []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            try:
                OmegaConf.to_object(merged[field.name])
            except (InputError, RequestError) as error:
                found += all_of(error)
    if found:
        unfinished = object.__new__(kind)
        vars(unfinished).update(OmegaConf.to_container(merged))
        try:
            unfinished.__post_init__()
        except (InputError, RequestError) as error:
            found += all_of(error)
    return found


def part(kind: type[T], config: DictConfig) -> T:
    """Build the dataclass ``kind`` from those of the configuration's own keys that bear its fields' names."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return settings(kind, {name: config[name] for name in names}, "")


def _sorted_out(words: Sequence[str]) -> tuple[list[str], dict[str, str | None]]:
    """Overrides for Hydra, and the values that are to be taken as they stand."""
    overrides: list[str] = []
    literals: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key == "experiment" and value != "null":
            # Hydra passes over an optional choice that is not there
            there = choices(key)
            if value not in there:
                raise InputError(f"experiment={value} does not exist", f"choose experiment= from {', '.join(there)}")
        if not equals and not word.startswith("~"):
            raise InputError(f"{word!r} is not an override", "write key=value")
        if key == "data" and value not in choices("data"):
            key = "data.path"
        if key in LITERAL:
            if not value:
                raise InputError(f"{key}= is empty", "give a value, or leave it out")
            if "${" in value:
                mend = f"write it into a file, and give {key}=@FILE" if key in LISTED else "give the path another name"
                raise InputError(f"{key}={value} contains ${{, which configurations expand", mend)
            literals[key] = None if value == "null" and key in NULLABLE else value
            continue
        if key.startswith(OPEN):
            continue
        if word.startswith("+"):
            raise InputError(f"{word!r} adds a key that nothing reads", "leave the + away")
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            raise InputError(
                f"{word!r} cannot be read", f"""quote the value for Hydra and for the shell: {key}="'...'" """.strip()
            ) from None
        if override.is_sweep_override():
            raise InputError(f"{word!r} is no list", f'write it in brackets and quotes: "{key}=[{value}]"')
        overrides.append(word)
    return overrides, literals


def _open_values(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Keys and values for ``OPEN``: ``cluster.extra={a: 1}``, or ``cluster.extra.a=1``, their values in YAML."""
    found = []
    for word in words:
        key, _, text = word.partition("=")
        if key not in OPEN and key.rpartition(".")[0] not in OPEN:
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{word!r} cannot be read", f"quote it for the shell: {key}='...'") from None
        if key in OPEN and not isinstance(value, dict):
            raise InputError(f"{word!r} holds no keys", f"write {key}='{{NAME: VALUE}}' or {key}.NAME=VALUE")
        found.append((key, value))
    return found


def _refuse_broken_files(overrides: Sequence[str]) -> None:
    """Files of the user's own that are chosen, and hold what no configuration can."""
    for group, _, name in (word.partition("=") for word in overrides):
        file = find(group, name) if re.fullmatch(r"\w+", group) and re.fullmatch(r"[\w.-]+", name) else None
        if file is None or file.is_relative_to(CONFIGS):
            continue
        try:
            content = OmegaConf.load(file)
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise InputError(f"{file}{line} is no YAML ({error.problem})", "mend that line") from None
        except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
            raise InputError(f"{file} cannot be read ({_first_line(error)})", "mend it, or make it anew") from None
        if group == "cluster" and not (isinstance(content, DictConfig) and "defaults" in content):
            raise InputError(f"{file} builds on no other", "begin it with the line defaults: [slurm, _self_]")


def _quoted(text: str) -> str:
    """As a value in Hydra's grammar, where only a backslash before a quote is more than itself."""
    return "'" + re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", "\\'") + "'"


def _unknown_key(job: str, error: Exception) -> InputError:
    cause = error.__cause__ or error
    found = re.search(r"[Kk]ey '([^']+)'", str(cause)) or re.search(r"Could not override '([^']+)'", str(error))
    group = re.search(r"Could not override '([^']+)'\.?\s*\n?No match in the defaults list", str(error))
    full = re.search(r"full_key: (\S+)", str(cause))
    key = group.group(1) if group else full.group(1) if full else found.group(1) if found else None
    if key is None:
        return InputError(_first_line(error), f"see mvdiff {_COMMANDS.get(job, job)} --help")
    names = known_keys(job)
    if key in names:
        owner = key.partition(".")[0]
        return InputError(f"{key!r} is no key of this {owner}", f"choose another {owner}=, or leave it away")
    return InputError(f"unknown key {key!r}", nearest(key, names))


def known_keys(job: str) -> list[str]:
    """Every key that ``job`` takes, with dots."""
    if GlobalHydra.instance().is_initialized():
        config = compose(job)
    else:
        with initialize_config_dir(str(CONFIGS), version_base=None):
            config = compose(job)

    def walk(node: Any, prefix: str) -> list[str]:
        keys: list[str] = []
        for name in node:
            keys.append(f"{prefix}{name}")
            if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
                keys += walk(node[name], f"{prefix}{name}.")
        return keys

    return walk(config, "")


def nearest(key: str, names: Sequence[str]) -> str:
    """For a mistyped ``key``: which of ``names`` was meant, or what there is."""
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    last = key.rsplit(".", 1)[-1]
    near += [name for name in names if name.rsplit(".", 1)[-1] == last and name not in near]
    if near:
        return f"did you mean {' or '.join(near[:4])}?"
    return f"the keys here are {', '.join(name for name in names if '.' not in name)}"


def _unknown_choice(error: MissingConfigException) -> InputError:
    name = str(error.missing_cfg_file or "")
    group, _, choice = name.rpartition("/")
    if not group:
        return InputError(_first_line(error), "see mvdiff --help")
    return InputError(f"{group}={choice} does not exist", f"choose {group}= from {', '.join(choices(group))}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]

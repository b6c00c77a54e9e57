"""The options of a peer, and the four places that they come from.

The order is: command line, then environment (``LEPTON_*``), then a TOML file (``--config`` or ``LEPTON_CONFIG``),
then the preset.  The file holds the options in a table ``[lepton]``, or at its top level if it has none;
relative paths in it start at the file's own folder.  Whatever is wrong is said in one line that names the place,
the key and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from lepton_p2p.durability import Durability, Interval
from lepton_p2p.errors import AddressError, ConfigError
from lepton_p2p.identity import join_address, split_address
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.presets import Preset, Timings, timings, usual_preset
from lepton_p2p.rounds.config import MOST_MEMBERS, AgreementConfig, Partitions
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.transport.addresses import is_loopback

DEFAULT_PORT = 7700
"""Where the first peer of a swarm listens, and where ``--join HOST`` without a port looks."""

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]
Overrides = Annotated[dict[str, float], NoDecode]
Knobs = TypeVar("Knobs", SwimConfig, PatienceConfig, AgreementConfig)

_PREFIX = "LEPTON_"
_PATHS = ("job", "state_dir", "keys", "token_file", "metrics")
_MAX_TOKEN_FILE = 64 * 1024


class PeerOptions(TypedDict):
    """Those arguments of ``Peer`` that the settings decide."""

    listen: str
    join: Sequence[str]
    preset: Preset | None
    swarm: str
    insecure: bool
    advertise: str | None
    data_port: int
    state_dir: Path | None
    keys: Path | None
    token: str | None
    durability: Durability
    partitions: Partitions
    min_peers: int
    share_memory: bool
    swim: SwimConfig
    patience: PatienceConfig
    agreement: AgreementConfig


class PeerSettings(BaseSettings):
    """All options of a peer; each is ``--like-this``, ``LEPTON_LIKE_THIS`` and ``like_this`` in the file."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=False
    )

    config: Path | None = Field(None, description="A TOML file with options. Default: none.")
    listen: str | None = Field(
        None,
        description="HOST:PORT to listen on; port 0 takes a free one. Loopback is reached from this machine only; "
        "0.0.0.0 from everywhere, and then needs credentials, or --insecure. Default: 127.0.0.1:7700 for the first "
        "peer, 127.0.0.1:0 when all --join are on this machine, 0.0.0.0:0 when one is not.",
    )
    join: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="HOST:PORT of any peer of the swarm; several with commas or by repeating it. One that answers is "
        "enough, more survive the death of some. Those that do not answer are tried for ever. Default: none, start "
        "a swarm.",
    )
    swarm: str = Field(
        "lepton",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of the swarm: peers and clients with another one are refused, so that two swarms on a "
        "network do not mix. Not a secret. Default: lepton.",
    )
    preset: Preset | None = Field(
        None,
        description="Time-outs for the kind of network. local: one machine or rack, a silent death is noticed after "
        "about a second; lan: one site; wan: the internet, patient with jitter and slow to declare a death. A broken "
        "connection is noticed at once with all three. Default: local on a loopback address, which only this machine "
        "reaches, otherwise lan.",
    )
    state_dir: Path | None = Field(
        None,
        description="Folder in which the peer keeps checkpoints; its last known members, so that it finds the swarm "
        "again when all --join are gone; and in its folder keys the machine's credentials, unless --keys names "
        "another. Each peer needs its own. Default: keep nothing.",
    )
    keys: Path | None = Field(
        None,
        description="Folder with this machine's credentials, made by `lepton-peer keys init` or filled when it joins "
        "with a token. With credentials every connection is authenticated and encrypted, and any address may be "
        "listened on. Default: the folder keys in --state-dir, if there is one.",
    )
    token: SecretStr | None = Field(
        None,
        description="Join token, as `lepton-peer keys invite` printed it, for a machine without credentials; it is not "
        "needed again once there are some. On the command line all users of the machine can read it: prefer "
        "LEPTON_TOKEN or --token-file. Default: none.",
    )
    token_file: Path | None = Field(
        None, description="File that holds the join token, readable by its owner. Default: none."
    )
    checkpoint_every: str | None = Field(
        None,
        description="How often the peer writes a checkpoint into --state-dir: a number of optimizer steps (100), a "
        "time (60s, 5m, 1h) or off. It is what is lost at most if all peers die at once. Each costs one copy of the "
        "state in memory and its bytes on disk, written beside the training; a slow disk delays the next one. "
        "Default: 60s if there is a --state-dir.",
    )
    checkpoint_keep: int = Field(
        3,
        ge=1,
        le=1_000_000,
        description="How many checkpoints of a job stay on disk; older ones are removed when a newer one is complete. "
        "More than one, since the newest may turn out to be damaged. Default: 3.",
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="What the peer brings when it starts: auto, the newest valid checkpoint of its job in --state-dir; "
        "never, the job's initial state; or the path of a checkpoint. It counts if the peer founds the swarm, or finds "
        "one that has not come so far; otherwise the swarm's own state does. Default: auto.",
    )
    partitions: Partitions = Field(
        "continue",
        description="What a swarm does that the network has split. continue: every side goes on, and when they meet "
        "they become one: the mean of both, by the samples that each has used; what both used is counted. majority: "
        "only a side with more than half of the peers goes on, the others wait, and nothing is used twice; but if half "
        "of the peers die at once the rest waits for ever. The same on all peers. Default: continue.",
    )
    min_peers: int = Field(
        1,
        ge=1,
        le=MOST_MEMBERS,
        description="Wait with the first step until so many peers are there and hold the state; later they may come "
        "and go. With the number of peers that wrote a checkpoint, the training goes on from it bit by bit as if "
        "nothing had happened. Default: 1.",
    )
    advertise: str | None = Field(
        None,
        description="HOST:PORT that the others shall use to reach this peer, if it is not the one that it listens on "
        "(NAT, containers); without a port that of --listen. Default: the listening address; with 0.0.0.0 the local "
        "address that routes to the seed.",
    )
    data_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port for the links that carry tensors, on the host of --listen. A fixed one can be opened in "
        "a firewall; 0 takes any free one. Default: 0.",
    )
    share_memory: bool = Field(
        True,
        description="Give tensors to peers on this machine through memory that both share instead of sockets: less "
        "work for the processor. Anonymous: 4 MiB per link, and twice the largest round if all members are on one "
        "machine; nothing is left behind. Switch it off where shared memory is rationed. Default: yes.",
    )
    insecure: bool = Field(
        False,
        description="Allow a non-loopback address although the swarm has no credentials: whoever reaches the port can "
        "read the model, join, and change it. Only for networks that you trust. Default: no.",
    )
    job: Path | None = Field(
        None,
        description="What to train: a TOML job, or a Python file with build(). Without it the peer gets the job from "
        "the swarm (a Python job's file must be named by every peer). Default: none.",
    )
    exit_when_done: bool = Field(
        False,
        description="Leave and exit when the job is done, instead of staying for late joiners and for export. "
        "Default: no.",
    )
    metrics: Path | None = Field(
        None,
        description="Append one JSON object per line with the progress to this file, at most twice a second. "
        "Default: none.",
    )
    log_level: LogLevel = Field(
        "warning",
        description="debug, info, warning or error. Every lost peer and every retried round is a warning; joins and "
        "epochs are info. Default: warning.",
    )
    log_format: LogFormat = Field(
        "console", description="console for people, json for machines (one object per line). Default: console."
    )
    swim: Overrides = Field(
        default_factory=dict,
        description="KEY=VALUE: one value of the preset's failure detection (see SwimConfig), for example "
        "probe_interval=0.5 (seconds). Default: the preset's.",
    )
    patience: Overrides = Field(
        default_factory=dict,
        description="KEY=VALUE: one value of the preset's link deadlines (see PatienceConfig), for example floor=2 "
        "(seconds). Default: the preset's.",
    )
    agreement: Overrides = Field(
        default_factory=dict,
        description="KEY=VALUE: one value of the preset's agreement on epochs (see AgreementConfig), for example "
        "promise_timeout=3 (seconds). Default: the preset's.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileSource(settings_cls)

    @field_validator("join", mode="before")
    @classmethod
    def _split_join(cls, value: object) -> object:
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            return value
        return tuple(address.strip() for part in parts for address in part.split(",") if address.strip())

    @field_validator("join")
    @classmethod
    def _check_join(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_address(address, default_port=DEFAULT_PORT) for address in value))

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str | None) -> str | None:
        return None if value is None else _address(value)

    @field_validator("advertise")
    @classmethod
    def _check_advertise(cls, value: str | None) -> str | None:
        if value is not None:
            _address(value, default_port=DEFAULT_PORT)  # without one it gets the listening port, not known yet
        return value

    @field_validator("swim", "patience", "agreement", mode="before")
    @classmethod
    def _split_overrides(cls, value: object) -> object:
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return parts
        pairs = [str(part).partition("=") for whole in parts for part in str(whole).split(",")]
        if not all(sign and key.strip() for key, sign, _ in pairs):
            raise ValueError("write KEY=VALUE")
        return {key.strip(): text.strip() for key, _, text in pairs}

    @field_validator("resume", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("checkpoint_every")
    @classmethod
    def _check_interval(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Interval.parse(value)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @property
    def durability(self) -> Durability:
        """How checkpoints are kept, and which one counts."""
        every = Durability().every if self.checkpoint_every is None else Interval.parse(self.checkpoint_every)
        resume = self.resume if self.resume in ("auto", "never") else Path(self.resume)
        return Durability(every, self.checkpoint_keep, resume)

    @property
    def listen_address(self) -> str:
        """``listen``, or what follows from ``join`` when it is not given."""
        if self.listen is not None:
            return self.listen
        hosts = [split_address(address)[0] for address in self.join]
        if not hosts:
            return f"127.0.0.1:{DEFAULT_PORT}"
        far = [host for host in hosts if not is_loopback(host)]
        if not far:
            return "127.0.0.1:0"
        return "[::]:0" if all(":" in host for host in far) else "0.0.0.0:0"

    def peer_options(self) -> PeerOptions:
        """What every face starts its peer with; :class:`ConfigError` if the overrides do not fit."""
        values = self.timings()
        return PeerOptions(
            listen=self.listen_address,
            join=self.join,
            preset=self.preset,
            swarm=self.swarm,
            insecure=self.insecure,
            advertise=self.advertise,
            data_port=self.data_port,
            state_dir=self.state_dir,
            keys=self.keys,
            token=self.join_token(),
            durability=self.durability,
            partitions=self.partitions,
            min_peers=self.min_peers,
            share_memory=self.share_memory,
            swim=values.swim,
            patience=values.patience,
            agreement=values.agreement,
        )

    def join_token(self) -> str | None:
        """The token, from wherever it was given; :class:`ConfigError` if its file cannot be read."""
        if self.token is not None:
            return self.token.get_secret_value()
        if self.token_file is None:
            return None
        try:
            with self.token_file.open(encoding="ascii") as file:
                return file.read(_MAX_TOKEN_FILE).strip()
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no text"
            raise ConfigError(f"{self.token_file}: the join token cannot be read: {why}") from None

    def timings(self) -> Timings:
        """The preset's time-outs with the overrides; :class:`ConfigError` if these do not fit."""
        base = timings(self.preset or usual_preset(self.listen_address))
        return Timings(
            _overridden("swim", self.swim, base.swim),
            _overridden("patience", self.patience, base.patience),
            _overridden("agreement", self.agreement, base.agreement),
        )


def load_settings(**options: Any) -> PeerSettings:
    """The settings of a peer; ``options`` come from the command line, None is "not given".

    Raises :class:`ConfigError` in one line for whatever is wrong in any of the sources.
    """
    given = {key: value for key, value in options.items() if value is not None and value != ()}
    _refuse_mistyped_variables()
    try:
        settings = PeerSettings(**given)
        settings.timings()
        if settings.checkpoint_every not in (None, "off") and settings.state_dir is None:
            raise _BadOverride("checkpoint_every", "checkpoints need a folder, give --state-dir")
    except ValidationError as error:
        first = error.errors()[0]
        inner = "".join(f"{part}: " for part in first["loc"][1:])
        raise ConfigError(f"{_place(str(first['loc'][0]), given)}: {inner}{_reason(first)}") from None
    except _BadOverride as error:
        raise ConfigError(f"{_place(error.option, given)}: {error}") from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None
    return settings


class _BadOverride(ConfigError):
    """An override that the knobs named ``option`` do not take."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(text)
        self.option = option


class _FileSource(PydanticBaseSettingsSource):
    """The TOML file that a source of higher precedence named as ``config``."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # values come from __call__, all at once

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        return {} if path is None else read_file(Path(path))


def read_file(path: Path) -> dict[str, Any]:
    """The options in a TOML file, paths made absolute; raises :class:`ConfigError`."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers too long, tables too deep
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    table = content.get("lepton", content)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: lepton is a table, write [lepton]")
    for key in table:
        if key not in PeerSettings.model_fields or key == "config":
            raise ConfigError(f"{path}: unknown key {key!r}{_nearest(key, _keys())}")
    outside = sorted(set(content) & set(_keys())) if table is not content else []
    if outside:
        raise ConfigError(f"{path}: {outside[0]!r} stands outside the table [lepton]: move it there")
    folder = path.absolute().parent
    return {key: folder / value if _is_path(key, value) else value for key, value in table.items()}


def _is_path(key: str, value: object) -> bool:
    return isinstance(value, str) and (key in _PATHS or (key == "resume" and value not in ("auto", "never")))


def _keys() -> tuple[str, ...]:
    return tuple(key for key in PeerSettings.model_fields if key != "config")


def _address(text: str, *, default_port: int | None = None) -> str:
    try:
        return join_address(*split_address(text, default_port=default_port))
    except AddressError as error:
        raise ValueError(str(error)) from None


def _overridden(option: str, values: Mapping[str, float], base: Knobs) -> Knobs:
    """``base`` with some of its fields replaced."""
    names = [field.name for field in dataclasses.fields(base)]
    for key in values:
        if key not in names:
            raise _BadOverride(option, f"unknown key {key!r}{_nearest(key, names)}")
    try:
        return TypeAdapter(type(base)).validate_python({**dataclasses.asdict(base), **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise _BadOverride(option, "".join(f"{part}: " for part in first["loc"]) + _reason(first)) from None
    except ConfigError as error:
        raise _BadOverride(option, str(error)) from None


def _nearest(word: str, valid: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or which names there are when none is near."""
    valid = list(valid)
    near = difflib.get_close_matches(word.lower().replace("-", "_"), valid, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(valid)})"


def _refuse_mistyped_variables() -> None:
    """Complain about ``LEPTON_LISTN``, but not about the variables that container platforms make up.

    They set, for a service named lepton, LEPTON_PORT, LEPTON_SERVICE_HOST and the like: refused is only what is
    nearly the name of an option.
    """
    valid = list(PeerSettings.model_fields)
    for variable in sorted(os.environ):
        key = variable.upper().removeprefix(_PREFIX).lower().partition("__")[0]
        if not variable.upper().startswith(_PREFIX) or key in valid:
            continue
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.8)
        if near:
            raise ConfigError(f"environment: unknown {variable} (did you mean {_PREFIX}{near[0].upper()}?)")


def _place(key: str, given: Mapping[str, Any]) -> str:
    """Where the value of ``key`` comes from: the first source that has it."""
    if key in given:
        return f"--{key.replace('_', '-')}"
    name = _PREFIX + key.upper()
    for variable in os.environ:
        if variable.upper() == name or variable.upper().startswith(f"{name}__"):
            return variable
    return f"{given.get('config') or os.environ.get(_PREFIX + 'CONFIG')}: {key}"


def _reason(error: Any) -> str:
    """pydantic's words, shorter, with the value and the nearest valid one."""
    kind, value = error["type"], error["input"]
    if error["loc"][:1] == ("token",):
        return "is no join token"  # and what it is may be a secret
    if kind == "extra_forbidden":
        return f"unknown option{_nearest(str(error['loc'][0]), _keys())}"
    if kind == "literal_error":
        valid = [part.strip("' ") for part in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(str(value), valid, n=1)
        return f"{_shown(value)} is not one of {', '.join(valid)}" + (f" (did you mean {near[0]!r}?)" if near else "")
    if kind == "value_error":
        return str(error["ctx"]["error"])
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {_shown(value)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."

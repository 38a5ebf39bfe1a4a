"""What a model family is to the rest of the converters: one type, which a family's own file fills in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ondevice.base.paths import MODELS
from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.read.json_text import read_bytes, read_object
from ondevice.graph.ranks import WHOLE, Rank
from ondevice.vocabulary.files import CONFIG, MAP, MERGES, SPIECE, VOCAB
from ondevice.vocabulary.unigram import read_unigram

TOKENIZER_FILES = (VOCAB, MERGES, CONFIG, MAP)
_REINSTALL = "reinstall ondevice; its own data is damaged"
Configs = Mapping[str, Config]  # normalized, by part


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a checkpoint: a folder in diffusers' layout;
    in the original single file all weights under `prefix`, as `layout` names them."""

    architecture: Architecture
    prefix: str
    layout: Layout

    def original_names(self, config: Config) -> dict[str, Stored]:
        """{diffusers name: where the original layout has it} for every weight, in the order of `Architecture.weights`.

        A tensor there has the diffusers weight's shape, or is the 1x1 convolution of a Linear.
        """
        return {name: self.original(name, config) for name in self.architecture.weights(config)}

    def original(self, name: str, config: Config) -> Stored:
        """Where the original layout has one weight."""
        place = self.layout.place(name, config)
        return replace(place, name=self.prefix + place.name)


@dataclass(frozen=True, slots=True)
class Role:
    """One graph of the family's model: which part has its weights, and which graph of that part's architecture it is.

    Args:
        joined: sizes that another network's config decides, such as the tokens of a text.
        precise: stored in float32 whatever --dtype says: it is small, runs once, and its rounding would
            reach every step.
        optional: whether a folder of exported graphs may lack it.
        of: the role that it was a part of, where it runs once in the place of a part of each run (hoisted.py).
        between: ports by which two such roles pass values, as they are stored.
        rank, shares: of devices that share a role, which one it is for, and the role's name (ranked.py).
    """

    part: str
    graph: str
    joined: Callable[[Configs], dict[str, int]] = lambda configs: {}
    precise: bool = False
    optional: bool = False
    of: str = ""
    between: tuple[str, ...] = ()
    rank: Rank = WHOLE
    shares: str = ""


class Joint(NamedTuple):
    """Two numbers of configs that must be equal: `name` of one ("unet's in_channels"), `other` in words,
    and what their difference says."""

    name: str
    got: object
    other: str
    expected: object
    says: str | None = None


def text_length(configs: Configs) -> dict[str, int]:
    """`tokens`, the size of a graph that reads the text encoder's states."""
    return {"tokens": configs["text_encoder"]["max_position_embeddings"]}


class Takes(NamedTuple):
    """What a UNet takes: so many channels for each of a sample's, and so many `more`; in words, where they are not
    the same."""

    times: int = 1
    more: int = 0
    words: str = "the vae's latent_channels"


SAMPLE = Takes()
WITH_MASK = Takes(2, 1, "those of a sample, a mask and the latents of a masked picture")
WITH_PICTURE = Takes(2, 0, "those of a sample and the latents of a picture")


def input_joint(configs: Configs, takes: Takes, says: str | None = None) -> Joint:
    """A UNet takes the VAE's latents, and what there is beside them; `says`: what the model is, where it does not."""
    expected = takes.times * configs["vae"]["latent_channels"] + takes.more
    return Joint("unet's in_channels", configs["unet"]["in_channels"], takes.words, expected, says)


def guidance_joint(configs: Configs, told: bool = False) -> Joint:
    """A UNet is told the guidance, as one that was distilled for it is, or runs twice for it."""
    width = configs["unet"]["time_cond_proj_dim"]
    if told:
        return Joint("unet's time_cond_proj_dim", width, "that of an LCM", width or "a number")
    return Joint("unet's time_cond_proj_dim", width, "that of a model that is not told its guidance", None)


def drawn_joints(configs: Configs) -> Iterator[Joint]:
    """A UNet's result is the VAE's latents, and pictures are RGB."""
    net, vae = configs["unet"], configs["vae"]
    yield Joint("unet's out_channels", net["out_channels"], "the vae's latent_channels", vae["latent_channels"])
    yield Joint("vae's in_channels", vae["in_channels"], "that of RGB pictures", 3)
    yield Joint("vae's out_channels", vae["out_channels"], "that of RGB pictures", 3)


@dataclass(frozen=True, slots=True)
class Family:
    """What one family is made of.

    Args:
        name: MODEL on the command line.
        title: what such models are called, as in "this is Stable Diffusion 1.x": `Architecture.kind` and
            `file_kind` say the same.
        hub_id: where its weights are by default; None for a family whose weights are inside the package.
        folder: laid out as a diffusers folder; holds at least <part>/config.json and scheduler/scheduler_config.json,
            or those of them in which it differs from `base`.
        parts: networks by component, the name of their folder.
        roles: graphs by the name that a bundle gives them.
        tokenizers: {folder: the part whose ids it makes}.
        joints: the numbers by which networks fit each other.
        pipelines: classes of diffusers that draw with such a folder, as model_index.json names them.
        pipeline: how the graphs make a picture, of the networks' configs: docs/pipeline.md, without its `sampler`.
        changes_scheduler: whether diffusers' pipeline of it sets steps_offset and clip_sample of the
            scheduler it is given.
        guidance_scale: what its pictures look best at by default.
        steps: of a sampler, by default.
        size: (width, height) in pixels that it was trained at, where its network's config says another.
        base: the folder of the family that it is a smaller or distilled form of; None for one of its own. A family
            whose weights are inside the package takes what its own folder lacks from there, too.
        own_scheduler: whether a folder's scheduler is left out for the family's: it is distilled, and the folder may be
            its base model's.
        apart: {part: where it is published} of what no repository holds together with the rest.
        preview: red, green and blue of its latents' channels and one (docs/pipeline.md), where they are known.
        clip_skip: whether last layers of its text encoders may be left out. Not where diffusers leaves them out of the
            prompt and not of the negative one: a graph is the same for both.
        exports: whether it has published graphs, or may be written with its own, in other formats than bundles.
        unused: what weights' names begin with in the original single file that the family leaves out.
        moved: {what weights' names begin with there: what they are read as}, where a part's are in several places.
    """

    name: str
    title: str
    hub_id: str | None
    folder: Path
    parts: Mapping[str, Part]
    roles: Mapping[str, Role]
    tokenizers: Mapping[str, str]
    joints: Callable[[Configs], Iterable[Joint]]
    pipelines: tuple[str, ...]
    pipeline: Callable[[Family, Configs], dict[str, Any]]
    changes_scheduler: bool = True
    guidance_scale: float = 7.5
    steps: int = 20
    size: tuple[int, int] | None = None
    base: Path | None = None
    own_scheduler: bool = False
    apart: Mapping[str, str] = field(default_factory=dict)
    preview: tuple[tuple[float, ...], ...] = ()
    clip_skip: bool = True
    exports: bool = True
    unused: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What `open_checkpoint` reads when the user names no checkpoint."""
        return self.hub_id or str(self.folder)

    def graph(self, role: str) -> Graph:
        """The graph of a role."""
        about = self.roles[role]
        return self.parts[about.part].architecture.graphs[about.graph]

    def scale(self, configs: Configs) -> int:
        """Pixels per latent, each way."""
        return self.parts["vae"].architecture.scale(configs["vae"])

    def pieces(self, configs: Configs) -> int:
        """Of how many latents each way a side of a picture is a multiple."""
        return max(part.architecture.pieces(configs[name]) for name, part in self.parts.items() if name in configs)

    def normalize(self, part: str, raw: Config, where: str) -> dict[str, Any]:
        """The parsed config.json of a part with defaults filled in.
        Raises CheckpointError for one that is not supported."""
        return self.parts[part].architecture.normalize(raw, where, self.title)

    def config(self, part: str) -> dict[str, Any]:
        """The family's own normalized config of a part."""
        path = self._own(part, "config.json")
        return self.normalize(part, read_object(path, _REINSTALL), str(path))

    def scheduler(self) -> dict[str, Any]:
        """The scheduler_config.json, as it is."""
        return read_object(self._own("scheduler", "scheduler_config.json"), _REINSTALL)

    def tokenizer(self, name: str = "tokenizer") -> dict[str, bytes]:
        """One tokenizer's files by name, as `read_tokenizer` gives them.
        The vocabularies of OpenAI's CLIP and of T5 are stored once for every family that uses them."""
        shared = MODELS / self.parts[self.tokenizers[name]].architecture.tokenizer
        names = (SPIECE, CONFIG) if (shared / SPIECE).exists() else TOKENIZER_FILES
        owned = {file: self._own(name, file) for file in names}
        files = {file: read_bytes(path if path.exists() else shared / file, _REINSTALL) for file, path in owned.items()}
        return read_unigram(files).files() if SPIECE in files else files

    def _own(self, part: str, file: str) -> Path:
        """A file of its folder, or of its base's where its own has none."""
        path = self.folder / part / file
        return path if self.base is None or path.exists() else self.base / part / file

    def place(self, root: Path, part: str) -> Path:
        """Where the folder `root` has a part, a tokenizer or the scheduler: our own may leave them to its base's."""
        inside = root / part
        return self.base / part if self.base and root == self.folder and not inside.exists() else inside

    def kind(self, configs: Mapping[str, Mapping[str, Any]]) -> str | None:
        """What kind of model these configs are of, as they are in their files, where a part's numbers tell;
        None where none does."""
        kinds = (self.parts[part].architecture.kind(config) for part, config in configs.items() if part in self.parts)
        return next((kind for kind in kinds if kind), None)

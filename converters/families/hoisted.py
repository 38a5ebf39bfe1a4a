"""A family whose steps are rid of what depends on the text alone, or on the picture alone: it runs once, before them.

Which part of a graph that is, its network says (`Apart`): the graph is there in two, and a pipeline runs the first
where what it is made of is made, and the second in the loop. So a network that is cut in two needs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ondevice.converters.architectures.architecture import Apart
from ondevice.converters.families.family import Configs, Family

MOST_PORTS = 64  # of a role, and...
MOST_VALUES = 256  # of a pipeline, as docs/pipeline.md has it ("What a reader checks")
Pipeline = dict[str, Any]
Joined = Callable[[Configs], dict[str, int]]


def hoisted(family: Family, configs: Configs) -> Family:
    """`family` with the graphs of its loop in two where their networks say how; itself where none does, or where what
    the first makes is more than a pipeline holds. `configs` of its parts."""
    pipeline, roles = family.pipeline(family, configs), dict(family.roles)
    for name in dict.fromkeys(step["run"] for loop in pipeline["denoise"] for step in loop["roles"]):
        role, apart = roles[name], family.graph(name).apart
        if apart is None:
            continue
        network = family.parts[role.part].architecture
        sizes = network.graphs[apart.once].sizes
        ports = tuple(network.ports(apart.once, configs[role.part], **dict.fromkeys(sizes, 1)).outputs)
        once = apart.once if apart.once not in roles else f"{name}_{apart.once}"
        values = {port: port if once == apart.once else f"{name}_{port}" for port in ports}
        feed = _feed(pipeline, name, apart)
        if feed is None or not _fits(pipeline, name, len(apart.of), len(ports)):
            continue
        pipeline = _in_two(pipeline, name, {"run": once, "feed": feed, "keep": values})
        own = replace(role, graph=apart.once, joined=_only(role.joined, sizes), of=name, between=ports)
        rest = replace(role, graph=apart.rest, between=ports)
        roles = {each: role for each, role in roles.items() if each != name} | {once: own, name: rest}
    if roles == family.roles:
        return family
    before = {name: [each for each in roles if roles[each].of == name] for name in family.roles}
    order = [each for name in family.roles for each in (*before[name], name)]
    return replace(family, roles={each: roles[each] for each in order}, pipeline=lambda family, configs: pipeline)


def _only(joined: Joined, sizes: Collection[str]) -> Joined:
    return lambda configs: {name: size for name, size in joined(configs).items() if name in sizes}


def _feed(pipeline: Pipeline, name: str, apart: Apart) -> dict[str, Any] | None:
    """What a role of the loop is given at the ports `of`; None where that is not made before the loop, differs between
    stretches of the schedule, or may be zeros in its place, unless zeros then stand for what is made of it, too."""
    feeds = [{port: step["feed"][port] for port in apart.of} for step in _loop_steps(pipeline) if step["run"] == name]
    made = {value for step in pipeline["before"] for value in _kept(step)}
    values = {source.get("value") for source in feeds[0].values()}
    zeros = [values & set(one.get("zeros", ())) for loop in pipeline["denoise"] for one in loop["passes"]]
    alike = all(some in (set(), values if apart.linear else set()) for some in zeros)
    plain = all(source.keys() == {"value"} for source in feeds[0].values()) and values <= made and alike
    return feeds[0] if plain and all(feed == feeds[0] for feed in feeds) else None


def _fits(pipeline: Pipeline, name: str, taken: int, given: int) -> bool:
    """Whether a pipeline holds `given` values more, which a role takes in the place of `taken`."""
    most = max(len(step["feed"]) for step in _loop_steps(pipeline) if step["run"] == name)
    steps = [*pipeline["before"], *_loop_steps(pipeline), *pipeline["after"], *pipeline.get("fast", ())]
    values = {"latents", "timestep"} | {value for step in steps for value in _kept(step)}
    return 0 < given <= most - taken + given <= MOST_PORTS and len(values) + given <= MOST_VALUES


def _in_two(pipeline: Pipeline, name: str, once: dict[str, Any]) -> Pipeline:
    """The pipeline with the role `once` after all that it reads, and what it keeps in the place of that in `name`."""
    used = {source["value"] for source in once["feed"].values()}
    makers = [at for at, step in enumerate(pipeline["before"]) if used & set(_kept(step))]
    rates = {pipeline["before"][at].get("every", "picture") for at in makers}
    first, then = pipeline["before"][: makers[-1] + 1], pipeline["before"][makers[-1] + 1 :]
    run = {"run": once["run"], "every": "text" if "text" in rates else "picture"} | once
    made = {port: {"value": value} for port, value in once["keep"].items()}

    def given(step: dict[str, Any]) -> dict[str, Any]:
        if step["run"] != name:
            return step
        feed: dict[str, Any] = {}
        for port, source in step["feed"].items():
            feed |= made if port in once["feed"] else {port: source}
        return step | {"feed": feed}

    def zeroed(one: dict[str, Any]) -> dict[str, Any]:
        """A pass that has zeros for what was read has them for what is made of it."""
        if not used & set(one.get("zeros", ())):
            return one
        read = {source["value"] for loop in loops for step in loop["roles"] for source in _values(step)}
        others = [value for value in one["zeros"] if value not in used or value in read]
        return one | {"zeros": [*once["keep"].values(), *others]}

    loops = [loop | {"roles": [given(step) for step in loop["roles"]]} for loop in pipeline["denoise"]]
    loops = [loop | {"passes": [zeroed(one) for one in loop["passes"]]} for loop in loops]
    return pipeline | {"before": [*first, run, *then], "denoise": loops}


def _loop_steps(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [step for loop in pipeline["denoise"] for step in loop["roles"]]


def _values(step: Mapping[str, Any]) -> list[dict[str, str]]:
    """The feeds of a step that are values."""
    return [source for source in step["feed"].values() if "value" in source]


def _kept(step: Mapping[str, Any]) -> list[str]:
    """The values that a step makes."""
    keep = step.get("keep", {})
    return [keep] if isinstance(keep, str) else list(keep.values())

"""show, explain and bench as a user types them, on the demo model and its bundle."""

import json
import re
import shutil

import pytest

from ondevice import cli
from ondevice.base import machine
from ondevice.bundle import open_bundle
from ondevice.compiler.report import STAGES
from ondevice.converters.families import FAMILIES
from ondevice.errors import BundleError, StrictError, UsageError
from ondevice.lower.kernel_file import load_all
from ondevice.measure.ablation import ADDED
from ondevice.measure.latency import STEPS
from ondevice.rewrite import FUSIONS, RULES
from ondevice.target import METHODS

DEMO = ["demo", "--size", "64x64"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("seeing") / "demo.ondevice"
    assert cli.main(["convert", *DEMO, "--out", str(path)]) == 0
    return str(path)


def said(capsys, *words):
    capsys.readouterr()
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def fails(capsys, error, *words):
    capsys.readouterr()
    assert cli.main(list(words)) == error.exit_code
    return capsys.readouterr().err


@pytest.mark.parametrize("after", STAGES)
def test_show_a_model(capsys, after):
    text = said(capsys, "show", *DEMO, "--after", after)
    assert f"unet after {after}, batch=2 height=8 width=8, f16" in text and "vae_decoder after" in text
    assert ("text to image needs" in text) == (after == "plan") and text.endswith("\n") and not text.endswith("\n\n")
    shown = json.loads(said(capsys, "show", *DEMO, "--after", after, "--json"))
    components = ["text_encoder", "keys_values", "unet", "vae_decoder", "vae_encoder"]
    assert [part["component"] for part in shown["components"]] == components
    assert "rows" not in shown["components"][0] and bool(shown["picture"]) == (after == "plan")


def test_show_lists_every_dispatch(capsys):
    shown = json.loads(said(capsys, "show", *DEMO, "--component", "unet", "--list", "--json"))["components"][0]
    assert len(shown["rows"]) == shown["count"]
    text = said(capsys, "show", *DEMO, "--component", "unet", "--list")
    assert len(text.splitlines()) > shown["count"] and all(row["name"] in text for row in shown["rows"])


def test_show_a_bundle_says_what_its_model_does(capsys, bundle):
    """After plan: what a bundle holds is in the plans' order, and done in place, which lowering does not know yet."""
    of_bundle, of_model = (
        json.loads(said(capsys, "show", *what, "--after", "plan", "--list", "--json")) for what in ([bundle], DEMO)
    )
    for part in ("ways", "memory"):  # a model has no plans to choose from
        assert of_bundle.pop(part) and not of_model.pop(part)
    assert of_bundle == of_model


@pytest.mark.parametrize("dialect, ending, word", [("opencl", "cl", "__kernel"), ("metal", "metal", "metal_stdlib")])
def test_show_the_programs_of_a_bundle(capsys, bundle, tmp_path, dialect, ending, word):
    text = said(capsys, "show", bundle, "--kernels", dialect)
    heads = re.findall(r"^// (\w+): (.*); dispatches: (.*)$", text, re.M)
    opened = open_bundle(bundle)
    plans = [opened.plan(entry.component, **entry.sizes) for entry in opened.plans]
    first = dict.fromkeys(plan.kernels[call.kernel] for plan in plans for call in plan.dispatches)
    shown = [(kernel.file, " ".join(f"{name}={value}" for name, value in kernel.defines)) for kernel in first]
    assert [(file, defines) for file, defines, _ in heads] == shown
    counted = sum(int(count) for *_, uses in heads for count in re.findall(r"(\d+) of", uses.replace(",", "")))
    assert counted == sum(len(plan.dispatches) for plan in plans)
    assert all(opened.source(kernel.file, dialect, kernel.defines).rstrip() in text for kernel in first)
    assert text.count(f'#line 1 "{shown[0][0]}.cl"') == sum(file == shown[0][0] for file, _ in shown) and word in text
    part = said(capsys, "show", bundle, "--kernels", dialect, "--component", "vae_decoder")
    assert set(re.findall(r"dispatches: .*? of (\w+)", part)) == {"vae_decoder"}
    assert said(capsys, "show", bundle, "--kernels", dialect, "--out", str(tmp_path / "s")) == f"{tmp_path / 's'}\n"
    files = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert len(files) == len(shown) and f"{shown[0][0]}-01.{ending}" in files
    assert (tmp_path / "s" / f"{shown[0][0]}-01.{ending}").read_text() in text
    said_no = fails(capsys, UsageError, "show", bundle, "--kernels", dialect, "--out", str(tmp_path / "s"))
    assert "is there already. Fix: choose another name with --out" in said_no


@pytest.mark.parametrize(
    "words, reason",
    [
        (["demo", "--kernels", "metal"], "--kernels: sources are a bundle's (got a model). Fix: convert it first"),
        (["BUNDLE", "--kernels", "metal", "--json"], "--json: the sources of all plans are shown as they are."),
        (["BUNDLE", "--out", "x"], "--out: only sources are written, with --kernels."),
        (
            ["BUNDLE", "--kernels", "metal", "--component", "u"],
            "--component: there is no u (it has text_encoder, keys_values, unet, ",
        ),
    ],
)
def test_what_has_no_sources(capsys, bundle, words, reason):
    assert reason in fails(capsys, UsageError, "show", *(bundle if word == "BUNDLE" else word for word in words))


def test_show_honours_converts_flags(capsys):
    plain = json.loads(
        said(capsys, "show", *DEMO, "--without", "all", "--dtype", "fp32", "--component", "unet", "--json")
    )
    fused = json.loads(said(capsys, "show", *DEMO, "--component", "unet", "--json"))
    (plain,), (fused,) = plain["components"], fused["components"]
    assert plain["count"] > fused["count"] and plain["dtype"] == "f32"
    assert plain["weights"] > 1.5 * fused["weights"]  # half, and tiles filled up
    gpu = json.loads(said(capsys, "show", *DEMO, "--target", "gpu", "--component", "unet", "--list", "--json"))[
        "components"
    ][0]
    host = json.loads(said(capsys, "show", *DEMO, "--component", "unet", "--list", "--json"))["components"][0]
    assert [row["group"] for row in gpu["rows"]] != [row["group"] for row in host["rows"]]


def test_show_says_what_cannot_be_shown(capsys, bundle, tmp_path):
    assert "a bundle holds no graph (got rewrite" in fails(capsys, UsageError, "show", bundle, "--after", "rewrite")
    assert "there is no uney (it has text_encoder, keys_values, unet" in fails(
        capsys, UsageError, "show", *DEMO, "--component", "uney"
    )
    wrong = fails(capsys, UsageError, "show", str(tmp_path / "none"))
    assert f"is neither a model family ({', '.join(sorted(FAMILIES)[:20])}" in wrong  # a long text is cut
    assert "has no plan for 512x512 (it has 64x64). Fix: convert" in fails(
        capsys, BundleError, "show", bundle, "--size", "512x512"
    )


WEIGHTS = [["--random-weights", "0"], ["--checkpoint", "x"], ["--ema"], ["--without", "all"]]
PLANS = [*WEIGHTS, ["--dtype", "fp16"], ["--target", "gpu"], ["--math", "bf16"]]


@pytest.mark.parametrize(
    "verb, flags", [(v, fs) for v, all_ in (("show", PLANS), ("explain", WEIGHTS), ("bench", PLANS)) for fs in all_]
)
def test_flags_of_models_are_refused_beside_a_bundle(capsys, bundle, verb, flags):
    assert f"{flags[0]}: a bundle is compiled already" in fails(capsys, UsageError, verb, bundle, *flags)


@pytest.mark.parametrize(
    "words, why",
    [
        (["show", *DEMO, "--after", "graph", "--without", "all"], "--without: no rule has run after `graph`"),
        (
            ["show", *DEMO, "--after", "rewrite", "--target", "gpu"],
            "--target: nothing is chosen for a target before `lower`",
        ),
        (
            ["show", *DEMO, "--after", "graph", "--math", "bf16"],
            "--math: nothing is chosen for a target before `lower`",
        ),
        (
            ["bench", *DEMO, "--peers", "--math", "bf16"],
            "--math: the peers run whole models at precisions of their own",
        ),
        (
            ["bench", *DEMO, "--predict", "apple_a16", "--math", "bf16"],
            "--math: what is predicted multiplies as its targe",
        ),
        (
            ["bench", *DEMO, "--ablation", "--device", "cpu"],
            "--device: the ablation is of plans; nothing runs. Fix: leave --device out.",
        ),
        (["bench", *DEMO, "--ablation", "--repeat", "9"], "--repeat: the ablation is of plans"),
        (["bench", *DEMO, "--ablation", "--rows", "x.jsonl"], "--rows: the ablation is of plans"),
        (["bench", *DEMO, "--latency"], "--latency: it is a form of the ablation's table"),
        (["bench", *DEMO, "--ablation", "--trace", "x.json"], "--trace: it is of a bundle's components"),
        (["bench", *DEMO, "--ablation", "--peers"], "--peers and --ablation: they are two tables"),
        (
            ["bench", *DEMO, "--peers", "--dtype", "fp16"],
            "--dtype: the peers run whole models at precisions of their own",
        ),
        (
            ["bench", *DEMO, "--peers", "--tune-for", "cpu"],
            "--tune-for: the peers run whole models at precisions of their own",
        ),
        (["bench", *DEMO, "--peers", "--device", "cpu"], "--device: the peers run on the CPU"),
        (["bench", *DEMO, "--peers", "--repeat", "5"], "--repeat: the peers take turns; --rounds says how many"),
        (["bench", *DEMO, "--ablation", "--rounds", "5"], "--rounds: it goes only with --peers"),
        (["bench", *DEMO, "--peers", "--rounds", "2"], "--rounds: a median needs 3 runs or more (got 2)"),
        (
            ["bench", *DEMO, "--peers", "--only", "tvm"],
            "--only: there is no peer tvm (expected some of ours, ours-fp16, ours-bf16, ",
        ),
        (["bench", *DEMO, "--peers", "--cores", "0,x"], "--cores: '0,x' is not a list of cores (expected some of "),
        (["bench", *DEMO, "--peers", "--cores", "4096"], "--cores: '4096' is not a list of cores"),
        (
            ["bench", *DEMO, "--peers", "--component", "vae_encoder"],
            "--component: there is no vae_encoder (it has text_encoder, unet, vae_decoder)",
        ),
        (["bench", *DEMO, "--ablation", "--without", "all"], "--without: the ablation goes through all rules"),
        (["bench", *DEMO, "--markdown"], "--markdown: it is a form of the ablation's table"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(capsys, words, why):
    assert why in fails(capsys, UsageError, *words)


def test_a_damaged_bundle_is_not_called_a_wrong_name(capsys, tmp_path):
    (tmp_path / "bundle.json").write_text("{")
    assert "not valid JSON" in fails(capsys, BundleError, "show", str(tmp_path))


def test_explain_says_the_same_of_model_and_bundle(capsys, bundle):
    assert said(capsys, "explain", *DEMO) == said(capsys, "explain", bundle)
    explained = json.loads(said(capsys, "explain", bundle, "--json"))
    assert explained == json.loads(said(capsys, "explain", *DEMO, "--json"))
    assert [row["rule"] for row in explained["unet"]["rules"]] == [
        *(rule.__name__ for rule in RULES),
        "Flash",
        "Winograd",
        "TwoCommands",
    ]
    assert any(row["applied"] for row in explained["unet"]["rules"])


def test_explain_names_what_was_switched_off(capsys, tmp_path):
    path = str(tmp_path / "b")
    assert cli.main(["convert", *DEMO, "--without", FUSIONS[0], "--out", path]) == 0
    off = [row["family"] for row in json.loads(said(capsys, "explain", path, "--json"))["unet"]["rules"] if row["off"]]
    assert set(off) == {FUSIONS[0]} and "switched off" in said(capsys, "explain", path)
    every = json.loads(said(capsys, "explain", *DEMO, "--without", "all", "--json"))["unet"]
    assert {row["family"] for row in every["rules"] if row["off"]} == {*FUSIONS, *METHODS} and every["nodes"][
        0
    ] == every["nodes"][1]


def test_a_bundle_that_does_not_say_how_it_was_rewritten(capsys, bundle, tmp_path):
    copy = tmp_path / "old"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    for row in manifest["components"].values():
        del row["rewrite"]
    (copy / "bundle.json").write_text(json.dumps(manifest))
    assert "does not say how its graphs were rewritten" in fails(capsys, BundleError, "explain", str(copy))
    assert "unet after plan" in said(capsys, "show", str(copy))


def test_strict(capsys, bundle, monkeypatch):
    for words in (["show", *DEMO], ["explain", *DEMO], ["show", bundle], ["explain", bundle]):
        said(capsys, *words, "--strict")
    few = {name: kernel for name, kernel in load_all().items() if name != "conv2d_tile"}
    monkeypatch.setattr("ondevice.compiler.programs.load_all", lambda: few)
    assert "runs on the general kernel conv2d" in fails(
        capsys, StrictError, "show", *DEMO, "--without", "all", "--strict"
    )
    assert "unet after plan" in said(capsys, "show", *DEMO, "--without", "all")


def test_ablation(capsys):
    part = ["--component", "text_encoder"]  # whose plans are made in no time
    rows = json.loads(said(capsys, "bench", *DEMO, "--ablation", *part, "--json"))
    assert [row["rules"] for row in rows] == ["plain graph", *ADDED]
    text, page = (said(capsys, "bench", *DEMO, "--ablation", *part, *more) for more in ([], ["--markdown"]))
    assert (
        text.startswith("component")
        and page.startswith("| component | rules |")
        and "| text_encoder | all rules |" in page
    )


def test_bench_says_what_it_needs(capsys, bundle):
    assert "a bundle holds its plans and no graph" in fails(capsys, UsageError, "bench", bundle, "--ablation")
    assert "only a bundle can be timed (got the model demo)" in fails(capsys, UsageError, "bench", "demo")
    assert "a bundle holds its plans, and the other runtimes need the weights" in fails(
        capsys, UsageError, "bench", bundle, "--peers"
    )
    assert "a median needs 3 runs or more (got 1)" in fails(capsys, UsageError, "bench", bundle, "--repeat", "1")


@pytest.mark.device
def test_bench_times_a_component(capsys, bundle):
    timed = json.loads(said(capsys, "bench", bundle, "--component", "text_encoder", "--repeat", "3", "--json"))
    (timing,) = timed["timings"]
    assert timing["runs"] == 3 and timing["median_ms"] > 0 and timing["name"] == "text_encoder batch=1 f32"
    assert {row["runs"] for row in timed["dispatches"]} == {3}
    assert {row["component"] for row in timed["kernels"]} == {"text_encoder"}
    text = said(capsys, "bench", bundle, "--component", "text_encoder", "--repeat", "3")
    assert text.startswith("text_encoder batch=1 f32: ") and "matmul" in text and "GFLOP/s" in text


@pytest.mark.device
def test_bench_traces_a_component_and_appends_rows(capsys, bundle, tmp_path):
    for _ in range(2):
        words = [
            "--component",
            "text_encoder",
            "--repeat",
            "3",
            "--trace",
            str(tmp_path / "t.json"),
            "--rows",
            str(tmp_path / "r.jsonl"),
        ]
        said(capsys, "bench", bundle, *words)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    launches = [event for event in events if event["ph"] == "X" and event["cat"] != "run"]
    assert len(launches) == 3 * len({event["args"]["number"] for event in launches}) and all(
        event["dur"] > 0 for event in launches
    )
    first, second = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert (
        first["name"] == second["name"] == "bundle: demo text_encoder batch=1 f32"
        and first["machine"]["device"]["name"]
    )
    missing = str(tmp_path / "none" / "x")
    for flag in ("--trace", "--rows"):
        wrong = fails(
            capsys, UsageError, "bench", bundle, "--component", "text_encoder", "--repeat", "3", flag, missing
        )
        assert missing in wrong or str(tmp_path / "none") in wrong


@pytest.mark.device
def test_bench_times_the_papers_ablation(capsys, tmp_path):
    rows = tmp_path / "rows.jsonl"
    words = [
        "bench",
        *DEMO,
        "--ablation",
        "--latency",
        "--component",
        "text_encoder",
        "--repeat",
        "3",
        "--device",
        "cpu",
    ]
    page = said(capsys, *words, "--markdown", "--rows", str(rows))
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["rules"] for row in kept] == [name for name, _ in STEPS] and len(page.splitlines()) == len(STEPS) + 2
    assert all(row["median_ms"] > 0 and row["difference"] < 1e-4 for row in kept) and kept[0]["difference"] == 0
    assert kept[0]["machine"]["device"]["kind"] == "cpu"


@pytest.mark.device
def test_bench_runs_peers_on_the_same_weights(capsys, tmp_path):
    core = str(machine.available_cores()[0])
    words = [
        "bench",
        *DEMO,
        "--peers",
        "--only",
        "ours,onnxruntime",
        "--cores",
        core,
        "--rounds",
        "3",
        "--work",
        str(tmp_path / "work"),
    ]
    ours, other = json.loads(said(capsys, *words, "--component", "text_encoder", "--strict", "--json"))
    assert (ours["peer"], other["peer"], ours["skipped"]) == ("ours", "onnxruntime", {})
    assert (
        ours["difference"]["to"] == "onnxruntime"
        and 0 < ours["difference"]["rms"] < 1e-5
        and other["difference"]["max_abs"] == 0
    )
    assert (
        other["ratio"]["to"] == "ours" and other["ratio"]["low"] <= other["ratio"]["median"] <= other["ratio"]["high"]
    )
    assert other["runs"] == 3 and other["peak_rss_bytes"] > 1 << 24 and other["versions"]["onnxruntime"]
    assert ours["machine"]["cores"] == 1 and ours["sizes"] == {"batch": 1}
    text = said(capsys, *words, "--component", "text_encoder")
    assert "converting" not in text and "onnxruntime" in text and "differences to onnxruntime" in text

"""The command line: what it prints, what it passes on, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from helpers.command import run
from helpers.families import save, save_tuned
from helpers.networks import llava
from helpers.project import ROOT
from helpers.task_files import looktwice
from visualheads.cli import main
from visualheads.cli.app import app
from visualheads.cli.book import parameters
from visualheads.errors import DiskFullError, KernelError, ParameterError
from visualheads.heads.lists import read_scores
from visualheads.miniatures import train as miniature_training
from visualheads.paths import slug_of, store_path
from visualheads.store.read import open_store
from visualheads.tracing import cluster, jobs


def test_every_command_that_is_written_about_exists():
    told = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    pages = [ROOT / "README.md", *(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    named = re.compile(r'(?:^|[`"/])visualheads ([a-z][\w-]*)', re.MULTILINE)
    found = {(page.name, name) for page in pages for name in named.findall(page.read_text(encoding="utf-8"))}
    assert len(found) > 20 and not {(page, name) for page, name in found if name not in told}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small random Llava as a folder."""
    folder = tmp_path_factory.mktemp("checkpoints") / "small-llava"
    module, processor = llava()
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """LookTwice-QA files with a few pictures."""
    return looktwice(tmp_path_factory.mktemp("looktwice"))


def test_models_lists_every_card(capsys):
    code, out, _ = run(capsys, "models", "--json")
    listed = {card["name"]: card for card in json.loads(out)}
    assert code == 0
    assert listed["1.5-7B"]["layers"] == 32
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert "mini-1.5-7B" in out


def test_version_and_help(capsys):
    from visualheads import __version__

    code, out, _ = run(capsys, "--version")
    assert (code, out.strip()) == (0, f"visualheads {__version__}")
    code, out, _ = run(capsys, "trace", "--help")
    assert code == 0
    assert all(option in out for option in ("--dry-run", "--scheduler", "--skip-bad", "--fresh"))
    words = " ".join(out.replace("│", " ").split())
    assert "[default: (the task's first)]" in words, "what is in brackets must not be read as a style"


def test_shared_options_stand_anywhere(capsys):
    assert run(capsys, "models", "--json", "--quiet") == run(capsys, "-q", "models", "--json")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("trace", "no-such-model"), "got 'no-such-model'"),
        (("trace", "mini-1.5-7B", "--task", "no-such-task"), "no-such-task"),
        (("trace", "mini-1.5-7B", "--scheduler", "tcp://a:1", "--cluster", "b.yml"), "--scheduler and --cluster"),
        (("rank", "no/such/store.zarr"), "trace a model first"),
        (("page", "mini-1.5-7B", "-p", "64"), "NAME=VALUE"),
        (("page", "no-such-model"), "got 'no-such-model'"),
        (("trace", "mini-1.5-7B", "--n", "1", "--dry-run", "--device", "gpu"), "device: got 'gpu'"),
        (("trace", "mini-1.5-7B", "--n", "1", "--device", "gpu", "--out", "no-such-folder"), "device: got 'gpu'"),
        (("train",), "--all"),
        (("train", "mini-1.5-7B", "--device", "gpu"), "device: got 'gpu'"),
        (("train", "no-such-miniature"), "no-such-miniature"),
        (("no-such-command",), "no-such-command"),
        (("trace",), "trace"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(capsys, arguments, told):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert told in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ParameterError("a"), 2), (KernelError("b"), 1), (DiskFullError("c"), 1)],
)
def test_exit_codes(capsys, monkeypatch, error, code):
    def fail(_job, **_settings):
        raise error

    monkeypatch.setattr(jobs, "run", fail)
    monkeypatch.setattr(jobs.TraceJob, "drawn", ())
    ended, _, err = run(capsys, "trace", "mini-1.5-7B")
    assert ended == code
    assert "Traceback" not in err


def test_debug_shows_where_an_error_comes_from(monkeypatch):
    monkeypatch.setattr(jobs.TraceJob, "drawn", ())
    with pytest.raises(ParameterError):
        main(["--debug", "train"])


def test_a_smoke_training_goes_to_a_folder_of_its_own(capsys, monkeypatch, tmp_path):
    placed: list[Path] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(miniature_training, "train", lambda name, target, **_: placed.append(target) or target / name)
    code, out, _ = run(capsys, "train", "mini-1.5-7B", "--smoke")
    (folder,) = placed
    assert code == 0 and folder.parent == tmp_path and str(folder) in "".join(out.splitlines()[-2:])


def test_a_message_with_brackets_is_printed_as_it_is(capsys, monkeypatch):
    def fail(_job, **_settings):
        raise ParameterError("samples[3] is [bold] nothing")

    monkeypatch.setattr(jobs, "run", fail)
    monkeypatch.setattr(jobs.TraceJob, "drawn", ())
    _, _, err = run(capsys, "trace", "mini-1.5-7B")
    assert "samples[3] is [bold] nothing" in err


def test_trace_rank_export(capsys, tmp_path, checkpoint, data):
    asked = ("trace", checkpoint, "--data", data, "--condition", "plain-object", "--format", "free", "--n", 3)
    code, out, _ = run(capsys, *asked, "--out", tmp_path / "results", "--dry-run")
    assert code == 0
    assert "3 × 4 / 2" in out
    assert not (tmp_path / "results").exists()

    code, out, _ = run(capsys, *asked, "--out", tmp_path / "results")
    store = store_path(tmp_path / "results", str(checkpoint), "looktwice")
    assert code == 0
    assert store.is_dir()
    assert "3 samples" in out

    code, out, _ = run(capsys, "rank", store, "--by", "image_weight", "--top", 2)
    assert code == 0
    assert out.count("–") == 2

    code, _, _ = run(capsys, "export", tmp_path / "results", tmp_path / "heads.json", "--by", "image_weight")
    assert code == 0
    assert read_scores(tmp_path / "heads.json").sizes["head"] == 4

    code, out, _ = run(capsys, "top", store, "--by", "image_weight", "-n", 2, "--json")
    best = json.loads(out)
    assert code == 0 and len(best) == 2
    assert best[0]["label"] == f"L{best[0]['layer']}H{best[0]['head']}" and best[0]["low"] <= best[0]["score"]

    code, out, err = run(capsys, "--quiet", *asked, "--seed", 1, "--out", tmp_path / "results", "--json")
    assert code == 0 and not err
    other = store.with_name("looktwice-seed1.zarr")
    assert json.loads(out)["store"] == str(other) and other.is_dir(), "another seed has a store of its own"

    code, out, _ = run(capsys, *asked[:-1], 4, "--out", tmp_path / "results", "--json")
    assert code == 0 and json.loads(out)["samples"] == 4, "what is missing is traced and added"


def test_verify_tells_of_damage_and_repairs(capsys, tmp_path, checkpoint, data):
    run(capsys, "trace", checkpoint, "--data", data, "--n", 2, "--out", tmp_path / "results")
    store = store_path(tmp_path / "results", str(checkpoint), "looktwice")
    assert run(capsys, "verify", store)[:2] == (0, "")
    file = next((store / "image_weight").glob("c.*"))
    file.write_bytes(file.read_bytes()[:-1])
    code, out, _ = run(capsys, "verify", store)
    assert code == 1 and out == f"truncated: {file}\n"
    code, out, _ = run(capsys, "verify", store, "--json")
    assert code == 1 and json.loads(out)["damaged"] == {str(file.relative_to(store)): "truncated"}
    assert run(capsys, "verify", store, "--repair")[0] == 0
    assert run(capsys, "verify", store)[0] == 0
    assert run(capsys, "verify", tmp_path / "none.zarr")[0] == 2


def test_heads_are_changed_from_the_command_line(capsys, tmp_path, checkpoint, data):
    asked = ("--data", data, "--condition", "plain-object", "--n", 2, "--json")
    code, out, _ = run(capsys, "ablate", checkpoint, "--heads", "0-1,2-3", *asked)
    [removed] = json.loads(out)
    assert code == 0 and (removed["heads"], removed["samples"]) == (2, 2) and removed["kl"] > 0
    code, out, _ = run(capsys, "steer", checkpoint, "--heads", "0-1", "--bias", 0, *asked)
    assert code == 0 and json.loads(out)[0]["kl"] == pytest.approx(0, abs=1e-6)
    scores = tmp_path / "heads.csv"
    scores.write_text("model,layer,head,score,lower,upper\nm,0,1,0.5,,\nm,2,3,0.9,,\nm,1,0,0.1,,\n")
    code, out, _ = run(capsys, "sweep", checkpoint, scores, "--counts", "1,2", "--out", tmp_path / "results", *asked)
    assert code == 0 and [row["heads"] for row in json.loads(out)] == [1, 2]
    assert [store.name for store in (tmp_path / "results").glob("*/*")] == ["looktwice.zero-all.zarr"]
    assert json.loads(out)[1]["kl"] == pytest.approx(removed["kl"], rel=1e-4)
    marks = tmp_path / "set.yaml"
    marks.write_text("attn_head_set: 0-1,2-3")
    for same in ("L0H1,L2H3", marks):
        assert json.loads(run(capsys, "ablate", checkpoint, "--heads", same, *asked)[1]) == [removed]
    code, _, err = run(capsys, "ablate", checkpoint, "--heads", "many", *asked)
    assert code == 2 and "layer-head" in err


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_is_loaded_and_in_which_form_it_is_asked(capsys, tmp_path, checkpoint, data):
    adapter = save_tuned(checkpoint, tmp_path / "tuned")
    template = tmp_path / "form.jinja"
    template.write_text(
        "{% for m in messages %}{% for c in m.content %}{{ c.text or '<image>' }}{% endfor %}{% endfor %}?"
    )
    asked = ("--data", data, "--condition", "plain-object", "-n", 2, "--out", tmp_path / "results", "--json")
    plain = ("--prompt", "Q <image> {question} A", "--answer-prefix", "red")
    stores = {}
    for name, options in {
        "plain": plain,
        "tuned": ("--adapter", adapter),
        "own": ("--chat-template", template),
    }.items():
        assert run(capsys, "doctor", checkpoint, *options[:2])[0] == 0
        code, out, err = run(capsys, "trace", checkpoint, *options, *asked, "--fresh")
        assert code == 0, err
        stores[name] = json.loads(out)["store"]
    assert stores["tuned"] != stores["plain"] == stores["own"], "a tuned model has stores of its own"
    code, _, err = run(capsys, "trace", checkpoint, *plain, *asked)
    assert code == 2 and "prompt" in err, "what was asked in another form is not mixed"
    code, out, _ = run(capsys, "doctor", checkpoint, "--prompt", "Q <image> {question} A", "--json")
    assert code == 0 and "Q <image> {question} A" in json.loads(out)["prompt"]


@pytest.mark.parametrize("name", ["trace", "look", "ablate", "steer", "sweep", "doctor", "page", "book"])
def test_every_command_that_loads_a_model_takes_plugins(capsys, name):
    out = run(capsys, name, "--help")[1]
    assert "--import" in out
    assert name in ("page", "book") or all(option in out for option in ("--adapter", "--prompt", "--chat-template"))


def test_a_book_of_unchanged_files_is_not_planned_again(tmp_path, monkeypatch, capsys):
    planned = []
    index = tmp_path / "book" / "_build" / "html" / "book" / "index.html"

    def build(root, **options):
        planned.append(options["force"])
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text("made")
        return index

    for name in ("lib", "notebooks", "data/results"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "_config.yml").touch()
    (tmp_path / "notebooks" / "rows.ipynb").write_text("1")
    monkeypatch.setenv("VISUALHEADS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("visualheads.book.build.build_book", build)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "book")[0] == 0 and len(planned) == 1
    assert "up to date" in run(capsys, "book")[1] and len(planned) == 1
    for changed in ("notebooks/rows.ipynb", "data/results/store"):
        (tmp_path / changed).write_text("22")
        run(capsys, "book")
        run(capsys, "book")
    assert planned == [False] * 3
    run(capsys, "book", "--force")
    assert planned[-1] and len(planned) == 4
    index.unlink()
    run(capsys, "book")
    assert len(planned) == 5


def test_a_file_that_changes_while_the_book_is_built_is_seen_next_time(tmp_path, monkeypatch, capsys):
    planned = []
    index = tmp_path / "book" / "_build" / "html" / "book" / "index.html"
    words = tmp_path / "book" / "index.md"

    def build(root, **options):
        planned.append(options["force"])
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text("made")
        if len(planned) == 1:
            words.write_text("other words")
        return index

    words.parent.mkdir()
    words.write_text("words")
    for name in ("lib", "notebooks", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "_config.yml").touch()
    monkeypatch.setenv("VISUALHEADS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("visualheads.book.build.build_book", build)
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        run(capsys, "book")
    assert len(planned) == 2


def test_shards_on_workers_equal_those_done_here(tmp_path, checkpoint, data):
    here = jobs.TraceJob(
        str(checkpoint), data=str(data), conditions=("plain-object",), n=3, results=str(tmp_path / "a")
    )
    there = jobs.TraceJob(
        str(checkpoint), data=str(data), conditions=("plain-object",), n=3, results=str(tmp_path / "b")
    )
    expected = jobs.run(here, progress=False)
    tracer = there.setup()
    assert cluster.run_shards(there) == tracer.plan.n_shards
    measured = open_store(there.path)
    np.testing.assert_array_equal(measured["image_weight"].values, expected["image_weight"].values)
    assert list(measured["sample"].values) == list(expected["sample"].values)


def test_a_job_travels_without_its_samples(data):
    import pickle

    job = jobs.TraceJob("some/model", data=str(data), conditions=("plain-object",), n=2)
    size = len(pickle.dumps(job))
    assert len(job.samples) == 2
    assert len(pickle.dumps(job)) == size
    assert pickle.loads(pickle.dumps(job)) == job


def test_page_and_book_pass_their_arguments_on(capsys, monkeypatch, tmp_path):
    from visualheads.book import build as building
    from visualheads.book import catalogue

    seen: dict[str, object] = {}

    def page(root, model, given, force):
        seen.update(model=model, given=given, force=force, root=root)
        return tmp_path / "page.ipynb"

    def book(root, full, force, workers, report):
        seen.update(full=full, force=force, workers=workers, root=root)
        report("one page [of two]")
        return tmp_path / "index.html"

    monkeypatch.setattr(catalogue, "run_model_page", page)
    monkeypatch.setattr(building, "build_book", book)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    code, _, _ = run(capsys, "page", "1.5-7B", "-p", "n=64", "-p", "dtype=bfloat16", "-p", "data=a b=c")
    assert code == 0
    assert seen == {
        "model": "1.5-7B",
        "given": {"n": 64, "dtype": "bfloat16", "data": "a b=c"},
        "force": False,
        "root": tmp_path,
    }
    seen.clear()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.csv").touch()
    assert run(capsys, "page", "mine", "-p", "data=mine.csv")[0] == 0
    full = {"model": str(tmp_path / "mine"), "given": {"data": str(tmp_path / "mine.csv")}}
    assert {name: seen[name] for name in full} == full, "the kernel runs in another folder"
    code, out, _ = run(capsys, "book", "--full", "--workers", 2)
    assert code == 0
    assert seen["full"] is True
    assert seen["workers"] == 2
    assert out.strip().endswith("index.html")
    assert "[of two]" in out


def test_parameters_are_read_as_yaml_values():
    read = parameters(["n=64", "bias=4.5", "text=two words", "on=true", "none=", "conditions=[a, b]"])
    assert read == {"n": 64, "bias": 4.5, "text": "two words", "on": True, "none": "", "conditions": ["a", "b"]}
    with pytest.raises(ParameterError, match="twice"):
        parameters(["n=1", "n=2"])
    with pytest.raises(ParameterError, match="cannot be read"):
        parameters(["n=[1"])


@pytest.mark.parametrize(
    ("name", "slug"),
    [("mini-1.5-7B", "mini-1.5-7B"), ("llava-hf/llava-1.5-7b-hf", "llava-hf-llava-1.5-7b-hf"), ("/", "model")],
)
def test_slugs(name, slug):
    assert slug_of(name) == slug


def test_the_package_imports_neither_torch_nor_nnsight():
    """`visualheads --help` and `import visualheads` are quick."""
    heavy = "('torch', 'nnsight', 'transformers', 'xarray')"
    code = f"import sys, visualheads, visualheads.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import visualheads as vh

    for name in vh.__all__:
        assert getattr(vh, name) is not None
    assert set(dir(vh)) == set(vh.__all__)
    assert callable(vh.catalog), "the function, not the module of that name"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vh.no_such_name  # pyright: ignore[reportAttributeAccessIssue]


def test_doctor_tries_a_checkpoint_without_its_weights(capsys, tmp_path):
    folder = save(*llava(), tmp_path / "mine")
    code, out, _ = run(capsys, "doctor", folder)
    assert code == 0 and "LlavaForConditionalGeneration, 3 layers × 4 heads" in out and "16 image tokens" in out
    (folder / "tokenizer.json").unlink()
    code, _, err = run(capsys, "doctor", folder)
    assert code == 2 and "has no tokenizer" in err


@pytest.mark.parametrize(
    "given", ["n=0", "n=-3", "heads=0", "seed=-1", "dtype=int7", "device=nonsense", "task=nothing"]
)
def test_a_page_that_cannot_run_is_refused_before_a_kernel_starts(capsys, monkeypatch, given):
    from visualheads.book import catalogue

    monkeypatch.setattr(catalogue, "run_model_page", lambda *_args, **_more: pytest.fail("a kernel would start"))
    code, out, err = run(capsys, "page", "mini-1.5-7B", "-p", given)
    assert code == 2
    assert given.split("=")[1] in err and "Traceback" not in out + err


WAITING = """
import os, signal, sys, time
from visualheads.cli import main
from visualheads.tracing import jobs
jobs.TraceJob.drawn = ()
def waiting(*_args, **_more):
    os.kill(os.getpid(), signal.{name})
    time.sleep(30)
jobs.run = waiting
sys.argv = ["visualheads", "trace", "mini-1.5-7B", "--out", "my results"]
main()
"""
IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "visualheads.cli.app":
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Finder())
from visualheads.cli import main
main(["models"])
"""


@pytest.mark.parametrize("moment", [WAITING, IMPORTING], ids=["working", "importing"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_run_with_its_code_and_a_word_on_how_to_go_on(tmp_path, moment, name, code):
    ended = subprocess.run(
        [sys.executable, "-c", moment.replace("{name}", name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == code
    assert name in ended.stderr and "Traceback" not in ended.stderr
    assert "To go on from there: visualheads" in ended.stderr

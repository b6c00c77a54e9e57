"""Reading job files: what is accepted, and the one line that is said about everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.errors import JobError, JobMismatch
from lepton_p2p.jobs import Job, check_file, load_job, parse_job
from lepton_p2p.jobs.strategy_options import STRATEGIES, AllReduceOptions
from lepton_p2p.models import build
from lepton_p2p.rounds.aggregation import Aggregation

EXAMPLES = sorted((Path(__file__).parents[2] / "peers").glob("*.toml"))

GOOD = """
name = "t"
seed = 3
batch_size = 8
loss = "mse"
strategy = "gossip"
[model]
name = "linear"
inputs = 8
[data]
name = "synthetic_linear"
[optimizer]
name = "sgd"
lr = 0.1
[schedule]
steps = 10
"""


def robust(rule: str, *more: str) -> str:
    """The synchronous strategy with something in the place of the mean."""
    return "{ " + ", ".join(["name = 'all_reduce'", f"aggregation = '{rule}'", *more]) + " }"


def error_of(text: str) -> str:
    with pytest.raises(JobError) as caught:
        parse_job(text, source="job.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("job.toml: ")
    return message.removeprefix("job.toml: ")


def test_toml_json_and_json_of_json_give_the_same_job() -> None:
    job = parse_job(GOOD)
    again = parse_job(job.to_json())
    assert again == job
    assert again.digest == job.digest
    assert len(job.digest) == 64


def test_defaults_are_written_out_so_that_peers_with_other_defaults_build_the_same() -> None:
    job = parse_job(GOOD)
    assert '"momentum":0.0' in job.to_json()
    assert '"push_every":' in job.to_json()


def test_every_setting_changes_the_digest() -> None:
    digests = {
        parse_job(text).digest for text in (GOOD, GOOD.replace("seed = 3", "seed = 4"), GOOD.replace("0.1", "0.2"))
    }
    assert len(digests) == 3


def test_how_gradients_are_aggregated_is_part_of_the_job() -> None:
    jobs = [
        parse_job(GOOD.replace('"gossip"', text))
        for text in (
            '"all_reduce"',
            robust("median"),
            robust("trimmed_mean"),
            robust("trimmed_mean", "trim = 2"),
            robust("clip", "norm = 2"),
            robust("centered_clip", "radius = 0.5", "iterations = 5"),
        )
    ]
    assert len({job.digest for job in jobs}) == len(jobs), "peers with another aggregation are refused"
    made = [STRATEGIES.make(job.strategy.name, parse_job(job.to_json()).strategy.options) for job in jobs]
    assert [one.aggregation for one in made if isinstance(one, AllReduceOptions)] == [
        None,
        Aggregation("median"),
        Aggregation("trimmed_mean"),
        Aggregation("trimmed_mean", trim=2),
        Aggregation("clip", norm=2.0),
        Aggregation("centered_clip", radius=0.5, iterations=5),
    ]


def test_a_bare_strategy_name_is_short_for_a_table() -> None:
    table = GOOD.replace('strategy = "gossip"', 'strategy = { name = "gossip" }')
    assert parse_job(table) == parse_job(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size = 8", "batchsize = 8", "batchsize: unknown key; did you mean 'batch_size'?"),
        ("batch_size = 8", 'batch_size = "8"', "batch_size: expected integer, got str '8'"),
        ("batch_size = 8", "batch_size = 8.5", "batch_size: expected integer, got float 8.5"),
        ("batch_size = 8", "batch_size = true", "batch_size: expected integer, got bool True"),
        ("batch_size = 8", "batch_size = 0", "batch_size: expected greater than or equal to 1, got int 0"),
        ('"linear"', '"linaer"', "model.name: unknown model 'linaer'; did you mean 'linear'?"),
        ("inputs = 8", "input = 8", "model.input: unknown key; did you mean 'inputs'?"),
        ("inputs = 8", "", "model.inputs: is required"),
        ("inputs = 8", "inputs = 10000000", "model.inputs: expected less than or equal to 65536, got int 10000000"),
        ('"synthetic_linear"', '"sintetic_linear"', "data.name: unknown data set"),
        ('"sgd"', '"sdg"', "optimizer.name: unknown optimizer 'sdg'; did you mean 'sgd'?"),
        ("lr = 0.1", "lr = nan", "optimizer.lr: expected a finite number, got float nan"),
        ("lr = 0.1", "lr = '0.1'", "optimizer.lr: expected number, got str '0.1'"),
        ('"mse"', '"msee"', "loss: unknown loss 'msee'; did you mean 'mse'?"),
        ('"gossip"', '"gosip"', "strategy.name: unknown strategy 'gosip'; did you mean 'gossip'?"),
        ('"gossip"', "7", "strategy: expected a table or a name, got 7"),
        (
            '"gossip"',
            "{ name = 'all_reduce', trim = 1 }",
            "strategy: trim is an option of a robust aggregation",
        ),
        ('"gossip"', robust("krum"), "strategy.aggregation: expected 'mean', 'clip', 'trimmed_mean', 'median' or"),
        ('"gossip"', robust("median", "trim = 1"), "strategy: trim is an option of trimmed_mean, not of median"),
        ('"gossip"', robust("trimmed_mean", "trim = 0"), "strategy.trim: expected greater than or equal to 1, got int"),
        ('"gossip"', robust("clip", "norm = 0.0"), "strategy.norm: expected greater than 0, got float 0.0"),
        ('"gossip"', "{ name = 'gossip', aggregation = 'median' }", "strategy.aggregation: unknown key"),
        ("steps = 10", "stepz = 10", "schedule.stepz: unknown key; did you mean 'steps'?"),
        ("steps = 10", "", "schedule: give passes or steps, otherwise the training never ends"),
        ("steps = 10", "steps = 10\nlr = 'cosin'", "schedule.lr: expected 'constant' or 'cosine', got str 'cosin'"),
        ("[model]", "[modell]", "modell: unknown key; did you mean 'model'?"),
        ('name = "t"', 'name = "../t"', "name: "),
        ("seed = 3", "seed = -1", "seed: expected greater than or equal to 0, got int -1"),
        ("[model]", "[model", "neither TOML nor JSON"),
        ("seed = 3", "file = 'train.py'", "file and file_digest come together"),
        ("seed = 3", f"file = '../train.py'\nfile_digest = '{'a' * 64}'", "file: "),
        ("seed = 3", f"file = 'train.py'\nfile_digest = '{'a' * 64}'", "[model] and file exclude each other"),
    ],
)
def test_whatever_is_wrong_is_told_in_one_line_with_its_key(old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert error_of(GOOD.replace(old, new, 1)).startswith(said)


@given(st.text() | st.text().map("{".__add__) | st.just("[" * 20_000) | st.just('{"a":' * 20_000))
def test_no_text_does_anything_but_raise_a_job_error(text: str) -> None:
    with pytest.raises(JobError):
        parse_job(text)


def test_a_text_that_is_too_long_is_not_parsed() -> None:
    assert "at most" in error_of("#" * 70_000)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_job(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_shipped_jobs_can_be_read_and_built(path: Path) -> None:
    job = load_job(path)
    assert parse_job(job.to_json()) == job
    assert len(build(job).train[0])


PYTHON = """
import torch
from lepton_p2p.models import Built

def build():
    model = torch.nn.Linear(4, 1)
    x = torch.ones(16, 4)
    data = (x, x.sum(1))
    loss = lambda p, y: (p.squeeze(1) - y).pow(2).mean()
    return Built(model, data, data, loss, lambda params: torch.optim.SGD(params, lr=0.1),
                 settings={"schedule": {"steps": 5}, "seed": 9, "batch_size": 4})

if __name__ == "__main__":
    raise SystemExit("the file's own command line must not start")
"""


@pytest.fixture
def train_py(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(PYTHON)
    return path


def test_a_python_file_becomes_a_job_that_holds_its_name_and_digest_but_no_code(train_py: Path) -> None:
    job = load_job(train_py)
    assert (job.file, job.name, job.seed, job.batch_size) == ("train.py", "train", 9, 4)
    assert "torch" not in job.to_json()
    assert parse_job(job.to_json()) == job
    check_file(job, train_py)
    assert len(build(job, file=train_py).train[0]) == 16


def test_a_peer_with_another_file_is_refused_naming_both_digests(train_py: Path, tmp_path: Path) -> None:
    job = load_job(train_py)
    other = tmp_path / "other.py"
    other.write_text(PYTHON + "\n")
    with pytest.raises(JobMismatch) as caught:
        check_file(job, other)
    assert str(job.file_digest) in str(caught.value)
    assert load_job(other).file_digest in str(caught.value)


def test_a_peer_without_the_file_is_told_that_code_never_travels(train_py: Path) -> None:
    with pytest.raises(JobMismatch, match="code never travels"):
        build(load_job(train_py))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "has no function build"),
        ("def build():\n    return 3", "build.. returned int"),
        ("def build():\n    raise OSError('disk')", r"train.py:2: build.. failed: OSError: disk"),
        ("def build(:", "SyntaxError"),
        (PYTHON.replace('"schedule"', '"scedule"'), "settings: unknown key 'scedule'"),
        (PYTHON.replace('"schedule": {"steps": 5}, ', ""), "'schedule' is required"),
    ],
)
def test_a_broken_python_file_is_one_line(train_py: Path, source: str, said: str) -> None:
    train_py.write_text(source)
    with pytest.raises(JobError, match=said) as caught:
        load_job(train_py)
    assert "\n" not in str(caught.value)


def test_jobs_are_values() -> None:
    assert isinstance(hash(parse_job(GOOD).digest), int)
    with pytest.raises(ValueError, match="frozen"):
        parse_job(GOOD).seed = 1  # type: ignore[misc]
    assert isinstance(parse_job(GOOD), Job)

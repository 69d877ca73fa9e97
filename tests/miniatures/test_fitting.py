"""The training loop: seeded, resumable, in cycles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visualheads.errors import CheckpointError
from visualheads.miniatures import fitting


def line_fit(
    folder: Path, steps: int, stop_at: int | None = None, restarts: tuple[int, ...] = ()
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def loss_of(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.tensor([[1.0, step % 3]])
        return (model(x) - x.sum()).square().mean()

    schedule = fitting.Schedule(steps, 1, 0.05, 2, 5, moments=(3,), restarts=restarts)
    fitting.fit("line", model, [fitting.group(model)], loss_of, schedule, folder)
    return model.state_dict()


def test_an_interrupted_stage_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 4)
    whole = line_fit(tmp_path / "whole", 20)
    with pytest.raises(KeyboardInterrupt):
        line_fit(tmp_path / "killed", 20, stop_at=10)
    resumed = line_fit(tmp_path / "killed", 20)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (tmp_path / "killed/line-3.pt").exists()
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_schedule_warms_up_and_ends_near_zero():
    schedule = fitting.Schedule(steps=100, batch=1, rate=1.0, warm_up=10)
    assert schedule.rate_at(0) == pytest.approx(0.1)
    assert schedule.rate_at(9) > schedule.rate_at(50) > schedule.rate_at(99)
    assert schedule.rate_at(99) < 0.001


def test_a_finished_stage_is_lengthened_by_a_cycle(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 4)
    whole = line_fit(tmp_path / "whole", 20, restarts=(8,))
    first = line_fit(tmp_path / "parts", 8)
    with pytest.raises(KeyboardInterrupt):
        line_fit(tmp_path / "parts", 20, stop_at=14, restarts=(8,))
    lengthened = line_fit(tmp_path / "parts", 20, restarts=(8,))
    assert all(torch.equal(whole[key], lengthened[key]) for key in whole)
    assert any(not torch.equal(whole[key], first[key]) for key in whole)
    for steps, restarts in ((30, (8,)), (20, (10,)), (20, ())):
        with pytest.raises(CheckpointError, match="another training plan"):
            line_fit(tmp_path / "parts", steps, restarts=restarts)


def test_a_restart_begins_the_rates_anew():
    schedule = fitting.Schedule(steps=130, batch=1, rate=1.0, warm_up=10, restarts=(30,))
    alone = fitting.Schedule(steps=100, batch=1, rate=1.0, warm_up=10)
    assert schedule.rate_at(29) < 0.01
    assert [schedule.rate_at(30 + step) for step in (0, 9, 99)] == [alone.rate_at(step) for step in (0, 9, 99)]


def test_a_kept_stage_of_another_schedule_or_shape_is_refused(tmp_path):
    line_fit(tmp_path, 20)
    line_fit(tmp_path, 20)
    with pytest.raises(CheckpointError, match="another training plan"):
        line_fit(tmp_path, 30)
    other = torch.nn.Linear(3, 1)
    schedule = fitting.Schedule(20, 1, 0.05, 2, 5, moments=(3,))
    with pytest.raises(CheckpointError, match="another shape"):
        fitting.fit("line", other, [fitting.group(other)], lambda _step: other.weight.sum(), schedule, tmp_path)


def test_groups_learn_at_their_own_pace(tmp_path):
    fast, slow = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    both = torch.nn.ModuleList([fast, slow])
    before = [module.weight.item() for module in both]

    def loss_of(step: int):
        return fast.weight.sum() + slow.weight.sum()

    parts = [fitting.group(fast), fitting.group(slow, factor=0.1)]
    fitting.fit("pace", both, parts, loss_of, fitting.Schedule(1, 1, 0.1, 1, 1), tmp_path)
    moved = [module.weight.item() - start for module, start in zip(both, before, strict=True)]
    assert moved[0] == pytest.approx(10 * moved[1], rel=0.1)

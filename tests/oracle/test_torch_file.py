"""What torch.save writes is what we read, bit for bit, without torch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="files of torch.save: pip install '.[oracle]'")

from worldmodel import pretrained  # noqa: E402


def test_state_dicts_are_read_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.LSTMCell(4, 5))
    base = torch.randn(4, 6)
    state = {
        "net": net.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "row": base[1:3],
        "half": torch.randn(5).half(),
        "brain": torch.randn(7).bfloat16(),
        "double": torch.randn(2).double(),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "epoch": 3,
    }
    torch.save(state, tmp_path / "a.pt")
    read = pretrained.read(tmp_path / "a.pt")
    wanted = {f"net.{k}": v for k, v in state["net"].items()} | {
        k: v for k, v in state.items() if k not in ("net", "epoch")
    }
    assert set(read) == set(wanted)
    for name, want in wanted.items():
        want = want.detach()
        want = (want.float() if want.dtype == torch.bfloat16 else want).numpy()
        got = read[name].numpy()
        assert got.dtype == want.dtype and np.array_equal(got, want), name


def test_optimisers_checkpoints_are_read_too(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    torch.save({"model": net.state_dict(), "optimizer": optimiser.state_dict()}, tmp_path / "a.pt")
    read = pretrained.read(tmp_path / "a.pt")
    assert np.array_equal(read["model.weight"].numpy(), net.weight.detach().numpy())
    assert any(name.startswith("optimizer.state.0.") for name in read)


def test_what_else_torch_saves_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="the name 'torch.nn.modules.linear.Linear' is refused"):
        pretrained.read(tmp_path / "module.pt")
    torch.save({"a": torch.ones(2, 3).T}, tmp_path / "strided.pt")
    with pytest.raises(ValueError, match="not contiguous"):
        pretrained.read(tmp_path / "strided.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="before 1.6"):
        pretrained.read(tmp_path / "old.pt")

"""Kernels: oneDNN's compute what torch's do, and resumed runs keep those that they had."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit.engines import kernels
from genkit.engines.kernels import Choice
from genkit.engines.plan import Plan
from genkit.engines.recording import record

ZEN_5 = ("AuthenticAMD", 26)
IMAGES = torch.randint(
    0, 256, (200, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
)
OPTIONS = {"batch_size": 64, "device": "cpu", "progress": False, "log_interval": 4}


@pytest.fixture
def zen_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which captured steps take oneDNN's kernels."""
    monkeypatch.setattr(kernels, "processor", lambda: ZEN_5)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch lacks oneDNN"
)
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs"), [(128, 784, 128), (64, 130, 784), (300, 100, 177)]
)
def test_kernels_are_as_exact_as_torch_s(batch: int, inputs: int, outputs: int) -> None:
    stream = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(*shape, generator=stream)
        for shape in ((batch, inputs), (outputs, inputs), (outputs,))
    )
    with kernels.kernel_mode("onednn"):
        layer = torch.nn.functional.linear(x, w, b)
        turned = layer.t() @ x
        bounded = torch.tanh(layer / inputs**0.5)
    double = torch.nn.functional.linear(x.double(), w.double(), b.double())
    aten = torch.ops.aten
    operations = (
        (aten.addmm.default, (b, x, w.t())),
        (aten.mm.default, (layer.t(), x)),
        (aten.tanh.default, (layer,)),
    )
    assert all(kernels.kernel(function, args, {}) for function, args in operations)
    torch.testing.assert_close(layer.double(), double, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        turned.double(), layer.double().t() @ x.double(), rtol=1e-5, atol=2e-2
    )
    torch.testing.assert_close(
        bounded.double(), (layer / inputs**0.5).double().tanh(), rtol=2e-7, atol=0
    )


def test_kernels_leave_alone_what_they_cannot_compute() -> None:
    stream = torch.Generator().manual_seed(0)
    x, w = (torch.randn(2100, 2100, generator=stream) for _ in range(2))
    works: list[Callable[[], Tensor]] = [
        lambda: x.to_sparse() @ w,
        lambda: nn.functional.linear(x[:, :50], w[:, :50], torch.ones(1)),
        lambda: x @ w.as_strided((2100, 2000), (2, 1)),
        lambda: x @ w[:1].expand(2100, -1).t(),
        lambda: torch.tanh(x.view(2, 2, 3, 5, 7, -1)),
        lambda: x.double() @ w.double(),
        lambda: x.to(torch.bfloat16) @ w.to(torch.bfloat16),
    ]
    for number, work in enumerate(works):
        with kernels.kernel_mode("onednn"):
            got = work()
        assert torch.equal(got, work()), number


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch lacks oneDNN"
)
def test_a_tanh_becomes_part_of_its_product() -> None:
    x, w, b, target = (
        torch.randn(128, 200),
        torch.randn(200, 200) / 10,
        torch.randn(200),
        torch.zeros(128, 200),
    )
    held = torch.randn(128, 200)
    for work in (
        lambda: torch.tanh(torch.nn.functional.linear(x, w, b)).view(-1, 200),
        lambda: torch.tanh((x @ w.t()).view(8, -1)).view(128, 200),  # not the very result
        lambda: torch.tanh((x @ w.t())[:64]).repeat(2, 1),
        lambda: (held @ w.t()).add_(1) + torch.tanh(held),
        lambda: torch.tanh(y := x @ w.t()) + y,  # the product is needed itself
        lambda: torch.tanh(x @ w.t() + 1),
    ):
        _, recording = record(lambda work=work: target.copy_(work()))
        planned = Plan(kernels.replace(recording.operations))
        with kernels.kernel_mode("onednn"):
            expected = work()
        planned.run()
        assert torch.equal(target, expected)


def test_which_kernels_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, other = torch.device("cpu"), torch.device("cuda")
    for found, captured in ((ZEN_5, "onednn"), (("AuthenticAMD", 25), "torch"), (None, "torch")):
        monkeypatch.setattr(kernels, "processor", lambda found=found: found)
        monkeypatch.setattr(kernels, "_usable", lambda device: device.type == "cpu")
        assert kernels.choose("auto", cpu, "auto") == Choice("torch", captured)
        assert kernels.choose("auto", cpu, "eager") == kernels.TORCH
        assert kernels.choose("auto", other) == kernels.choose("torch", cpu) == kernels.TORCH
        assert kernels.choose("onednn", cpu) == Choice("onednn", "onednn")
        monkeypatch.setattr(kernels, "_usable", lambda device: False)
        assert kernels.choose("auto", cpu) == kernels.TORCH
        for device in (cpu, other):
            why = {
                "cpu": "this build of torch lacks oneDNN",
                "cuda": "it is for a CPU, and this is cuda",
            }[device.type]
            with pytest.raises(genkit.GenkitError, match=f"--kernels onednn: {why}"):
                kernels.choose("onednn", device)


def test_a_build_of_torch_without_the_operation_lacks_onednn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Callable[..., Tensor]:
        raise AttributeError("mkldnn")

    monkeypatch.setattr(kernels, "_linear", missing)
    with pytest.raises(genkit.GenkitError, match="this build of torch lacks oneDNN"):
        kernels.choose("onednn", torch.device("cpu"))


def test_the_processor_is_read_from_the_system(tmp_path: Path) -> None:
    for content, expected in (
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\n\nvendor_id\t: X\n", ZEN_5),
        ("vendor_id : GenuineIntel\ncpu family : 6\n", ("GenuineIntel", 6)),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", None),
        ("cpu family: many\n", None),
    ):
        path = tmp_path / f"{abs(hash(content))}"
        path.write_text(content)
        assert kernels.processor(path) == expected
    assert kernels.processor(tmp_path / "none") is None


def bits(run: genkit.Run, step: int) -> dict[str, bytes]:
    folder = run.path / "checkpoints" / f"step-{step:09d}"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.usefixtures("zen_5")
@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_resumed_run_changes_kernels_at_the_same_step(first: int) -> None:
    whole = genkit.train("simple-gan", dataset=IMAGES, iterations=6, **OPTIONS)
    part = genkit.train("simple-gan", dataset=IMAGES, iterations=first, **OPTIONS)
    assert part.info.environment.kernels == ("torch" if first < 2 else "onednn")
    resumed = genkit.resume(part.path, dataset=IMAGES, iterations=6, progress=False)
    assert whole.info.environment.kernels == resumed.info.environment.kernels == "onednn"
    assert bits(whole, 6) == bits(resumed, 6)
    python = genkit.train("simple-gan", dataset=IMAGES, iterations=6, kernels="torch", **OPTIONS)
    assert bits(python, 6) != bits(whole, 6)  # the kernels do matter


@pytest.mark.usefixtures("zen_5")
def test_what_a_first_step_keeps_does_not_move_the_change_of_kernels() -> None:
    from genkit_plugins.simple_gan import SimpleGAN

    class Keeps(SimpleGAN):
        size: int | None = None

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            self.size = self.size or len(batch.images)
            return super().step(batch, rng)

    whole = genkit.train(Keeps, dataset=IMAGES, iterations=6, **OPTIONS)
    part = genkit.train(Keeps, dataset=IMAGES, iterations=1, **OPTIONS)
    resumed = genkit.resume(part.path, trainer=Keeps, dataset=IMAGES, iterations=6, progress=False)
    assert resumed.info.environment.kernels == "onednn"
    assert bits(whole, 6) == bits(resumed, 6)


@pytest.mark.usefixtures("zen_5")
def test_a_step_that_is_not_captured_has_torch_s_kernels_from_the_first_step_on() -> None:
    from genkit_plugins.simple_gan import SimpleGAN

    class Reads(SimpleGAN):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = super().step(batch, rng)
            assert next(iter(metrics.values())).item() > 0
            return metrics

    fallen_back = genkit.train(Reads, dataset=IMAGES, iterations=4, **OPTIONS)
    eager = genkit.train(
        SimpleGAN, dataset=IMAGES, iterations=4, engine="eager", kernels="torch", **OPTIONS
    )
    environment = fallen_back.info.environment
    assert (environment.engine, environment.kernels) == ("eager", "torch")
    assert "Tensor.item" in environment.fallback_reason
    assert bits(fallen_back, 4) == bits(eager, 4)


def test_kernels_that_are_gone_are_said_when_resuming(
    tiny, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    class Notices(genkit.Callback):
        def on_notice(self, message: str) -> None:
            heard.append(message)

    options = {"progress": False, "callbacks": [Notices()]}
    run = genkit.train(
        tiny, dataset=images, iterations=4, batch_size=4, device="cpu", kernels="onednn", **options
    )
    assert run.info.environment.kernels == "onednn"
    with monkeypatch.context() as lacking:
        lacking.setattr(kernels, "_usable", lambda device: False)
        genkit.resume(run.path, trainer=tiny, dataset=images, iterations=6, **options)
    assert "kernels was onednn, is torch: the result will not be bit-identical" in heard
    heard.clear()
    written = json.loads((run.path / "run.json").read_text())
    written["options"]["kernels"] = "auto"
    del written["environment"]["kernels"]  # a run of before there was a choice
    (run.path / "run.json").write_text(json.dumps(written))
    monkeypatch.setattr(kernels, "processor", lambda: ZEN_5)
    resumed = genkit.resume(run.path, trainer=tiny, dataset=images, iterations=10, **options)
    assert resumed.info.environment.kernels == "torch"
    assert not [message for message in heard if "kernels" in message]

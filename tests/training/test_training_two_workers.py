"""Two workers are one: joint batch statistics, the gradients of the joint batch, equal parameters afterwards."""

from types import SimpleNamespace

import fsspec
import pytest
import torch
import torch.distributed as dist
from torch import nn
from toys import Growing, Wasserstein

from metgan_dist.methods import build_method, enter_stage
from metgan_dist.methods.method import Method, Player
from metgan_dist.networks.patchgan import PatchGAN
from metgan_dist.recipe import Recipe, Tiles
from metgan_dist.recipe.methods.metgan import MetGANRecipe
from metgan_dist.recipe.methods.pix2pix import Pix2PixRecipe
from metgan_dist.recipe.methods.segmentor import SegmentorRecipe
from metgan_dist.training import stop_notice, team
from metgan_dist.training.checkpoint import SHARED, own_files
from metgan_dist.training.step import Stepper
from metgan_dist.training.stop_notice import StopNotice
from metgan_dist.training.sync_batch_norm import synchronise_batch_norm
from metgan_dist.training.worker import _mean

RECIPE = Recipe(method=MetGANRecipe(width=0.05, segmentor_width=0.05, pool=2))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of the two processes of one gloo group made of each of WORKS, by name; started once for all of them."""
    folder = tmp_path_factory.mktemp("both")
    torch.multiprocessing.spawn(_joined, [folder], nprocs=2)
    return {name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)] for name in WORKS}


def _joined(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name, (work, *arguments) in WORKS.items():
        options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        torch.save(work(rank, *arguments, **options), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


def _batch(images, edge=128, dtype=torch.float32):
    random = torch.Generator().manual_seed(5)
    anatomy, tumour = (torch.rand(images, 1, edge, edge, generator=random, dtype=dtype) * 2 - 1 for _ in range(2))
    return {"anatomy": anatomy, "tumour": tumour, "label": (tumour[:, 0] > 0.8).long()}


def _metgan():
    segmentor = build_method(RECIPE.model_copy(update={"method": SegmentorRecipe(segmentor_width=0.05)}))
    return build_method(RECIPE, segmentor.networks["segmentor"])


def _numbers():
    return torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7


def _normalise(rank):
    norm = synchronise_batch_norm(nn.BatchNorm2d(3, dtype=torch.float64), torch.device("cpu"))
    mine = _numbers()[rank * 2 : rank * 2 + 2].clone().requires_grad_(True)
    out = norm(mine)
    (out**3).sum().backward()
    return {"out": out.detach(), "grad": mine.grad, "mean": norm.running_mean, "var": norm.running_var}


def test_batch_statistics_on_cpu_are_those_of_the_joint_batch(both):
    alone = nn.BatchNorm2d(3, dtype=torch.float64)
    whole = _numbers().requires_grad_(True)
    expected = alone(whole)
    (expected**3).sum().backward()
    first, second = both["normalise"]
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]), expected.detach())
    torch.testing.assert_close(torch.cat([first["grad"], second["grad"]]), whole.grad)
    for rank in (first, second):
        torch.testing.assert_close(rank["mean"], alone.running_mean)
        torch.testing.assert_close(rank["var"], alone.running_var)


class Critic(Method):
    """A player without batch statistics, so that the joint gradient is the mean of the parts'."""

    inference = ("critic",)

    @classmethod
    def criterion(cls, recipe):
        return ("mae", "min")

    @classmethod
    def from_recipe(cls, recipe, segmentor=None, perceptual=None):
        return cls({"critic": PatchGAN(width=0.1)})

    def players(self):
        return (Player("critic", ("critic",), 0.0, (0.5, 0.999)),)

    def losses(self, player, batch, made):
        return {"loss": (self.networks["critic"](batch["tumour"]) ** 2).mean()}, {}

    def translate(self, batch):
        return batch["anatomy"]

    def pictures(self, batch):
        return {}


def _critic_gradients(stepper, batches):
    gradients = {}
    optimiser = stepper.optimisers["critic"]
    optimiser.register_step_pre_hook(
        lambda *_: gradients.update({n: p.grad.clone() for n, p in stepper.method.named_parameters()})
    )
    stepper.step(batches)
    return gradients


def _critic():
    torch.manual_seed(1)
    return Critic({"critic": PatchGAN(width=0.1).double()})


def _share(rank, parts, **options):
    mine = {name: value[rank::2] for name, value in _batch(4, dtype=torch.float64).items()}
    batches = [{name: value[part::parts] for name, value in mine.items()} for part in range(parts)]
    return _critic_gradients(Stepper(_critic(), torch.device("cpu"), world=2, **options), batches)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_gradients_of_two_workers_equal_one_process_with_the_joint_batch(both, accumulated):
    expected = _critic_gradients(Stepper(_critic(), torch.device("cpu")), [_batch(4, dtype=torch.float64)])
    for rank in both[f"share-{accumulated}"]:
        for name, gradient in expected.items():
            torch.testing.assert_close(rank[name], gradient, rtol=1e-9, atol=1e-12)


def _penalised(rank, parts, world, **options):
    """The critic's gradients in each of its five moves, and all weights after the step."""
    torch.manual_seed(0)
    stepper = Stepper(Wasserstein.from_recipe(RECIPE).double(), torch.device("cpu"), world=world, **options)
    whole = _batch(4, edge=4, dtype=torch.float64)
    whole["mix"] = torch.rand(4, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine = {name: value[rank::world] for name, value in whole.items()}
    moves, critic = [], stepper.method.networks["critic"]
    stepper.optimisers["critic"].register_step_pre_hook(
        lambda *_: moves.append([parameter.grad.clone() for parameter in critic.parameters()])
    )
    stepper.step([{name: value[part::parts] for name, value in mine.items()} for part in range(parts)])
    return {"moves": moves, "weights": stepper.method.state_dict()}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_player_with_a_gradient_in_its_loss_learns_from_the_joint_batch_too(both, accumulated):
    """No hooks of DistributedDataParallel are under it: its gradients are averaged by hand, in each of its moves."""
    alone = _penalised(0, 1, 1)
    first, second = both[f"penalised-{accumulated}"]
    assert len(alone["moves"]) == 5
    for rank in (first, second):
        torch.testing.assert_close(rank["moves"], alone["moves"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rank["weights"], alone["weights"], rtol=1e-9, atol=1e-12)
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name


def _grown(rank):
    """All weights after a step in each of three stages, each of which adds a network."""
    method = Growing.from_recipe(RECIPE)
    stepper = Stepper(method, torch.device("cpu"), world=2, ema_half_life=4)
    for stage in method.stages(RECIPE):
        enter_stage(method, RECIPE, stage)
        stepper.begin(stage)
        for _ in range(2):
            stepper.step([{name: value[rank : rank + 1] for name, value in _batch(2, edge=8).items()}])
    return dict(method.state_dict())


def test_networks_that_a_stage_adds_learn_from_all_workers(both):
    first, second = both["grown"]
    assert {name.split(".")[1] for name in first} == {"scale_0", "scale_1", "scale_2"}
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def _mean_over(rank):
    return {"mean": _mean(torch.tensor(1.0 + 4 * rank), 2), "alone": _mean(torch.tensor(7.0), 1)}


def test_a_number_of_each_rank_has_one_mean(both):
    for rank in both["mean"]:
        assert (float(rank["mean"]), float(rank["alone"])) == (3.0, 7.0)


def _heard(rank):
    """Answers to 40 questions after steps that take no time, of which rank 0 is told after the 14th."""
    told, time = [], stop_notice.time
    stop_notice.time = SimpleNamespace(monotonic=lambda: 7.0 + rank)
    notice = StopNotice(SimpleNamespace(folder="here", asked_to_stop=lambda: bool(told)), rank, 2, torch.device("cpu"))
    answers, rounds, seconds, broadcast = [], [], [], dist.broadcast
    stop_notice.dist.broadcast = lambda *given: rounds.append(len(answers)) or broadcast(*given)
    try:
        for number in range(40):
            if number == 14 and rank == 0:
                told.append(True)
            answers.append(notice())
            seconds.append(notice.seconds())
    finally:
        stop_notice.dist.broadcast, stop_notice.time = broadcast, time
    return {"answers": answers, "rounds": rounds, "seconds": seconds}


def test_all_ranks_hear_of_a_stop_after_the_same_step_and_meet_for_it_every_few_steps(both):
    first, second = both["heard"]
    assert first == second
    assert first["rounds"] == [0, 10, 20, 30]
    assert first["answers"].index(True) == 20
    assert set(first["seconds"]) == {7.0}  # rank 0's clock on both


def _pix2pix():
    torch.manual_seed(0)
    return build_method(Recipe(method=Pix2PixRecipe(width=0.05), tiles=Tiles(size=64)))


def _train(rank, build, steps, **options):
    stepper = Stepper(build(), torch.device("cpu"), world=2, **options)
    stepper.method.seed_pools(rank)
    batch = _batch(2, edge=64)
    for _ in range(steps):
        stepper.step([{name: value[rank : rank + 1] for name, value in batch.items()}])
    return {f"{n}": v for n, v in stepper.method.state_dict().items()}


class Norm(Critic):
    """A player whose output is what BatchNorm makes of the tile."""

    def losses(self, player, batch, made):
        return {"loss": (self.networks["critic"](batch["tumour"]) ** 3).mean()}, {}


def _norm():
    return Norm({"critic": nn.BatchNorm2d(1, dtype=torch.float64)})


def _tiles():
    return _batch(2, edge=8, dtype=torch.float64)["tumour"] * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).double()


def _own_statistics(rank):
    """Gradients and running statistics after a step with batch statistics of each worker's own."""
    stepper = Stepper(_norm(), torch.device("cpu"), world=2, joint_batch_norm=False)
    gradients = _critic_gradients(stepper, [{"tumour": _tiles()[rank : rank + 1]}])
    return {**gradients, **dict(stepper.method.networks["critic"].named_buffers())}


def _fetched(rank):
    """What each of two workers of one node fetches of a checkpoint of three, and what then lies there for both."""
    fs, uri, names, fetch = fsspec.filesystem("memory"), "memory://checkpoint", [], team.fetch
    for name in (*SHARED, *own_files(0), *own_files(1), *own_files(2)):
        fs.pipe_file(f"/checkpoint/{name}", name.encode())
    team.fetch = lambda uri, options, wanted, folder: names.extend(wanted) or fetch(uri, options, wanted, folder)
    try:
        with OneOf(rank).fetched(uri, {}) as folder:
            there = {name: (folder / name).read_text() for name in (*SHARED, *own_files(rank))}
            dist.barrier()
            everything = sorted(path.name for path in folder.iterdir())
            dist.barrier()
        dist.barrier()
        return {"names": sorted(names), "there": there, "everything": everything, "left": folder.exists()}
    finally:
        team.fetch = fetch


class OneOf(team.Team):
    """One of two workers of a node."""

    last_checkpoint = keep = leaving = None

    def __init__(self, rank):
        self.rank = self.local_rank = rank
        self.world = 2


def test_each_worker_fetches_its_own_file_and_one_of_the_node_what_all_share(both):
    first, second = both["fetched"]
    assert first["names"] == sorted([*SHARED, "rank-0.pt", "rank-0.sha256"])
    assert second["names"] == ["rank-1.pt", "rank-1.sha256"]
    for rank in (first, second):
        assert rank["everything"] == sorted([*first["names"], *second["names"]])
        assert all(text == name for name, text in rank["there"].items())
        assert not rank["left"]


WORKS = {
    "normalise": [_normalise],
    "share-1": [_share, 1],
    "share-2": [_share, 2],
    "train": [_train, _metgan, 6],
    "pix2pix": [_train, _pix2pix, 3],
    "local": [_train, _pix2pix, 3, {"joint_batch_norm": False}],
    "rounded": [_train, _pix2pix, 3, {"bf16_gradients": True}],
    "views": [_train, _pix2pix, 3, {"gradient_views": True}],
    "rounded-views": [_train, _pix2pix, 3, {"bf16_gradients": True, "gradient_views": True}],
    "share-rounded": [_share, 1, {"bf16_gradients": True}],
    "penalised-rounded": [_penalised, 1, 2, {"bf16_gradients": True}],
    "own": [_own_statistics],
    "penalised-1": [_penalised, 1, 2],
    "penalised-2": [_penalised, 2, 2],
    "grown": [_grown],
    "mean": [_mean_over],
    "heard": [_heard],
    "fetched": [_fetched],
}


def test_two_workers_hold_identical_networks_after_six_steps(both):
    first, second = both["train"]
    before = _metgan().state_dict()
    assert first.keys() == before.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    moved = [name for name, value in first.items() if not torch.equal(value, before[name])]
    assert any(name.startswith("networks.generator.") for name in moved)
    assert not any(name.startswith("networks.segmentor.") for name in moved)


def test_gradients_of_an_image_made_before_the_turns_are_averaged_too(both):
    """The generator of pix2pix works before DistributedDataParallel is told of its turn."""
    first, second = both["pix2pix"]
    before = _pix2pix().state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert not torch.equal(
        first["networks.generator.backbone.output.weight"], before["networks.generator.backbone.output.weight"]
    )


def test_batch_statistics_of_each_workers_own_tiles_and_running_ones_that_agree(both):
    alone, gradients = [], []
    for rank in range(2):
        stepper = Stepper(_norm(), torch.device("cpu"))
        gradients.append(_critic_gradients(stepper, [{"tumour": _tiles()[rank : rank + 1]}]))
        alone.append(stepper.method.networks["critic"])
    assert not torch.equal(alone[0].running_var, alone[1].running_var)
    for rank in both["own"]:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(rank[name], (getattr(alone[0], name) + getattr(alone[1], name)) / 2)
        for name in gradients[0]:
            torch.testing.assert_close(rank[name], (gradients[0][name] + gradients[1][name]) / 2)


def test_two_workers_with_statistics_of_their_own_hold_identical_networks(both):
    first, second = both["local"]
    assert any(not torch.equal(value, both["pix2pix"][0][name]) for name, value in first.items())
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# Rounding to 8 bits, of each worker's half and of their sum.
BF16 = 2.0**-8


def test_rounded_gradients_are_within_the_rounding_of_the_exact_ones_and_alike_on_both_workers(both):
    own = []
    for rank in range(2):
        mine = {name: value[rank::2] for name, value in _batch(4, dtype=torch.float64).items()}
        own.append(_critic_gradients(Stepper(_critic(), torch.device("cpu")), [mine]))
    first, second = both["share-rounded"]
    for name, exact in both["share-1"][0].items():
        assert torch.equal(first[name], second[name])
        bound = 1.01 * BF16 * (own[0][name].abs() + own[1][name].abs())
        assert ((first[name] - exact).abs() <= bound).all()
    assert any(not torch.equal(exact, first[name]) for name, exact in both["share-1"][0].items())


def test_a_player_with_a_gradient_in_its_loss_sends_rounded_gradients_too(both):
    first, second = both["penalised-rounded"]
    for mine, other, exact in zip(*(work["moves"] for work in (first, second, both["penalised-1"][0])), strict=True):
        for one, same, gradient in zip(mine, other, exact, strict=True):
            assert torch.equal(one, same)
            assert not torch.equal(one, gradient)
            assert torch.equal(one, one.bfloat16().double())
            assert (one - gradient).norm() < 4 * BF16 * gradient.norm()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name


@pytest.mark.parametrize("name", ["rounded", "rounded-views"])
def test_two_workers_that_send_rounded_gradients_hold_identical_networks(both, name):
    first, second = both[name]
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        assert torch.equal(value, both["rounded"][0][key]), key
    assert any(not torch.equal(value, both["pix2pix"][0][key]) for key, value in first.items())


def test_gradients_that_are_not_copied_are_the_same(both):
    for key, value in both["views"][0].items():
        assert torch.equal(value, both["views"][1][key]), key
        assert torch.equal(value, both["pix2pix"][0][key]), key

"""No barrier: every peer trains at its own speed and pushes half of its weight to a random partner (push-sum, SGP)."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, wait
from typing import cast

import structlog
import torch
from torch import Tensor, nn

from lepton_p2p.errors import Closed, ConfigError, Dropped, IntegrityError, RoundRejected, StateLost
from lepton_p2p.gossip.account import ASK_AGAIN, EMPTY_ANSWERS
from lepton_p2p.identity import PeerId, peer_id
from lepton_p2p.jobs import GossipOptions, Job
from lepton_p2p.jobs.strategy_options import STRATEGIES
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.checkpoints import Place
from lepton_p2p.training.computing import computing
from lepton_p2p.training.post import Post
from lepton_p2p.training.schedule import lr_factor
from lepton_p2p.training.shards import ShardSampler
from lepton_p2p.training.snapshots import Snapshot, capture, restore
from lepton_p2p.training.strategies.base import Context, Report, Strategy, strategy

MAX_REJECTIONS = 3
TOLD = 2.0
"""Seconds that a peer at the end waits for others to confirm that they know; who does not, finds out by itself."""
SETTLING = 5.0
"""Seconds that a peer at the end waits for shares on their way; those that still are go back to their senders."""

log = structlog.get_logger()


def target_samples(job: Job, total: int) -> int:
    """After how many samples, summed over all peers, the training ends."""
    schedule = job.schedule
    ends = [schedule.passes * total] if schedule.passes is not None else []
    ends += [schedule.steps * job.batch_size] if schedule.steps is not None else []
    return min(ends)


def _own_state(snapshot: Snapshot) -> tuple[int, dict[PeerId, int], tuple[int, int]]:
    """What ``Gossip.capture`` adds; :class:`IntegrityError` if it is not there."""
    try:
        extra = snapshot.meta["extra"]
        counts = {peer_id(peer): int(count) for peer, count in extra["counts"].items()}
        number, place = map(int, extra["turns"])
        return int(extra["step"]), counts, (number, place)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise IntegrityError("the checkpoint was not written by strategy 'gossip'") from None


@strategy("gossip")
class Gossip(Strategy):
    """The model holds z = x / w, so that pushing leaves it as it is and only the weight w is halved; what comes in is
    mixed in proportion to the weights.  The optimizer is each peer's own.

    A founder has weight 1.  Whoever joins later has weight 0, asks, and takes half of a donor's; so does a peer without
    which the swarm has gone on, and gives up what it had.
    Which samples: a peer's own share (``shards.py``); every sample about equally often, not exactly once.
    At the end one round weighted by w makes all replicas equal.
    """

    def __init__(self, context: Context) -> None:
        if context.exchange is None:
            raise ConfigError("strategy 'gossip' needs a peer that can push to its partners")
        job, built = context.job, context.built
        self._context = context
        self._exchange = context.exchange
        self._options = cast(GossipOptions, STRATEGIES.make(job.strategy.name, job.strategy.options))
        self._model = built.model
        self._x, self._y = built.train
        self._optimizer = built.make_optimizer([p for p in self._model.parameters() if p.requires_grad])
        self._base_lr = [float(group["lr"]) for group in self._optimizer.param_groups]
        me = context.collective.me
        self._target = target_samples(job, len(self._x))
        self._post = Post(
            me, context.exchange, self._model, weight=1.0 if context.founder else 0.0, target=self._target
        )
        self._sampler = ShardSampler(len(self._x), self._options.blocks, job.seed, me)
        # Which partner is nobody's business but this peer's; the seed makes runs of tests repeatable.
        self._random = random.Random(f"{job.seed}/{me}")
        self._step = 0
        self._skipped = 0
        self._final = False

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def ready(self) -> bool:
        return self._final or self._post.weight > 0

    @property
    def place(self) -> Place:
        total = self._post.total
        return Place(self._step, total, total // len(self._x), total // self._context.job.batch_size)

    @property
    def founded(self) -> bool:
        return self._context.founder

    def capture(self) -> Snapshot:
        """This peer's own model and optimizer.  Not its push-sum weight, which lives and dies with the swarm's."""
        state = {"step": self._step, "counts": self._post.counts, "turns": self._sampler.turns}
        return capture(self._model, self._optimizer, round=self._step, extra=state)

    def resume(self, snapshot: Snapshot) -> None:
        """Only a founder does, with weight 1; who has weight 0 takes over a donor's model, as every newcomer."""
        if not self._context.founder:
            return
        step, counts, turns = _own_state(snapshot)
        restore(snapshot, self._model, self._optimizer)
        self._step = step
        self._post.merge(counts)
        self._sampler.resume(turns)

    @property
    def weight(self) -> float:
        """Push-sum weight w."""
        return self._post.weight

    @property
    def finished(self) -> bool:
        return self._post.total >= self._target

    def advance(self) -> Report:
        self._post.collect()
        self._post.clear_up()
        if self._post.weight <= 0:
            self._ask()
            return self._report()
        alive = self._exchange.alive()
        used, loss = self._train(alive)
        due = self._step % self._options.push_every == 0
        partner = self._post.next_partner(alive, due=due, choose=self._random.choice)
        if partner is not None:
            self._post.push_half(partner)
        return self._report(used, loss)

    def _ask(self) -> None:
        alive = self._exchange.alive()
        if self._post.nobody_has_any(alive, EMPTY_ANSWERS):
            raise StateLost("no living peer has any of the swarm's weights: start the swarm again with --job")
        self._post.ask(alive)
        self._post.wait(ASK_AGAIN)

    def _train(self, alive: tuple[PeerId, ...]) -> tuple[int, float | None]:
        """One local step; ``(samples used, their mean loss)``."""
        index = torch.from_numpy(self._sampler.batch(alive, self._context.job.batch_size))
        self._set_lr()
        self._model.train()
        self._optimizer.zero_grad()
        buffers = [buffer.clone() for buffer in self._model.buffers()]
        with computing("the model's forward and backward pass"):
            loss = self._context.built.loss_fn(self._model(self._x[index]), self._y[index])
            loss.backward()  # type: ignore[no-untyped-call]
            value = float(loss.detach())
        self._post.count(len(index))
        self._step += 1
        if self._finite():
            with computing("the optimizer's step"):
                self._optimizer.step()
            return len(index), value
        # One bad sample must not reach the parameters, from where it would spread through the whole swarm.
        for buffer, before in zip(self._model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self._skipped += len(index)
        log.warning("skipped a batch whose gradient is not finite", samples=len(index))
        return len(index), None

    def _finite(self) -> bool:
        grads = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        return all(bool(torch.isfinite(grad).all()) for grad in grads)

    def _set_lr(self) -> None:
        schedule = self._context.job.schedule
        done = min(1.0, self._post.total / self._target)
        factor = lr_factor(schedule, step=self._step, done=done)
        for group, base in zip(self._optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * factor

    def finish(self) -> Report:
        """One consensus round weighted by w; afterwards all replicas are equal."""
        self._post.close()
        told = self._post.tell_counts(self._exchange.alive())
        self._settle(told)
        return self._agree()

    def welcome(self) -> Report:
        return self._agree()

    def _agree(self) -> Report:
        for _ in range(MAX_REJECTIONS - 1):
            try:
                return self._consensus()
            except RoundRejected as rejected:
                log.warning("the last round had no result; trying again", reason=str(rejected))
            except Dropped as dropped:
                log.warning("dropped by the swarm in the last round; entering again", reason=str(dropped))
                self._final = False
                self._post.dropped()
        return self._consensus()

    def close(self) -> None:
        if not self._final and self._post.weight > 0 and self._exchange.alive():
            log.info("the push-sum weight of this peer leaves the swarm with it", weight=self._post.weight)
        self._post.close()

    def _settle(self, told: list[Future[bool]]) -> None:
        wait(told, timeout=TOLD)
        until = time.monotonic() + SETTLING
        while not self._post.settled and time.monotonic() < until:
            if self._context.stop.is_set():
                raise Closed("stopped while transfers were on their way")
            self._post.clear_up()
            self._post.collect()  # with something in the inbox nothing is waited for
            self._post.wait(ASK_AGAIN)
        self._post.settle()

    def _consensus(self) -> Report:
        state = [parameter.detach() for parameter in self._model.parameters()]
        buffers = [buffer for buffer in self._model.buffers() if buffer.dtype is not torch.bool]
        rounded = [buffer for buffer in buffers if not buffer.is_floating_point()]
        exact = [buffer for buffer in buffers if buffer.is_floating_point()]
        counts: list[Tensor] = [buffer.to(torch.float64) for buffer in rounded]
        # Who has the final state already passes it on; the weights of before say nothing any more.
        weight = 1.0 if self._final else self._post.weight
        result = self._context.collective.all_reduce([*state, *exact, *counts], op="mean", weight=weight)
        if not result.contributors:
            raise StateLost("nobody in the last round had any of the swarm's weights: start the swarm again with --job")
        for buffer, mean in zip(rounded, counts, strict=True):
            buffer.copy_(mean.round())
        self._final = True
        return self._report(result=result)

    def _report(self, used: int = 0, loss: float | None = None, result: RoundResult | None = None) -> Report:
        total, apart = self._post.total, self._post.disagreement
        return Report(
            step=self._step,
            pass_number=total // len(self._x),
            samples=total,
            new_samples=used,
            loss=loss,
            skipped=self._skipped,
            result=result,
            metrics={} if apart is None or result is not None else {"disagreement": apart},
        )

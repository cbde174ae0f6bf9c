"""The trials of a sweep in Optuna's store: who proposes them, and which of them are done. Needs Optuna.

A trial belongs to the sweep that added it, from its first entry on: sweeps of several machines share one study, and
each goes on with its own trials after a crash. Only the sweep's process asks and tells;
training knows nothing of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from microgpt import files
from microgpt.errors import MachineError, UsageError
from microgpt.experiments.spec import Scalar, Span, SweepSpec, is_whole

OWNER, PLACE, PROBLEM, BITS = "sweep", "place", "problem", "bits_per_byte"  # attributes of a trial
MEDIAN_OF = 4  # trials that must be done before one is pruned
RUNNING, COMPLETE, PRUNED, FAILED = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


JOURNAL = b'{"op_code":'  # how Optuna begins each line


class JournalLock:
    """The lock of a journal. It ends with its process, unlike Optuna's own, which kill -9 leaves behind.

    Whoever holds it may trust that nobody is writing, so a last line without an end is what a crash left of an
    entry; it is cut off, or the journal could not be read any more once another entry follows.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(journal.with_name(f"{journal.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        files.cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        self._lock.release()


class OfNumber(BaseSampler):
    """Proposes a trial from the seed and the trial's number, all of its values at once.

    A sampler with one seed would start over with each process and repeat itself; one that proposed value by value
    would go on elsewhere after a crash between two of them.
    """

    def __init__(self, space: dict[str, BaseDistribution], propose: Callable[[int], BaseSampler]) -> None:
        self._space, self._propose = space, propose

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Any:
        sampler = self._propose(trial.number)
        sampler.before_trial(study, trial)
        found = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        for name, distribution in search_space.items():
            if name not in found:
                found[name] = sampler.sample_independent(study, trial, name, distribution)
        return found

    def sample_independent(self, study: Any, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        raise AssertionError("all axes are proposed together")


class Grid(BaseSampler):
    """Proposes one given combination."""

    def __init__(self, values: dict[str, Scalar]) -> None:
        self._values = values

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Any:
        return dict(self._values)

    def sample_independent(self, study: Any, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._values[name]


class Study:
    """The study of a sweep, opened or created. `owner` names this sweep among those that share it."""

    def __init__(self, spec: SweepSpec, storage: str | Path, owner: str, place: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)
        self.spec, self.owner, self.place = spec, owner, place
        self._space = {key: distribution(key, axis) for key, axis in spec.axes.items()}
        pruner = optuna.pruners.MedianPruner(MEDIAN_OF) if spec.prune else optuna.pruners.NopPruner()
        self.study = optuna.create_study(
            storage=store(storage),
            study_name=f"microgpt-{spec.fingerprint()}",
            load_if_exists=True,
            direction="minimize",
            sampler=OfNumber(self._space, self._propose),
            pruner=pruner,
        )

    def _propose(self, number: int) -> BaseSampler:
        if self.spec.sampler == "grid":
            return Grid(self.spec.combinations()[number])
        seed = Random(f"{self.spec.seed} trial {number}").getrandbits(31)
        if self.spec.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, constant_liar=True)

    def trials(self) -> list[FrozenTrial]:
        """The study's trials, those of other sweeps too."""
        return self.study.get_trials(deepcopy=False)

    def begun(self) -> list[FrozenTrial]:
        """The trials that count, in the order of their numbers."""
        return [trial for trial in self.trials() if trial.number < self.spec.trials]

    def mine(self) -> list[int]:
        """The numbers of this sweep's trials that have begun and are not done."""
        found = []
        for trial in self.trials():
            if trial.state == RUNNING and trial.user_attrs.get(OWNER) == self.owner:
                if trial.number < self.spec.trials:
                    found.append(trial.number)
                else:  # two sweeps added the last one
                    self.tell(trial.number, None, "one too many")
        return found

    def add(self) -> bool:
        """Add a trial of this sweep, in one entry with its owner; False when there are as many as planned."""
        if len(self.trials()) >= self.spec.trials:
            return False
        attributes = {OWNER: self.owner, PLACE: self.place}
        self.study.add_trial(optuna.trial.create_trial(state=RUNNING, user_attrs=attributes))
        return True

    def _trial(self, number: int) -> Any:
        return optuna.trial.Trial(self.study, self.trials()[number]._trial_id)

    def params(self, number: int) -> dict[str, Scalar]:
        """The values of a trial, proposed where it has none yet."""
        trial = self._trial(number)
        for key, axis in self._space.items():
            trial._suggest(key, axis)
        return dict(trial.params)

    def report(self, number: int, values: dict[int, float]) -> bool:
        """Record the objective by steps; whether the trial should end, being worse than the others there."""
        trial, known = self._trial(number), self.trials()[number].intermediate_values
        prune = False
        for step, value in values.items():
            if step not in known:
                trial.report(value, step)
                prune = prune or trial.should_prune()
        return prune

    def tell(
        self,
        number: int,
        value: float | None,
        problem: str = "",
        *,
        pruned: bool = False,
        bits_per_byte: float | None = None,
    ) -> None:
        """Record how a trial ended: with a value, pruned, or failed with a problem."""
        trial = self._trial(number)
        for key, each in {PROBLEM: problem or None, BITS: bits_per_byte}.items():
            if each is not None:
                trial.set_user_attr(key, each)
        state = PRUNED if pruned else COMPLETE if value is not None else FAILED
        self.study.tell(number, value if state == COMPLETE else None, state=state)


def distribution(key: str, axis: list[Scalar] | Span) -> BaseDistribution:
    """Optuna's distribution of an axis."""
    if isinstance(axis, list):
        return CategoricalDistribution(axis)
    low, high = axis.ends
    if is_whole(key):
        return IntDistribution(int(low), int(high), log=bool(axis.log), step=int(axis.step or 1))
    return FloatDistribution(low, high, log=bool(axis.log), step=axis.step)


def _require_journal(path: Path) -> None:
    """Raises MachineError for a file that is none, before its last line is taken for what a crash left."""
    with files.open_plain(path) as file:
        head = file.read(len(JOURNAL))
    if not JOURNAL.startswith(head):
        raise MachineError(f"{path}: damaged, or no journal of a sweep; name another file")


def store(storage: str | Path) -> BaseStorage:
    """A journal file, or the database of a URL. Raises UsageError, MachineError."""
    if isinstance(storage, str) and "://" in storage:
        try:
            return optuna.storages.get_storage(storage)
        except ImportError as error:
            raise MachineError(f"--storage: its driver is not installed ({error})") from None
        except Exception as error:  # of the database, its driver or its URL, each with classes of its own
            raise UsageError(f"--storage: cannot be opened ({' '.join(str(error).split())[:200]})") from None
    journal = Path(storage)
    if not journal.name:
        raise UsageError(f"--storage {journal}: is a folder; name a file in it")
    with files.disk("be opened", journal):
        files.make_folders(journal.parent)
        lock = JournalLock(journal)
        if journal.exists():
            _require_journal(journal)
            lock.acquire()
            lock.release()
        try:
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
        except (ValueError, KeyError, TypeError) as error:
            raise MachineError(f"{journal}: damaged, no journal of a sweep ({error})") from None

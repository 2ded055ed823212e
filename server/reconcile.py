"""Makes what is served what is desired: `serving.yaml`, or without it the highest version of every model there is.

By polling, because changes of mounted folders raise no events. A model is loaded and warmed beside the one that it
replaces, takes its place in one step, and the old one is closed after its last request, before the next one is loaded:
at any time at most one model more than desired is in memory. What cannot be served is reported and changes nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from server.catalog import LATEST, Catalog, Found, Stamp, Version
from server.errors import CannotServe, CannotWrite, ServingError, StartupError, UnknownModel
from server.metrics import Observer
from server.models import Models, ServedModel, load_model
from server.serving_file import Entry, FileStamp, read_serving, write_serving
from server.settings import Settings

logger = logging.getLogger("neurotrails")


@dataclass(frozen=True)
class ModelState:
    """What is desired of a model, and what is."""

    name: str
    desired: str | None
    """A version, or LATEST; None: not to be served."""
    available: tuple[str, ...]
    """Versions on the search path, highest first."""
    live: str | None
    loading: str | None
    retiring: str | None
    """Version that finishes its last requests."""
    failure: str | None
    """Why it is not served as desired."""


@dataclass(frozen=True)
class _Desired:
    """What should be served, and what there is to serve."""

    entries: Mapping[str, Entry]
    found: Found
    file: FileStamp | None
    """None where there is no file, so that everything is desired that was found."""


@dataclass(frozen=True)
class _Plan:
    """A model in one version, to be served in one way."""

    version: Version
    engine: str | None
    precision: str | None
    min_heads: int | None


@dataclass(frozen=True)
class _Failure:
    reason: str
    attempt: tuple[_Plan | None, Stamp, FileStamp | None]
    """What was tried: it is tried again when the plan, the artifact's folder or the file has changed."""


class Reconciler:
    """Follows the desired state. But for threads that only look and load, everything is on the event loop."""

    def __init__(self, settings: Settings, models: Models, observer: Observer) -> None:
        self._settings = settings
        self._models = models
        self._observer = observer
        self._catalog = Catalog(settings.models)
        self._desired = _Desired({}, Found({}, ()), None)
        self._had_file = False
        self._plans: dict[str, _Plan] = {}
        self._failures: dict[str, _Failure] = {}
        self._problem: str | None = None
        self._loading: Version | None = None
        self._retiring: ServedModel | None = None
        self._noted: set[tuple[str, str]] = set()
        self._one_round = asyncio.Lock()
        self._one_writer = asyncio.Lock()
        self._woken = asyncio.Event()
        self._stopping = False

    async def start_up(self) -> None:
        """Load what is desired now, all of it. Raises StartupError naming what cannot be served."""
        try:
            desired = await asyncio.to_thread(self._look)
            if desired.file is None and desired.found.problems:
                raise ServingError(desired.found.problems[0])
            if desired.file is None and not desired.entries:
                folders = ", ".join(repr(str(folder)) for folder in self._settings.models)
                several = len(self._settings.models) > 1
                raise ServingError(
                    f"The models folder{'s' if several else ''} {folders} hold{'' if several else 's'} no artifact."
                )
            self._desired = desired
            for name in sorted(desired.entries):
                if not self._stopping:
                    await self._serve(self._plan(name))
        except ServingError as error:
            raise StartupError(str(error)) from error

    async def follow(self) -> None:
        """Reconcile at once when woken, else every `poll_seconds`, until stopped."""
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._settings.poll_seconds)
            self._woken.clear()
            if not self._stopping:
                try:
                    await self.reconcile()
                except Exception:
                    logger.exception("Looking after the models failed; it is tried again.")

    def stop(self) -> None:
        """Begin nothing more; what is being loaded is finished and closed."""
        self._stopping = True
        self._woken.set()

    async def reconcile(self) -> None:
        """Look at what is desired, and do it: unload, then load one model after another."""
        async with self._one_round:
            try:
                self._desired = desired = await asyncio.to_thread(self._look)
            except ServingError as error:
                if str(error) != self._problem:
                    logger.error("%s What is served goes on.", error)
                self._problem = str(error)
            else:
                self._problem = None
                await self._apply(desired)
            self._observer.problems_changed(len(self.problems()))

    def states(self) -> tuple[ModelState, ...]:
        """Return the state of every model that is desired, available or served, by name."""
        live = {card.manifest.name: card.manifest.version for card in self._models.cards}
        loading = {each.name: each.version for each in (self._loading,) if each}
        retiring = {each.name: each.card.manifest.version for each in (self._retiring,) if each}
        desired, failures = self._desired, self._failures
        return tuple(
            ModelState(
                name=name,
                desired=desired.entries[name].version if name in desired.entries else None,
                available=desired.found.newest_first(name),
                live=live.get(name),
                loading=loading.get(name),
                retiring=retiring.get(name),
                failure=failures[name].reason if name in failures else None,
            )
            for name in sorted({*live, *loading, *retiring, *desired.entries, *desired.found.versions})
        )

    def problems(self) -> tuple[str, ...]:
        """Return why what is served is not what is desired: nothing where it is."""
        reasons = (failure.reason for _, failure in sorted(self._failures.items()))
        return (*reasons,) if self._problem is None else (self._problem, *reasons)

    async def want(self, name: str, entry: Entry | None) -> None:
        """Write to the file that a model is to be served, as `entry` says; None: as before, or in its highest version.

        Raises UnknownModel, CannotServe or CannotWrite.
        """
        async with self._one_writer:
            desired = await self._look_before_writing()
            if entry is None:
                entry = desired.entries.get(name, Entry())
            try:
                desired.found.find(name, entry.version)
            except ServingError as error:
                versions = desired.found.newest_first(name)
                if not versions:
                    raise UnknownModel("unknown_model", str(error)) from error
                if entry.version not in (LATEST, *versions):
                    raise UnknownModel("unknown_version", str(error)) from error
                raise CannotServe("cannot_serve", str(error)) from error
            await self._write({**desired.entries, name: entry})

    async def unwant(self, name: str) -> None:
        """Write to the file that a model is not to be served. Raises UnknownModel, CannotServe or CannotWrite."""
        async with self._one_writer:
            desired = await self._look_before_writing()
            if name not in desired.entries:
                known = ", ".join(sorted(desired.entries)) or "none"
                raise UnknownModel("unknown_model", f"Model {name[:100]!r} is not desired; what is: {known}.")
            await self._write({other: entry for other, entry in desired.entries.items() if other != name})

    async def _look_before_writing(self) -> _Desired:
        try:
            return await asyncio.to_thread(self._look)
        except ServingError as error:
            raise CannotServe("cannot_serve", f"Nothing was written: {error}") from error

    async def _write(self, entries: Mapping[str, Entry]) -> None:
        try:
            await asyncio.to_thread(write_serving, self._settings.serving_file, entries)
        except ServingError as error:
            raise CannotWrite("cannot_write", str(error)) from error
        self._woken.set()

    def _look(self) -> _Desired:
        """Read the search path and the file. Raises ServingError."""
        found = self._catalog.scan()
        file = self._settings.serving_file
        reading = read_serving(file)
        if reading is not None:
            self._had_file = True
            return _Desired(reading.models, found, reading.stamp)
        if self._had_file:
            raise ServingError(f"{file} is gone. Write it again; only a restart goes back to serving without it.")
        return _Desired({name: Entry() for name in found.versions}, found, None)

    async def _apply(self, desired: _Desired) -> None:
        if desired.file is not None:  # without it, a folder that vanishes is no wish to unload
            for name in sorted(set(self._plans) - set(desired.entries)):
                await self._unload(name)
        for name in sorted(set(self._failures) - set(desired.entries)):
            del self._failures[name]
        for name in sorted(desired.entries):
            if self._stopping:
                return
            await self._try(name)

    async def _try(self, name: str) -> None:
        """Serve a model as desired; where that fails, note why, and do not try the same again."""
        desired, known = self._desired, self._failures.get(name)
        try:
            plan = self._plan(name)
        except ServingError as error:
            failure = _Failure(str(error), (None, (), desired.file))
            if failure != known:  # nothing was tried, so only news are worth a line
                self._note_failure(name, failure)
            return
        attempt = plan, plan.version.stamp, desired.file
        if self._plans.get(name) != plan:
            if known is not None and known.attempt == attempt:
                return
            try:
                await self._serve(plan)
            except ServingError as error:
                self._note_failure(name, _Failure(str(error), attempt))
                return
        self._failures.pop(name, None)

    def _note_failure(self, name: str, failure: _Failure) -> None:
        self._failures[name] = failure
        goes_on = f" Version {self._plans[name].version.version} goes on." if name in self._plans else ""
        logger.error("%s%s", failure.reason, goes_on)
        self._observer.model_failed(name)

    def _plan(self, name: str) -> _Plan:
        entry = self._desired.entries[name]
        version = self._desired.found.find(name, entry.version)
        return _Plan(version, entry.engine, entry.precision, entry.min_heads)

    async def _serve(self, plan: _Plan) -> None:
        """Load a model, let it take the place of the one before, and close that. Raises ServingError."""
        version = plan.version
        entry = self._desired.entries[version.name]
        self._loading = version
        try:
            served = await asyncio.to_thread(load_model, version, entry, self._settings, self._observer)
        finally:
            self._loading = None
        before = self._models.put(served)
        self._plans[version.name] = plan
        self._announce(served)
        if before is not None:
            await self._retire(before)

    async def _unload(self, name: str) -> None:
        removed = self._models.remove(name)
        del self._plans[name]
        await self._retire(removed)

    async def _retire(self, model: ServedModel) -> None:
        self._retiring = model
        try:
            await model.close()
        except Exception:  # whatever an engine raises: the model is gone all the same
            logger.exception("Closing model %s version %s failed.", model.name, model.card.manifest.version)
        finally:
            self._retiring = None
            self._observer.model_retired(model.card)
        logger.info("Model %s version %s is unloaded.", model.name, model.card.manifest.version)

    def _announce(self, served: ServedModel) -> None:
        manifest, engine = served.card.manifest, served.card.engine
        logger.info(
            "Serving %s version %s (%s, %d heads, %s) with %s %s on %d core(s).",
            manifest.name, manifest.version, manifest.modality, len(manifest.heads), engine.precision,
            engine.name, engine.version, engine.cores,
        )  # fmt: skip
        self._observer.model_loaded(served.card)
        for note in engine.notes:
            if (engine.name, note) not in self._noted:
                self._noted.add((engine.name, note))
                logger.warning("%s: %s", engine.name, note)

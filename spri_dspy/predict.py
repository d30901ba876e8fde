"""RolePredict: a DSPy predictor that knows its role and does not lose it.

DSPy's optimisers reset predictors and so drop their LMs (a critic would silently be answered by someone else);
they retry nothing when an answer cannot be read; and they save LMs into state files. RolePredict keeps its LM
through reset, copies and loading, asks again for an unreadable answer with a new sample, shows each input only
the demos of its group, and saves prompts and demos alone. It knows no task.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import dspy
from dspy.utils.exceptions import AdapterParseError

from spri_dspy.adapters import STYLES, ChatStyle, adapter_of
from spri_dspy.answers import scale_of, shape_of
from spri_dspy.errors import UnreadableAnswer, UsageError
from spri_dspy.evidence import current
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.scope import forget, is_watched
from spri_dspy.lms.spec import CALL, Call, load_lm
from spri_dspy.lms.streaming import room_in_stream
from spri_dspy.nearest import Embedder, nearest
from spri_dspy.parsing import is_degenerate
from spri_dspy.records import Usage
from spri_dspy.trampoline import adrive, drive

logger = logging.getLogger(__name__)

ASK_AGAIN = 2
"""How many more samples an unreadable answer gets."""

_WARM = 0.7
"""Temperature of a second sample from an LM that is otherwise greedy and would say the same again."""


class RolePredict(dspy.Predict):
    """A predictor for one stage of a program.

    Args:
        signature: the stage's signature.
        role: which LM answers: "base", "critic" or "judge".
        stage: the stage's name, for traces and recordings; the signature's name by default.
        **config: as for dspy.Predict.

    Attributes:
        show: which demos a call shows: "group" (those of its group and of no group), "all", or "nearest:K" (the K
            whose inputs are nearest to the call's, whatever their group). Saved.
        embed: what nearness is told by, TF-IDF if None; see `nearest.Embedder`. Not saved.

    Calls take the signature's inputs and two more keywords: `group`, the example's group (demos of other groups
    are left out), and `rollout`, 0 for the first sample.

    Raises:
        UnreadableAnswer: none of the samples could be read (3 LM calls at most).
    """

    show: str
    embed: Embedder | None
    signature: Any  # a Signature class; DSPy declares an instance

    # DSPy looks at every attribute that is asked for, in case it is `forward`: ten times a call.
    if not TYPE_CHECKING:
        __getattribute__ = object.__getattribute__

    def __init__(
        self,
        signature: type[dspy.Signature] | str,
        *,
        role: str = "base",
        stage: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(signature, **config)
        self.role = role
        self.show, self.embed = "group", None
        self.stage_name = stage or self.signature.__name__

    def reset(self) -> None:
        """Forget demos and traces; keep the LM."""
        lm = self.__dict__.get("lm")
        super().reset()
        self.lm = lm

    def forward(self, **kwargs: Any) -> dspy.Prediction:
        """One readable answer."""

        def ask(step: _Step) -> dspy.Prediction:
            with _Surroundings(step.call, step.adapter):
                return super(RolePredict, self).forward(**step.arguments)

        return drive(self._plan(kwargs), ask)

    async def acall(self, *args: Any, **kwargs: Any) -> dspy.Prediction:
        """One readable answer, without blocking; DSPy's own `acall` where someone watches."""
        if args or self.callbacks or is_watched():
            return await super().acall(*args, **kwargs)
        return await self.aforward(**kwargs)

    async def aforward(self, **kwargs: Any) -> dspy.Prediction:
        """One readable answer, without blocking."""

        async def ask(step: _Step) -> dspy.Prediction:
            if self._is_plain(step):
                return await self._answered(step)
            await room_in_stream()
            with _Surroundings(step.call, step.adapter):
                return await super(RolePredict, self).aforward(**step.arguments)

        return await adrive(self._plan(kwargs), ask)

    def _is_plain(self, step: _Step) -> bool:
        """Whether a call is text alone, about which DSPy has nothing to work out and to tell nobody."""
        shape, lm = shape_of(self.signature), step.lm
        if type(step.adapter) is not ChatStyle or not isinstance(lm, ScopedLM) or not shape.is_plain:
            return False
        if (
            step.config
            or self.config
            or self.fields
            or lm.kwargs.get("n")
            or lm.kwargs.get("num_generations")
        ):
            return False
        return step.inputs.keys() == shape.inputs.keys() and not (step.adapter.callbacks or is_watched())

    async def _answered(self, step: _Step) -> dspy.Prediction:
        """What `dspy.Predict.aforward` gives for a call that `_is_plain`, without its steps that have no effect."""
        adapter, signature, token = STYLES["chat"], self.signature, CALL.set(step.call)
        try:
            outputs = await step.lm.acall(messages=adapter.messages(signature, step.demos, step.inputs))
        finally:
            CALL.reset(token)
        values = adapter.read(signature, outputs, step.lm)
        if dspy.settings.trace is None:
            return dspy.Prediction.from_completions(values, signature=signature)
        return self._forward_postprocess(values, signature, **step.inputs)

    def _plan(self, kwargs: dict[str, Any]) -> Generator[_Step, dspy.Prediction, dspy.Prediction]:
        """Yield calls, receive predictions, until an answer can be read."""
        group, rollout = kwargs.pop("group", None), kwargs.pop("rollout", 0)
        lm = kwargs.pop("lm", None) or self.lm or dspy.settings.lm or _offline()
        demos = self._shown(kwargs.pop("demos", self.demos), group, kwargs)
        demos = demos and _whole(demos, self.signature)
        config, keys, unreadable = kwargs.pop("config", {}), list[str](), None
        adapter, evidence, number = adapter_of(lm), current(), 0
        for sample in range(ASK_AGAIN + 1):
            number = rollout * (ASK_AGAIN + 1) + sample
            call = Call(
                self.stage_name,
                self.role,
                number,
                outer=dspy.settings.usage_tracker,
                example=evidence.example,
            )
            settings = {**config, **_new_sample(lm, number)} if number else config
            try:
                answer = yield _Step(call, adapter, lm, demos, settings, kwargs)
                self._flag(call, lm, answer.values())
                if call.finish_reason == "length":
                    _unscore(answer, self.signature, call.answer or "")
                return answer
            except AdapterParseError as error:
                unreadable = error
                self._flag(call, lm, [error.lm_response])
                logger.debug("%s: an answer that cannot be read: %s", call, _shortened(error.lm_response))
            except (Exception, GeneratorExit) as error:  # the latter if the call was cancelled
                evidence.failed.append((error, self.stage_name, number))
                raise
            finally:
                tokens = call.input_tokens, call.output_tokens, call.reused_tokens
                used = Usage(call.made, call.cached, *tokens)
                evidence.add_usage(self.role, used)
            keys += call.keys
        forget(keys)  # or a later try of this example would be given the same unreadable answers
        text = str(getattr(unreadable, "lm_response", None) or "")
        error = UnreadableAnswer(
            f"{self.stage_name}: no readable answer in {ASK_AGAIN + 1} samples; last: {_shortened(text)}",
            text,
        )
        evidence.failed.append((error, self.stage_name, number))
        raise error from unreadable

    def _flag(self, call: Call, lm: Any, texts: Iterable[Any]) -> None:
        """Note of an answer that it was cut off, or that it repeats itself to its end."""
        flags, is_cut_off = current().flags, call.finish_reason == "length"
        if is_cut_off:
            flags[f"truncated:{self.stage_name}"] = None
            logger.info("%s: an answer was cut off at max_tokens", call)
            _warn_once(lm)
        if any(isinstance(text, str) and is_degenerate(text, is_cut_off=is_cut_off) for text in texts):
            flags[f"degenerate:{self.stage_name}"] = None
            logger.info("%s: an answer repeats itself to its end", call)

    def _shown(self, demos: Sequence[Any], group: str | None, inputs: Mapping[str, Any]) -> list[Any]:
        """The demos for one call, by `show`; of nearest ones the nearest stands last, beside the input."""
        kind, _, count = self.show.partition(":")
        if kind == "group":
            return demos_of_group(demos, group)
        if kind == "all":
            return list(demos)
        names = [name for name in self.signature.input_fields if name in inputs]
        texts = ["\n".join(str(demo.get(name, "")) for name in names) for demo in demos]
        chosen = nearest("\n".join(str(inputs[name]) for name in names), texts, int(count), self.embed)
        return [demos[i] for i in reversed(chosen)]

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Instructions, field descriptions, demos and which of them are shown; never the LM."""
        twin = copy.copy(
            self
        )  # another thread may be calling this predictor, which must keep its LM meanwhile
        twin.lm = None
        return {**dspy.Predict.dump_state(twin, json_mode=json_mode), "show": self.show}

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> RolePredict:
        """Take over instructions, field descriptions, demos and which are shown; the LM stays.

        Raises:
            UsageError: it is no saved predictor, or that of a signature with other fields.
        """
        lm = self.lm
        super().load_state(harmless_state(self, self.stage_name, state), allow_unsafe_lm_state=False)
        self.lm = lm
        return self


_SAVED = ("traces", "train", "demos", "signature", "show")


def harmless_state(predictor: Any, name: str, state: Any) -> dict[str, Any]:
    """What of a saved predictor is taken over: neither its LM nor a setting of its calls, such as an address.

    Anything else in a file could replace the predictor's methods.

    Raises:
        UsageError: it is no saved predictor, or that of a signature with other fields.
    """
    wrong = _wrong_part(state)
    if wrong:
        raise UsageError(f"the saved {name} is no predictor's: {wrong}")
    saved = len(state["signature"]["fields"])
    if saved != len(predictor.signature.fields):
        raise UsageError(
            f"the saved {name} has {saved} fields, this program's has {list(predictor.signature.fields)}: "
            "it was saved for another task or version"
        )
    check_show(state.get("show", "group"))
    return {key: value for key, value in state.items() if key in _SAVED} | {"lm": None}


def _wrong_part(state: Any) -> str | None:
    """Which part of a saved predictor has the wrong shape, None if it is sound."""
    signature = state.get("signature") if isinstance(state, dict) else None
    if not isinstance(signature, dict):
        return "it has no signature"
    if not isinstance(signature.get("instructions"), str):
        return "its instructions are no text"
    fields, demos = signature.get("fields"), state.get("demos", [])
    texts = ("prefix", "description")
    if not _all_dicts(fields) or not all(isinstance(each.get(n), str) for each in fields for n in texts):
        return "its fields have no prefix and description"
    if not _all_dicts(demos) or not all(_all_dicts(state.get(n, [])) for n in ("traces", "train")):
        return "its demos are no list of examples"
    return None if isinstance(state.get("show", "group"), str) else "its show is no text"


def _all_dicts(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def check_show(show: str) -> str:
    """A setting for which demos are shown: "group", "all" or "nearest:K".

    Raises:
        UsageError: it is none of these.
    """
    kind, _, count = show.partition(":")
    if show in ("group", "all") or (kind == "nearest" and count.isdigit() and int(count) > 0):
        return show
    raise UsageError(f"seeds are shown by group, all or nearest:K, not {show!r}")


def demos_of_group(demos: Sequence[Any], group: str | None) -> list[Any]:
    """The demos to show: those of the group, and those of no group. Without a group: all."""
    if group is None:
        return list(demos)
    return [demo for demo in demos if demo.get("group") in (None, group)]


def _whole(demos: list[Any], signature: type[dspy.Signature]) -> list[Any]:
    """The demos less those that an optimiser took from an unscored critique: they would teach the critic just that."""
    return [demo for demo in demos if all(demo.get(name, "") is not None for name in signature.output_fields)]


def _unscore(answer: dspy.Prediction, signature: Any, said: str) -> None:
    """Take ratings and choices out of an answer that was cut off: they may be half of one, or a quotation.

    The published way to read scores takes whatever stands there, and so keeps it.

    Raises:
        AdapterParseError: an output holds a rating among its own fields and cannot do without.
    """
    for name, info in signature.output_fields.items():
        extra, kind = info.json_schema_extra, info.annotation
        is_published = isinstance(extra, dict) and extra.get("read") == "published"
        if (scale_of(kind) or hasattr(kind, "choices")) and not is_published:
            answer[name] = None
        elif any(scale_of(part.annotation) for part in getattr(kind, "model_fields", {}).values()):
            raise AdapterParseError("RolePredict", signature, said, message=f"the field {name!r} was cut off")


def _warn_once(lm: Any) -> None:
    """Say once a model, by the name its user gave it, that an answer was cut off; how many were, totals say."""
    spec, most = getattr(lm, "spec", None), lm.kwargs.get("max_tokens")
    known = str(spec or lm.model)
    if known in _cut_off:
        return
    _cut_off.add(known)
    logger.warning(
        "%s: an answer was cut off at max_tokens%s; records name the stages that this happens to",
        getattr(spec, "model", lm.model),
        f"={most}" if most else "",
    )


_cut_off = set[str]()
"""LM strings of which this was said."""


def _shortened(text: Any) -> str:
    text = str(text or "")
    return repr(text[:80] + ("..." if len(text) > 80 else ""))


class _Step(NamedTuple):
    call: Call
    adapter: Any
    lm: Any
    demos: list[Any]
    config: Mapping[str, Any]
    inputs: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What `dspy.Predict` takes."""
        return {**self.inputs, "lm": self.lm, "demos": self.demos, "config": dict(self.config)}


class _Surroundings:
    """DSPy's settings and the call in progress, for the length of one LM call."""

    __slots__ = ("_call", "_context", "_token")

    def __init__(self, call: Call, adapter: Any) -> None:
        self._call = call
        self._context = dspy.context(adapter=adapter, usage_tracker=call, warn_on_type_mismatch=False)

    def __enter__(self) -> None:
        self._context.__enter__()
        self._token = CALL.set(self._call)

    def __exit__(self, *error: Any) -> None:
        CALL.reset(self._token)
        self._context.__exit__(*error)


def _new_sample(lm: Any, rollout: int) -> Mapping[str, Any]:
    """LM settings that make a second sample differ from the first."""
    temperature = lm.kwargs.get("temperature")
    return {"rollout_id": rollout, "temperature": temperature or _WARM}


def _offline() -> dspy.LM:
    """The stand-in, when no LM was named anywhere; it says so itself, once."""
    global _stand_in
    if _stand_in is None:
        _stand_in = load_lm("offline")
    return _stand_in


_stand_in: dspy.LM | None = None
